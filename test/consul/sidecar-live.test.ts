// A sidecar that follows the configuration of a real agent while connections are open.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { readAll } from '../fixtures/mesh.js'
import {
  echo,
  isRefused,
  localConnect,
  nextData,
  startApplication,
  startPair,
  startProxy,
} from '../proxy/connect-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { createQuery, instances, register, until } from './service-mesh.js'

test('a sidecar that follows a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const application = await startApplication(t, echo)
  await startPair(t, consul.address, application.port)
  await until('api is known', async () => (await instances(consul, 'api')) === 1)
  await createQuery(consul, { Name: 'nearest-api', Service: { Service: 'api', Near: '_agent' } })
  const [steadyPort, queryPort, movedPort] = [await freePort(), await freePort(), await freePort()]
  // The agent derives the registration of the proxy from this definition.
  const define = (upstreams: readonly object[], proxy: object = {}): Promise<unknown> =>
    register(consul, {
      Name: 'web',
      ID: 'web-1',
      Port: application.port,
      Connect: { SidecarService: { Proxy: { Upstreams: upstreams, ...proxy } } },
    })
  const steady = { DestinationName: 'api', LocalBindPort: steadyPort }
  const nearest = { DestinationType: 'prepared_query', DestinationName: 'nearest-api' }
  await define([steady, { ...nearest, LocalBindPort: queryPort }])
  const proxy = await startProxy(t, consul.address, ['-sidecar-for', 'web-1'], {
    ready: ['public listener is open', 'upstream is open', 'upstream is open'],
  })

  await t.test('serves the configuration of the definition', async (t) => {
    for (const port of [steadyPort, queryPort]) {
      const socket = localConnect(t, port)
      socket.end('hello')
      assert.equal(await readAll(socket), 'hello')
    }
    assert.equal((await proxy.admin('/ready')).status, 200)
    // The agent runs the check every ten seconds.
    await until('the check of the proxy is passing', async () => (await instances(consul, 'web')) === 1)
  })

  await t.test('applies changes without affecting unchanged upstreams', async (t) => {
    const before = Array.from({ length: 8 }, () => exchange(t, steadyPort))
    const change = async (...upstreams: object[]): Promise<void> => {
      const from = proxy.lines.length
      await define([steady, ...upstreams])
      await proxy.logged('configuration applied', from)
    }
    for (let i = 0; i < 5; i += 1) {
      await change({ ...nearest, LocalBindPort: movedPort })
      await until(
        'the upstream has moved',
        async () => (await isRefused(queryPort)) && !(await isRefused(movedPort)),
      )
      const socket = localConnect(t, movedPort)
      socket.write('moved')
      assert.equal(await nextData(socket), 'moved')
      socket.end()
      await change({ ...nearest, LocalBindPort: queryPort, Config: { connect_timeout_ms: 1_000 + i } })
      await until(
        'the upstream has moved back',
        async () => (await isRefused(movedPort)) && !(await isRefused(queryPort)),
      )
    }
    await change()
    await until('the upstream is closed', () => isRefused(queryPort))
    for (const { finish } of before) await finish()
    const opened = proxy.lines.filter(
      ({ msg, address }) => msg === 'upstream is open' && address === at(steadyPort),
    )
    assert.equal(opened.length, 1)
  })

  await t.test('keeps serving with an invalid value, and logs it', async (t) => {
    const from = proxy.lines.length
    await define([steady], { Config: { max_inbound_connections: 'many' } })
    await proxy.logged(
      ({ msg }) => /^max_inbound_connections: expected a whole number above 0.*"many"/.test(msg),
      from,
    )
    const socket = localConnect(t, steadyPort)
    socket.end('still open')
    assert.equal(await readAll(socket), 'still open')
  })

  await t.test('serves without the agent, and follows it again when it returns', async (t) => {
    const open = localConnect(t, steadyPort)
    open.write('a')
    assert.equal(await nextData(open), 'a')
    await consul.kill()
    open.write('b')
    assert.equal(await nextData(open), 'b')
    const fresh = localConnect(t, steadyPort)
    fresh.write('c')
    assert.equal(await nextData(fresh), 'c')
    await consul.restart()
    const from = proxy.lines.length
    await define([steady, { ...nearest, LocalBindPort: movedPort }])
    await proxy.logged(({ msg, address }) => msg === 'upstream is open' && address === at(movedPort), from)
    open.end()
    fresh.end()
  })
})

function at(port: number): string {
  return `127.0.0.1:${port}`
}

/** Sends pieces over an echo connection until `finish()`, which asserts that all of them came back. */
function exchange(t: TestContext, port: number): { readonly finish: () => Promise<void> } {
  const socket: Socket = localConnect(t, port)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  const piece = randomBytes(20_000)
  let [remaining, rounds, stopping] = [0, 0, false]
  const send = (): void => {
    remaining = piece.length
    rounds += 1
    sent.update(piece)
    socket.write(piece)
  }
  socket.on('data', (chunk: Buffer) => {
    received.update(chunk)
    remaining -= chunk.length
    if (remaining > 0) return
    if (stopping) socket.end()
    else send()
  })
  const ended = new Promise<void>((resolve, reject) => {
    socket.once('end', resolve).once('error', reject)
  })
  // finish() awaits the promise.
  ended.catch(() => undefined)
  send()
  return {
    finish: async () => {
      stopping = true
      await until('the connection has ended', () => socket.readableEnded || socket.destroyed)
      await ended
      assert.ok(rounds > 1)
      assert.equal(received.digest('hex'), sent.digest('hex'))
    },
  }
}
