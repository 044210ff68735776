import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { test } from 'node:test'
import { DialError, type Forward, type MeshSocket, type NoInstancesReason } from '../../src/index.js'
import { offer, portOf } from '../fixtures/mesh.js'
import { isRefused } from '../proxy/connect-proxy.js'
import { proxyInbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { assertExchanges, echo, plainConnect, plainEcho } from './service-echo.js'
import { WAIT_MS, instances, joiner, register, until } from './service-mesh.js'

const MANY = 100

test('a forward to a service behind the built-in proxy', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  const application = await plainEcho(t)
  await proxyInbound(t, consul, 'svc', application.port)
  await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)

  await t.test('is not disturbed by a hundred other forwards that open and close', async (t) => {
    const before = listening()
    const lasting = await Promise.all([1, 2, 3].map(() => web.forward('svc', { port: 0 })))
    const ending = new AbortController()
    const flows = lasting.map(async (forward) => {
      let exchanges = 0
      for (; !ending.signal.aborted; exchanges += 1) {
        await assertExchanges(() => plainConnect(localPort(forward)), [1 << 18])
      }
      return exchanges
    })
    const ports: number[] = []
    const work = Array.from({ length: 4 }, async () => {
      for (let i = 0; i < MANY / 4; i += 1) {
        const forward = await web.forward('svc', { port: 0 })
        ports.push(localPort(forward))
        await assertExchanges(() => plainConnect(localPort(forward)), [16_385])
        await forward.close()
        assert.equal(forward.address(), null)
      }
    })
    await Promise.all(work)
    ending.abort()
    const exchanges = await Promise.all(flows)
    t.diagnostic(JSON.stringify({ forwards: ports.length, exchanges }))
    assert.ok(exchanges.every((count) => count > 0))
    await Promise.all(lasting.map((forward) => forward.close()))
    assert.equal(listening(), before)
    for (const port of ports) assert.ok(await isRefused(port))
  })
})

test('a forward to a native service', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  await t.test('can end its side first and still receive', async () => {
    const api = join('greeting')
    const received: Promise<string>[] = []
    const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, (socket) => {
      socket.end('hello')
      received.push(readToEnd(socket))
    })
    await api.register({ port: portOf(listener), address: '127.0.0.1' })
    const forward = await web.forward('greeting', { port: 0 })
    const socket = connect({ port: localPort(forward), host: '127.0.0.1', allowHalfOpen: true })
    assert.equal(await readToEnd(socket), 'hello')
    socket.end('goodbye')
    assert.equal(await received[0], 'goodbye')
    await forward.close()
  })

  await t.test('closes a connection whose client has disconnected', async () => {
    await offer(join('plain'), echo)
    const forward = await web.forward('plain', { port: 0 })
    await assertExchanges(() => plainConnect(localPort(forward)), [1_000])
    await until('the connection has closed', () => forward.connections === 0, 5_000).finally(() => {
      forward.destroy()
    })
  })

  await t.test('resets connections and emits few warnings until an instance exists', async () => {
    const warnings: Error[] = []
    web.on('warning', (error) => warnings.push(error))
    const warned = (reason: NoInstancesReason): boolean =>
      warnings.some((error) => error instanceof DialError && error.reason === reason)
    const forward = await web.forward('later', { port: 0 })
    for (let i = 0; i < 20; i += 1) assert.equal(await endOf(forward), 'ECONNRESET')
    assert.ok(warned('unknown'))
    // Repeated warnings are limited.
    assert.ok(warnings.length <= 2, `${warnings.length} warnings`)
    await register(consul, { Name: 'later', ID: 'not-in-the-mesh', Port: 1 })
    await until('the reason has changed', async () => {
      assert.equal(await endOf(forward), 'ECONNRESET')
      return warned('not-connect')
    })
    await offer(join('later'), echo)
    await until('the forward works', async () => {
      await assertExchanges(() => plainConnect(localPort(forward)), [1_000])
      return true
    })
    forward.destroy()
  })

  /** The code of the error that ends a connection without an upstream. */
  async function endOf(forward: Forward): Promise<string | undefined> {
    const socket = connect(localPort(forward), '127.0.0.1')
    socket.write('hello')
    const [error] = (await once(socket, 'error', { signal: AbortSignal.timeout(WAIT_MS) })) as [
      NodeJS.ErrnoException,
    ]
    return error.code
  }
})

/** Reads to the end, and leaves the other direction open. */
async function readToEnd(socket: Socket | MeshSocket): Promise<string> {
  let received = ''
  socket.on('data', (chunk: Buffer) => (received += chunk.toString()))
  await once(socket, 'end', { signal: AbortSignal.timeout(WAIT_MS) })
  return received
}

function localPort(forward: Forward): number {
  return (forward.address() as AddressInfo).port
}

/** The number of listening sockets of this process. */
function listening(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'TCPServerWrap').length
}
