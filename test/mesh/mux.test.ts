// Many connections over one, between two services of this library.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer as createTcpServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { type TLSSocket, createServer } from 'node:tls'
import type { ListenOptions, Listener, MeshSocket, Service } from '../../src/index.js'
import { MUX_META } from '../../src/proxy.js'
import {
  type TestMesh,
  ask,
  nextEvent,
  offer,
  portOf,
  readAll,
  rejection,
  startMesh,
  until,
} from '../fixtures/mesh.js'
import { beginNewCa } from '../fixtures/new-ca.js'
import { WAYS, ending } from '../fixtures/ways.js'

const ALPN_NAME = 'consul-connect-mux/1'

interface Pair extends TestMesh {
  readonly api: Service
  readonly web: Service
  readonly listener: Listener
  readonly accepted: MeshSocket[]
}

/** Starts two services whose connections share sessions. */
async function start(
  t: TestContext,
  options: Partial<ListenOptions> = {},
  handler: (socket: MeshSocket) => void = (socket) => socket.pipe(socket),
  { mux = [true, true] as readonly [boolean, boolean] } = {},
): Promise<Pair> {
  const mesh = await startMesh(t)
  const [api, web] = [mesh.join('api', { mux: mux[0] }), mesh.join('web', { mux: mux[1] })]
  const accepted: MeshSocket[] = []
  const listener = await api.listen({ port: 0, host: '127.0.0.1', ...options }, (socket) => {
    accepted.push(socket)
    socket.on('error', () => undefined)
    handler(socket)
  })
  await api.register({ port: portOf(listener), address: '127.0.0.1' })
  return { ...mesh, api, web, listener, accepted }
}

/** The number of TLS connections that carried them. */
function countHandshakes(accepted: readonly MeshSocket[]): number {
  return new Set(accepted.map(({ remotePort }) => remotePort)).size
}

/** Dials many connections whose errors are expected. */
async function dialMany(web: Service, count: number): Promise<MeshSocket[]> {
  return Promise.all(Array.from({ length: count }, () => dialOne(web)))
}

async function dialOne(web: Service): Promise<MeshSocket> {
  const socket = await web.dial('api')
  return socket.on('error', () => undefined)
}

describe('services whose connections share a session', () => {
  it('make one handshake for many connections, each with its peer and addresses', async (t) => {
    const { web, api, accepted } = await start(t)
    const sockets = await dialMany(web, 50)
    for (const [i, socket] of sockets.entries()) assert.equal(await ask(socket, `hello ${i}`), `hello ${i}`)
    assert.equal(countHandshakes(accepted), 1)
    assert.equal(api.stats().connections, 50)
    assert.deepEqual([sockets[7]!.peer.service, accepted[7]!.peer.service], ['api', 'web'])
    assert.equal(sockets[7]!.remotePort, accepted[7]!.localPort)
    assert.equal(sockets[7]!.localPort, accepted[7]!.remotePort)
    assert.deepEqual(web.stats().sessions, { inbound: 0, outbound: 1, streams: 50, opened: 50, refused: 0 })
    assert.deepEqual(api.stats().sessions, { inbound: 1, outbound: 0, streams: 50, opened: 50, refused: 0 })
    assert.deepEqual(api.stats().decisions, [{ authorized: true, basis: 'default', count: 50 }])
    for (const socket of sockets) socket.destroy()
    await until('no connection is left', () => api.stats().connections === 0)
    assert.equal(api.stats().sessions.streams, 0)
  })

  it('open further sessions for many connections, and share them out', async (t) => {
    const { web, api, accepted } = await start(t)
    const sockets: MeshSocket[] = []
    // One after the other: no session is full.
    for (let i = 0; i < 600; i += 1) sockets.push(await dialOne(web))
    await Promise.all(sockets.map((socket) => ask(socket, 'x')))
    assert.equal(api.stats().connections, 600)
    const bySession = new Map<number | undefined, number>()
    for (const { remotePort } of accepted) bySession.set(remotePort, (bySession.get(remotePort) ?? 0) + 1)
    assert.equal(web.stats().sessions.outbound, 4)
    for (const count of bySession.values()) assert.ok(count >= 100 && count <= 200, `${count} in one session`)
  })

  it('open as many sessions as thousands of connections need', async (t) => {
    const { web, api } = await start(t)
    const sockets = await dialMany(web, 4_500)
    await Promise.all(sockets.map((socket) => ask(socket, 'x')))
    assert.equal(api.stats().connections, 4_500)
    assert.equal(web.stats().sessions.outbound, 5)
  })

  for (const [kind, { listen, open }] of Object.entries(WAYS)) {
    // A request of node:http2 does not know a stream of a session.
    const sessions = kind.includes('HTTP/2') ? 0 : 2
    it(`carry ${kind}${sessions === 0 ? ' on connections of its own' : ''}, which ends when its source is denied, and no other`, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = join('api', { mux: true })
      await api.register({ port: portOf(await listen(api)), address: '127.0.0.1' })
      /** Dials by the name of the service, so that sessions are used. */
      const named = (name: string): Service => {
        const web = join(name, { mux: true })
        return Object.assign(Object.create(web) as Service, { dial: () => web.dial('api') })
      }
      const denied = await open(named('web'), 0)
      const other = await open(named('other'), 0)
      assert.equal(api.stats().sessions.inbound, sessions)
      const revoked = nextEvent(api, 'revoked')
      agent.setIntention('web', 'api', 'deny')
      await denied.closed
      const [error] = await revoked
      assert.deepEqual([error.peer.service, error.basis], ['web', 'intention'])
      await other.works()
    })
  }

  it('end a thousand connections of a source that is denied, and none of another', async (t) => {
    const { agent, api, web, join } = await start(t)
    const sockets = await dialMany(web, 1_000)
    await Promise.all(sockets.map((socket) => ask(socket, 'x')))
    const [other] = await dialMany(join('other', { mux: true }), 1)
    const ended = Promise.all(sockets.map(ending))
    agent.setIntention('web', 'api', 'deny')
    await ended
    for (const socket of sockets) assert.equal((socket.errored as NodeJS.ErrnoException).code, 'ECONNRESET')
    assert.equal(await ask(other!, 'still here'), 'still here')
    assert.deepEqual(api.stats().revocations, [{ basis: 'intention', count: 1_000 }])
    assert.equal(api.stats().connections, 1)
  })

  it('report a denial as the rejection of the connection, of the first and of a later one', async (t) => {
    const { agent, web } = await start(t)
    agent.setIntention('web', 'api', 'deny')
    for (let i = 0; i < 3; i += 1) {
      const error = await rejection(web.dial('api').then(readAll))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      assert.match(error.message, /denied the connection; .*consul intention check web api/)
    }
    agent.setIntention('web', 'api', 'allow')
    await until('the connection is allowed', async () => (await ask(await dialOne(web), 'x')) === 'x')
  })

  it('keep connections through a rotation, and open new ones in a new session', async (t) => {
    const { agent, web, api, accepted } = await start(t)
    const old = await dialOne(web)
    assert.equal(await ask(old, 'x'), 'x')
    await beginNewCa(agent, [api, web])
    const fresh = await dialOne(web)
    assert.equal(await ask(fresh, 'y'), 'y')
    assert.equal(await ask(old, 'z'), 'z')
    assert.equal(countHandshakes(accepted), 2)
    assert.equal(web.stats().sessions.outbound, 2)
    old.end()
    await until('the old session is gone', () => web.stats().sessions.outbound === 1)
    assert.equal(await ask(fresh, 'x'), 'x')
  })

  it('close the session when its root is withdrawn, and no other', async (t) => {
    const { agent, web, api } = await start(t)
    const old = await dialOne(web)
    assert.equal(await ask(old, 'x'), 'x')
    await beginNewCa(agent, [api, web])
    const fresh = await dialOne(web)
    assert.equal(await ask(fresh, 'x'), 'x')
    const revoked = [nextEvent(api, 'revoked'), nextEvent(web, 'revoked')]
    const ended = ending(old)
    agent.dropOldRoot()
    for (const [error] of await Promise.all(revoked)) assert.match(error.message, /CA root/)
    await ended
    assert.notEqual(old.errored, null)
    await until('the old session is gone', () => api.stats().sessions.inbound === 1)
    assert.equal(await ask(fresh, 'still here'), 'still here')
  })

  it('drain: open connections go on, and new ones go to another instance, without a failure', async (t) => {
    const { api, web, listener, join } = await start(t)
    const sockets = await dialMany(web, 20)
    await Promise.all(sockets.map((socket) => ask(socket, 'x')))
    const second = join('api', { mux: true })
    await offer(second, (socket) => socket.pipe(socket))
    let isOver = false
    let failed = 0
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!isOver) {
          const socket = await web.dial('api')
          socket.end('x')
          if ((await readAll(socket)) !== 'x') failed += 1
        }
      }),
    )
    const closed = listener.close()
    await until('the second instance has taken over', () => second.stats().sessions.opened > 50)
    for (const socket of sockets) assert.equal(await ask(socket, 'still here'), 'still here')
    for (const socket of sockets) socket.end()
    await closed
    isOver = true
    await load
    assert.equal(failed, 0)
    assert.equal(api.stats().connections, 0)
  })

  it('try another instance when one has reached its limit', async (t) => {
    const { web, api, join } = await start(t, { maxConnections: 3 })
    const second = join('api', { mux: true })
    await offer(second, (socket) => socket.pipe(socket))
    const sockets = await dialMany(web, 20)
    await Promise.all(sockets.map((socket) => ask(socket, 'x')))
    assert.ok(api.stats().connections <= 3)
    assert.equal(api.stats().connections + second.stats().connections, 20)
  })

  it('are not waited for when their connection is dead: another one is opened', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api', { mux: true }), join('web', { mux: true })]
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.pipe(socket))
    const relayed: Socket[] = []
    const relay = createTcpServer((client) => {
      const server = connect(portOf(listener), '127.0.0.1')
      client.pipe(server).pipe(client)
      relayed.push(client, server)
      for (const socket of [client, server]) socket.on('error', () => undefined)
    }).listen(0, '127.0.0.1')
    t.after(() => {
      relay.close()
      for (const socket of relayed) socket.destroy()
    })
    await once(relay, 'listening')
    const { port } = relay.address() as AddressInfo
    await api.register({ port, address: '127.0.0.1', meta: MUX_META })
    const first = await dialOne(web)
    assert.equal(await ask(first, 'ping'), 'ping')
    // From now on, nothing passes over the open connections.
    for (const socket of relayed) socket.unpipe().pause()
    const begin = performance.now()
    const sockets = await dialMany(web, 10)
    assert.ok(performance.now() - begin < 5_000)
    for (const socket of sockets) assert.equal(await ask(socket, 'ping'), 'ping')
    assert.equal(web.stats().sessions.outbound, 2)
  })

  it('are not needed: a service without sessions is dialed for each connection', async (t) => {
    for (const mux of [
      [true, false],
      [false, true],
    ] as const) {
      const { web, api, accepted } = await start(t, {}, undefined, { mux })
      const sockets = await dialMany(web, 3)
      await Promise.all(sockets.map((socket) => ask(socket, 'x')))
      assert.equal(countHandshakes(accepted), 3)
      assert.equal(api.stats().sessions.opened + web.stats().sessions.opened, 0)
    }
  })

  it('leave nothing open after close', async (t) => {
    const { web, api, listener } = await start(t)
    await Promise.all((await dialMany(web, 3)).map((socket) => ask(socket, 'x')))
    await web.close({ drainTimeoutMs: 0 })
    await until('the connections are gone', () => api.stats().connections === 0)
    await until('the session is gone', () => api.stats().sessions.inbound === 0)
    await listener.close()
    assert.equal(web.stats().sessions.outbound, 0)
  })
})

describe('an instance that announces sessions and is of another kind', () => {
  /** Registers a TLS server of the service `api` that announces sessions. */
  async function impostor(
    t: TestContext,
    ALPNProtocols: string[] | undefined,
    onSocket: (socket: TLSSocket) => void,
  ): Promise<Service> {
    const { join } = await startMesh(t)
    const api = join('api', { mux: true })
    await api.ready()
    const server = createServer(
      { ...api.tlsServerOptions(), ...(ALPNProtocols !== undefined && { ALPNProtocols }) },
      (socket) => {
        onSocket(socket.on('error', () => undefined))
      },
    ).listen(0, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    await api.register({
      port: (server.address() as { port: number }).port,
      address: '127.0.0.1',
      meta: { 'connect-mux': '1' },
    })
    return join('web', { mux: true })
  }

  it('is dialed for each connection if it knows no protocols, or only others', async (t) => {
    for (const protocols of [undefined, ['h2']]) {
      const offered: unknown[] = []
      const web = await impostor(t, protocols, (socket) => {
        offered.push(socket.alpnProtocol)
        socket.pipe(socket)
      })
      for (let i = 0; i < 3; i += 1) assert.equal(await ask(await dialOne(web), 'x'), 'x')
      assert.equal(web.stats().sessions.opened, 0)
      // The first one may have been the attempt to open a session.
      assert.ok(offered.length <= 4)
    }
  })

  it('breaks the first connection if it does not speak the protocol, and no further one', async (t) => {
    for (const greeting of ['HTTP/1.1 200 OK\r\n\r\n', undefined]) {
      const web = await impostor(t, [ALPN_NAME], (socket) => {
        if (socket.alpnProtocol !== ALPN_NAME) socket.pipe(socket)
        else if (greeting !== undefined) socket.write(greeting)
      })
      const first = await dialOne(web)
      await ending(first)
      assert.equal((first.errored as NodeJS.ErrnoException).code, 'ECONNRESET')
      assert.equal(await ask(await dialOne(web), 'x'), 'x')
      assert.equal(web.stats().sessions.outbound, 0)
    }
  })

  it('speaks a later version: what is new is skipped', async (t) => {
    const frame = (type: number, stream: number, payload: Buffer): Buffer => {
      const head = Buffer.alloc(8)
      head.writeUInt32BE(stream, 0)
      head.writeUInt32BE(type * 0x100_0000 + payload.length, 4)
      return Buffer.concat([head, payload])
    }
    const web = await impostor(t, [ALPN_NAME], (socket) => {
      // Version 2, and a setting that this version does not know.
      const settings = Buffer.from('000100000002' + '00990000ffff', 'hex')
      socket.write(Buffer.concat([frame(8, 0, settings), frame(0x80, 0, Buffer.from('news'))]))
      socket.write(frame(9, 1, Buffer.alloc(0)))
      socket.write(frame(0xff, 1, Buffer.from('more news')))
      socket.write(frame(0, 1, Buffer.from('hello')))
      socket.write(frame(2, 1, Buffer.alloc(0)))
    })
    const socket = await web.dial('api')
    socket.end()
    assert.equal(await readAll(socket), 'hello')
    assert.deepEqual([web.stats().sessions.opened, web.stats().sessions.outbound], [1, 1])
  })
})
