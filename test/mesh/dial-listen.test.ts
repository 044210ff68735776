import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { join as joinPath } from 'node:path'
import { describe, it } from 'node:test'
import { type TLSSocket, connect as tlsConnect } from 'node:tls'
import {
  ClosedError,
  DialError,
  type MeshSocket,
  TimeoutError,
  VerificationError,
  peer,
} from '../../src/index.js'
import { greet, nextEvent, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'
import { startTcpServer } from './tcp-server.js'
import { tlsOptions } from './tls-peer.js'

describe('dial and listen', () => {
  it('connect two services, each of which sees the identity of the other', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    const api = join('api')
    let accepted: MeshSocket | undefined
    await offer(api, (socket) => {
      accepted = socket
      greet(socket)
    })
    const socket = await web.dial('api')
    assert.equal(await readAll(socket), 'hello web')
    assert.equal(socket.peer.service, 'api')
    assert.equal(socket.peer.spiffeId, `spiffe://${agent.trustDomain}/ns/default/dc/dc1/svc/api`)
    assert.equal(peer(socket), socket.peer)
    assert.equal(accepted?.peer.service, 'web')
    assert.equal(peer(createServer()), undefined)
    assert.equal(peer(undefined), undefined)
  })

  it('use IPv6 addresses', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '::1' }, greet)
    const socket = await web.dial({ address: `[::1]:${portOf(listener)}`, service: 'api' })
    assert.equal(await readAll(socket), 'hello web')
  })

  it('negotiate a key exchange group that both sides support', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api', { ecdhCurve: 'P-384:X25519' }), greet)
    const groupOf = async (caller: string, ecdhCurve: string): Promise<string | undefined> => {
      const socket = await join(caller, { ecdhCurve }).dial('api')
      const { name } = (socket as unknown as TLSSocket).getEphemeralKeyInfo() as { name?: string }
      assert.equal(await readAll(socket), `hello ${caller}`)
      return name
    }
    assert.equal(await groupOf('web', 'X25519'), 'X25519')
    assert.equal(await groupOf('job', 'P-384'), 'secp384r1')
    const error = await rejection(join('old', { ecdhCurve: 'P-256' }).dial('api'))
    assert.match(error.message, /handshake failure/)
  })

  it('require a connection handler', async (t) => {
    const { join } = await startMesh(t)
    const error = await rejection(join('api').listen({ port: 0 }, undefined as never))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })
})

describe('a dial that fails', () => {
  it('lists every attempt', async (t) => {
    const { agent, join } = await startMesh(t)
    for (const Port of [1, 2]) {
      const ID = `api-${Port}`
      agent.registerService({ ID, Name: 'api', Port, Address: '127.0.0.1', Connect: { Native: true } })
    }
    const error = await rejection(join('web').dial('api'))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
    assert.deepEqual(error.attempts.map(({ address }) => address).sort(), ['127.0.0.1:1', '127.0.0.1:2'])
    for (const attempt of error.attempts) {
      assert.match(attempt.error.message, /ECONNREFUSED/)
      assert.ok(attempt.durationMs >= 0)
    }
    assert.match(error.message, /127\.0\.0\.1:1 .*ECONNREFUSED/)
  })

  it('rejects a peer with the identity of another service', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, greet)
    const error = await rejection(
      join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'db' }),
    )
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    assert.ok(error.cause instanceof VerificationError)
    assert.equal(error.cause.expected, 'service "db"')
    assert.equal(error.cause.actual, 'service "api"')
  })

  it('rejects a peer of another datacenter, namespace, or partition', async (t) => {
    const { join } = await startMesh(t)
    const address = `127.0.0.1:${portOf(await join('api').listen({ port: 0, host: '127.0.0.1' }, greet))}`
    for (const expected of [{ datacenter: 'dc2' }, { namespace: 'other' }, { partition: 'other' }]) {
      const error = await rejection(join('web').dial({ address, service: 'api', ...expected }))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY', JSON.stringify(expected))
    }
  })

  it('fails at its deadline and closes the connection', async (t) => {
    const { join } = await startMesh(t)
    const { address, closed } = await startTcpServer(t)
    const error = await rejection(join('web').dial({ address, service: 'api' }, { timeoutMs: 200 }))
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.timeoutMs, 200)
    await closed
  })

  it('sends no request when its signal is already aborted', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    const before = agent.requestCount('/v1/health')
    const error = await rejection(web.dial('api', { signal: AbortSignal.abort() }))
    assert.equal(error.code, 'ERR_CONNECT_ABORTED')
    assert.equal(agent.requestCount('/v1/health'), before)
  })

  it('fails when its service is closed, as does every later call', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const { address, closed, connected } = await startTcpServer(t)
    const error = rejection(web.dial({ address, service: 'api' }))
    await connected
    await web.close()
    assert.ok((await error) instanceof ClosedError)
    await closed
    for (const promise of [
      web.dial('api'),
      web.ready(),
      web.listen({ port: 0 }, greet),
      web.register({ port: 1 }),
    ]) {
      assert.equal((await rejection(promise)).code, 'ERR_CONNECT_CLOSED')
    }
  })

  for (const [name, upstream] of [
    ['an empty name', ''],
    ['a name with a slash', 'a/b'],
    ['a dot segment', '..'],
    ['a name with a control character', 'a\nb'],
    ['a number', 7],
    ['null', null],
    ['an address without a port', { address: '127.0.0.1', service: 'api' }],
    ['an address with port 0', { address: '127.0.0.1:0', service: 'api' }],
    ['an address without a service', { address: '127.0.0.1:1' }],
    ['an object with an unknown key', { service: 'api', dc: 'dc1' }],
  ] as const) {
    it(`rejects ${name} as an upstream`, async (t) => {
      const { join } = await startMesh(t)
      const error = await rejection(join('web').dial(upstream as never))
      assert.equal(error.code, 'ERR_CONNECT_OPTION')
    })
  }

  for (const [fault, resolve, code] of [
    [
      'throws',
      () => {
        throw new Error('boom')
      },
      'ERR_CONNECT_RESOLVER',
    ],
    ['returns nothing', () => undefined, 'ERR_CONNECT_RESOLVER'],
    ['returns an endpoint without identity', () => [{ host: 'a', port: 1 }], 'ERR_CONNECT_RESOLVER'],
    ['returns an empty list', () => [], 'ERR_CONNECT_NO_INSTANCES'],
  ] as const) {
    it(`names the resolver that ${fault}`, async (t) => {
      const { join } = await startMesh(t)
      const error = await rejection(join('web').dial({ name: 'mine', resolve } as never))
      assert.equal(error.code, code)
      assert.match(error.message, /mine/)
    })
  }
})

describe('a listener', () => {
  for (const allowHalfOpen of [false, true]) {
    it(`${allowHalfOpen ? 'keeps its side open' : 'ends its side'} when the peer ends`, async (t) => {
      const { join } = await startMesh(t)
      let writableEnded: boolean | undefined
      const options = { port: 0, host: '127.0.0.1', allowHalfOpen }
      const listener = await join('api').listen(options, (socket) => {
        socket.resume().once('end', () => setImmediate(() => (writableEnded = socket.writableEnded)))
      })
      const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
      const socket = await join('web').dial(upstream, { allowHalfOpen: true })
      socket.end('x')
      await until('the listener has seen the end', () => writableEnded !== undefined)
      assert.equal(writableEnded, !allowHalfOpen)
      socket.destroy()
    })
  }

  for (const [transport, end, admitted] of [
    ['tcp', 'close', 4],
    ['unix', 'close', 4],
    ['tcp', 'destroy', 0],
    ['unix', 'destroy', 0],
  ] as const) {
    it(`hands over ${admitted} of 4 connections that await authorization at ${end}() (${transport})`, async (t) => {
      const { agent, join } = await startMesh(t)
      const pending: (() => void)[] = []
      let handled = 0
      const api = join('api', {
        authorize: () =>
          new Promise((resolve) => {
            pending.push(() => {
              resolve({ authorized: true, reason: 'late' })
            })
          }),
      })
      const options =
        transport === 'tcp'
          ? { port: 0, host: '127.0.0.1' }
          : { path: joinPath(temporaryFolder(t), 'listen.sock') }
      const listener = await api.listen(options, (socket) => {
        handled += 1
        socket.end()
      })
      const target = transport === 'tcp' ? { port: portOf(listener), host: '127.0.0.1' } : options
      const ended = Array.from({ length: 4 }, () => {
        const socket = tlsConnect({ ...target, ...tlsOptions(agent.issueLeaf('web'), agent.ca) })
        return new Promise((resolve) =>
          socket
            .on('error', () => undefined)
            .on('close', resolve)
            .resume(),
        )
      })
      await until('all connections await authorization', () => pending.length === 4)
      const closing = listener[end]()
      for (const allow of pending) allow()
      await closing
      await Promise.all(ended)
      assert.equal(handled, admitted)
      assert.equal(listener.connections, 0)
    })
  }

  it('is closed when its service is closed while it opens', async (t) => {
    const { join } = await startMesh(t)
    for (let turns = 0; turns < 6; turns += 1) {
      const api = join('api')
      await api.ready()
      const opening = api.listen({ port: 0, host: '127.0.0.1' }, greet).then(
        (listener) => listener.address(),
        (error: unknown) => (error as { code?: string }).code,
      )
      for (let i = 0; i < turns; i += 1) await Promise.resolve()
      await api.close()
      const outcome = await opening
      assert.ok(outcome === 'ERR_CONNECT_CLOSED' || outcome === null, JSON.stringify(outcome))
    }
  })

  it('names the address that it cannot bind, and the reason', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await api.listen({ port: 0, host: '127.0.0.1' }, greet))
    const error = await rejection(api.listen({ port, host: '127.0.0.1' }, greet))
    assert.equal(error.code, 'ERR_CONNECT_LISTEN')
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1, port ${port}.*EADDRINUSE`))
    assert.equal((error.cause as NodeJS.ErrnoException).code, 'EADDRINUSE')
  })

  it('survives a handler that throws, and reports the error', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, () => {
      throw new Error('boom')
    })
    const warned = nextEvent(api, 'warning')
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    await assert.rejects(readAll(socket), { code: 'ERR_CONNECT_REJECTED' })
    const [warning] = await warned
    assert.equal((warning as NodeJS.ErrnoException).code, 'ERR_CONNECT_HANDLER')
    assert.equal((warning.cause as Error).message, 'boom')
  })

  it('drains on close: keeps open connections and refuses new ones', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await offer(api, (socket) => socket.pipe(socket))
    const address = `127.0.0.1:${portOf(listener)}`
    const web = join('web')
    const socket = await web.dial('api')
    socket.write('one')
    assert.equal(String((await once(socket, 'data'))[0]), 'one')
    const closing = listener.close()
    socket.write('two')
    assert.equal(String((await once(socket, 'data'))[0]), 'two')
    // The listener deregisters its instance before it closes the port.
    await until('the port is closed', () => listener.address() === null)
    const error = await rejection(web.dial({ address, service: 'api' }))
    assert.match(error.message, /ECONNREFUSED/)
    socket.end()
    await closing
    assert.equal(listener.connections, 0)
    assert.equal(listener.address(), null)
    await listener.close()
    listener.destroy()
  })

  it('can be closed after it was destroyed', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), (socket) => socket.write('hi'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const failed = rejection(once(socket, 'close'))
    listener.destroy()
    assert.equal((await failed).code, 'ECONNRESET')
    await listener.close()
    assert.equal(listener.connections, 0)
  })

  it('destroys the connections that are still open after the drain timeout', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), (socket) => socket.write('hi'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const failed = rejection(once(socket, 'close'))
    await listener.close({ drainTimeoutMs: 50 })
    assert.equal(listener.connections, 0)
    assert.equal((await failed).code, 'ECONNRESET')
  })

  it('ends connections without a completed handshake at once when it drains', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, greet)
    const idle = connect(portOf(listener), '127.0.0.1')
    idle.on('error', () => undefined)
    await once(idle, 'connect')
    // The listener has accepted the idle connection when it serves a later one.
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    await readAll(socket)
    const closed = once(idle, 'close')
    await listener.close()
    await closed
  })

  it('serves clients beside handshakes that stall, and ends those after the handshake timeout', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', handshakeTimeoutMs: 300 }, greet)
    const stuck = Array.from({ length: 40 }, () =>
      connect(portOf(listener), '127.0.0.1').on('error', () => undefined),
    )
    const ended = Promise.all(stuck.map((socket) => once(socket, 'close')))
    await Promise.all(stuck.map((socket) => once(socket, 'connect')))
    stuck.slice(20).forEach((socket) => socket.write(Buffer.from([22, 3, 1, 2, 0, 1])))
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    assert.equal(await readAll(socket), 'hello web')
    await ended
  })

  it('closes connections that do not speak TLS', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const rejected = nextEvent(api, 'rejected')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const socket = connect(portOf(listener), '127.0.0.1')
    socket.on('error', () => undefined).resume()
    socket.write('GET / HTTP/1.1\r\n\r\n')
    await once(socket, 'close')
    const [error, remoteAddress] = await rejected
    assert.match((error as NodeJS.ErrnoException).code ?? '', /^ERR_SSL_/)
    assert.equal(typeof remoteAddress, 'string')
  })

  it('negotiates ALPN only with alpnProtocols', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    for (const [options, offered, expected] of [
      [{}, ['h2'], false],
      [{ alpnProtocols: ['mine'] }, ['other', 'mine'], 'mine'],
    ] as const) {
      const listener = await api.listen({ port: 0, host: '127.0.0.1', ...options }, greet)
      const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
      const socket = await web.dial(upstream, { alpnProtocols: offered })
      assert.equal(socket.alpnProtocol, expected)
      await readAll(socket)
    }
  })
})
