// A sidecar whose configuration comes from a real agent, and changes there while connections are open.
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
import { agentJson, instances, register, until } from './service-mesh.js'

test('a sidecar that follows a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const application = await startApplication(t, echo)
  await startPair(t, consul.address, application.port)
  await until('api is known', async () => (await instances(consul, 'api')) === 1)
  await agentJson(consul, '/v1/query', {
    method: 'POST',
    body: JSON.stringify({ Name: 'nearest-api', Service: { Service: 'api', Near: '_agent' } }),
  })
  const [steadyPort, queryPort, movedPort] = [await freePort(), await freePort(), await freePort()]
  // As an operator writes it: the agent makes the proxy's registration of it.
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

  await t.test('serves what the agent made of the definition', async (t) => {
    for (const port of [steadyPort, queryPort]) {
      const socket = localConnect(t, port)
      socket.end('hello')
      assert.equal(await readAll(socket), 'hello')
    }
    assert.equal((await proxy.admin('/ready')).status, 200)
    // The agent looks every ten seconds.
    await until('its check passes', async () => (await instances(consul, 'web')) === 1)
  })

  await t.test('changes by difference, and the untouched connections lose nothing', async (t) => {
    const before = Array.from({ length: 8 }, () => exchange(t, steadyPort))
    const change = async (...upstreams: object[]): Promise<void> => {
      const from = proxy.lines.length
      await define([steady, ...upstreams])
      await proxy.logged('configuration applied', from)
    }
    for (let i = 0; i < 5; i += 1) {
      await change({ ...nearest, LocalBindPort: movedPort })
      await until('it has moved', async () => (await isRefused(queryPort)) && !(await isRefused(movedPort)))
      const socket = localConnect(t, movedPort)
      socket.write('moved')
      assert.equal(await nextData(socket), 'moved')
      socket.end()
      await change({ ...nearest, LocalBindPort: queryPort, Config: { connect_timeout_ms: 1_000 + i } })
      await until('it is back', async () => (await isRefused(movedPort)) && !(await isRefused(queryPort)))
    }
    await change()
    await until('it is gone', () => isRefused(queryPort))
    for (const one of before) await one.finish()
    const opened = proxy.lines.filter(
      ({ msg, address }) => msg === 'upstream is open' && address === at(steadyPort),
    )
    assert.equal(opened.length, 1)
  })

  await t.test('serves on when a value is wrong, and says which', async (t) => {
    const from = proxy.lines.length
    await define([steady], { Config: { max_inbound_connections: 'many' } })
    await proxy.logged(
      ({ msg }) => /^max_inbound_connections: expected a whole number above 0.*"many"/.test(msg),
      from,
    )
    const socket = localConnect(t, steadyPort)
    socket.end('still here')
    assert.equal(await readAll(socket), 'still here')
  })

  await t.test('outlives its agent, and follows it again when it is back', async (t) => {
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

/** Sends pieces and waits for each to come back, until it is told to finish. */
function exchange(t: TestContext, port: number): { readonly finish: () => Promise<void> } {
  const socket: Socket = localConnect(t, port)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  const piece = randomBytes(20_000)
  let [left, rounds, stopping] = [0, 0, false]
  const send = (): void => {
    left = piece.length
    rounds += 1
    sent.update(piece)
    socket.write(piece)
  }
  socket.on('data', (chunk: Buffer) => {
    received.update(chunk)
    left -= chunk.length
    if (left > 0) return
    if (stopping) socket.end()
    else send()
  })
  const ended = new Promise<void>((resolve, reject) => {
    socket.once('end', resolve).once('error', reject)
  })
  // Looked at when it is finished.
  ended.catch(() => undefined)
  send()
  return {
    finish: async () => {
      stopping = true
      await until('it has ended', () => socket.readableEnded || socket.destroyed)
      await ended
      assert.ok(rounds > 1)
      assert.equal(received.digest('hex'), sent.digest('hex'))
    },
  }
}
