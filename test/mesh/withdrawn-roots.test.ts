// Withdrawn CA roots authenticate no connection: neither open ones, nor those in their handshake.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { ask, greet, nextEvent, offer, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'
import { startTlsServer, tlsOptions } from './tls-peer.js'

const OLD_ROOT = /the CA root of its certificate has been withdrawn/

describe('open connections when their CA root is withdrawn', () => {
  it('end in both directions, each with an event that names the reason', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.on('error', () => undefined).resume())
    const socket = await web.dial('api')
    const failed = rejection(once(socket, 'close'))
    await until('api has accepted the connection', () => api.stats().connections === 1)
    await beginNewCa(agent, [api, web])
    const revoked = [nextEvent(api, 'revoked'), nextEvent(web, 'revoked')]
    agent.dropOldRoot()
    for (const [error] of await Promise.all(revoked)) assert.match(error.message, OLD_ROOT)
    assert.match((await failed).message, /CA root|ECONNRESET/)
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
    assert.equal(await ask(socket, 'still open'), 'still open')
    assert.equal(await api.reauthorize(), 0)
    socket.destroy()
  })
})

describe('a handshake during which its CA root is withdrawn', () => {
  it('is rejected by a listener', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await Promise.all([api.ready(), web.ready()])
    const oldLeaf = agent.issueLeaf('web')
    let handled = 0
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
      handled += 1
      greet(socket)
    })
    const gate = await startGate(t, portOf(listener), 'client')
    const options = { ...tlsOptions(oldLeaf, agent.ca), rejectUnauthorized: false }
    const socket = tlsConnect({ ...options, port: gate.port, host: '127.0.0.1' })
    socket.on('error', () => undefined).resume()
    await gate.reached
    await beginNewCa(agent, [api, web])
    await withdrawOldCa(agent, api)
    const rejected = nextEvent(api, 'rejected')
    gate.open()
    const [error] = await rejected
    assert.equal((error as { code?: string }).code, 'ERR_CONNECT_PEER_UNTRUSTED')
    await until('the connection is closed', () => socket.closed)
    assert.equal(handled, 0)
  })

  it('fails the dial', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await Promise.all([api.ready(), web.ready()])
    const server = await startTlsServer(t, tlsOptions(agent.issueLeaf('api'), agent.ca), (socket) => {
      socket.resume()
    })
    const gate = await startGate(t, server.port, 'server')
    const dialing = rejection(web.dial({ address: `127.0.0.1:${gate.port}`, service: 'api' }))
    await gate.reached
    await beginNewCa(agent, [api, web])
    await withdrawOldCa(agent, web)
    gate.open()
    const error = await dialing
    assert.match(`${error.message} ${String(error.cause)}`, /CA root has been withdrawn/)
  })
})

/**
 * Starts a TCP hop that delays the flight with the certificate of one side: the second flight of a client, or the first
 * flight of a server.
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
    const [delayed, opposite] = side === 'client' ? [near, far] : [far, near]
    for (const socket of [near, far]) socket.on('error', () => undefined)
    opposite.pipe(delayed)
    let flights = 0
    delayed.on('data', (chunk) => {
      flights += 1
      if (flights > passed) {
        reach()
        void opened.then(() => opposite.write(chunk))
      } else opposite.write(chunk)
    })
    delayed.on('close', () => opposite.destroy())
    opposite.on('close', () => delayed.destroy())
    t.after(() => {
      near.destroy()
      far.destroy()
    })
  })
  await once(hop.listen(0, '127.0.0.1'), 'listening')
  t.after(() => hop.close())
  return { port: (hop.address() as AddressInfo).port, reached, open }
}
