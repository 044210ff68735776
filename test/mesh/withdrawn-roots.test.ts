// A CA root that is withdrawn vouches for no connection any more: neither for open ones nor for those in their handshake.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { connect as tlsConnect, createServer as createTlsServer } from 'node:tls'
import type { Service } from '../../src/index.js'
import { beginNewCa } from '../fixtures/new-ca.js'
import { greet, nextEvent, offer, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'

const OLD_ROOT = /the CA root of its certificate has been withdrawn/

describe('open connections of a withdrawn root', () => {
  it('end in both directions, each with an event that says why', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.on('error', () => undefined).resume())
    const socket = await web.dial('api')
    const broken = rejection(once(socket, 'close'))
    await until('api has it', () => api.stats().connections === 1)
    await beginNewCa(agent, [api, web])
    const revoked = [nextEvent(api, 'revoked'), nextEvent(web, 'revoked')]
    agent.dropOldRoot()
    for (const [error] of await Promise.all(revoked)) assert.match(error.message, OLD_ROOT)
    assert.match((await broken).message, /CA root|ECONNRESET/)
    assert.equal(api.stats().connections, 0)
    assert.deepEqual(
      api.stats().revocations.map(({ basis }) => basis),
      ['roots'],
    )
  })

  it('stay open while the old root is listed beside the new one', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.pipe(socket))
    const socket = await web.dial('api')
    await beginNewCa(agent, [api, web])
    socket.write('still here')
    assert.equal(String((await once(socket, 'data'))[0]), 'still here')
    assert.equal(await api.reauthorize(), 0)
    socket.destroy()
  })
})

describe('a handshake that is under way when its root is withdrawn', () => {
  it('is rejected by a listener', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await Promise.all([api.ready(), web.ready()])
    const { chainPem: cert, privateKeyPem: key } = agent.issueLeaf('web')
    let handled = 0
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
      handled += 1
      greet(socket)
    })
    const gate = await startGate(t, portOf(listener), 'client')
    const socket = tlsConnect({ port: gate.port, host: '127.0.0.1', cert, key, rejectUnauthorized: false })
    socket.on('error', () => undefined).resume()
    await gate.reached
    await withdraw(agent, [api, web])
    const rejected = nextEvent(api, 'rejected')
    gate.open()
    const [error] = await rejected
    assert.equal((error as { code?: string }).code, 'ERR_CONNECT_PEER_UNTRUSTED')
    await until('it is closed', () => socket.closed)
    assert.equal(handled, 0)
  })

  it('fails the dial', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await Promise.all([api.ready(), web.ready()])
    const { chainPem: cert, privateKeyPem: key } = agent.issueLeaf('api')
    const server = createTlsServer({ cert, key, ca: agent.ca.rootPem }, (socket) => {
      socket.on('error', () => undefined).resume()
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.after(() => server.close())
    const gate = await startGate(t, (server.address() as AddressInfo).port, 'server')
    const dialing = rejection(web.dial({ address: `127.0.0.1:${gate.port}`, service: 'api' }))
    await gate.reached
    await withdraw(agent, [api, web])
    gate.open()
    const error = await dialing
    assert.match(`${error.message} ${String(error.cause)}`, /CA root has been withdrawn/)
  })
})

async function withdraw(
  agent: Parameters<typeof beginNewCa>[0],
  services: readonly [Service, ...Service[]],
): Promise<void> {
  await beginNewCa(agent, services)
  const dropped = services.map((each) => nextEvent(each, 'roots', ({ pems }) => pems.length === 1))
  agent.dropOldRoot()
  await Promise.all(dropped)
}

/**
 * A TCP hop that holds back the flight with the certificate of one side: the second flight of a client, the first flight
 * of a server.
 */
async function startGate(
  t: TestContext,
  port: number,
  side: 'client' | 'server',
): Promise<{ readonly port: number; readonly reached: Promise<unknown>; readonly open: () => void }> {
  const passed = side === 'client' ? 1 : 0
  let reach = (): void => undefined
  let open = (): void => undefined
  const reached = new Promise<void>((resolve) => (reach = resolve))
  const opened = new Promise<void>((resolve) => (open = resolve))
  const hop = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    const [held, other] = side === 'client' ? [near, far] : [far, near]
    for (const socket of [near, far]) socket.on('error', () => undefined)
    other.pipe(held)
    let flights = 0
    held.on('data', (chunk) => {
      flights += 1
      if (flights > passed) {
        reach()
        void opened.then(() => other.write(chunk))
      } else other.write(chunk)
    })
    held.on('close', () => other.destroy())
    other.on('close', () => held.destroy())
    t.after(() => {
      near.destroy()
      far.destroy()
    })
  })
  await once(hop.listen(0, '127.0.0.1'), 'listening')
  t.after(() => hop.close())
  return { port: (hop.address() as AddressInfo).port, reached, open }
}
