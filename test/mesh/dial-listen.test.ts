import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type Socket, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { type TLSSocket, connect as tlsConnect } from 'node:tls'
import { describe, it } from 'node:test'
import type { ConnectError } from '../../src/index.js'
import {
  ClosedError,
  DialError,
  type Resolver,
  TimeoutError,
  VerificationError,
  type MeshSocket,
  peer,
} from '../../src/index.js'
import { waitBound } from '../fixtures/bounds.js'
import { greet, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'

describe('dial and listen', () => {
  it('connect two services, and each knows who the other is', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    const api = join('api')
    let seen: MeshSocket | undefined
    await offer(api, (socket) => {
      seen = socket
      greet(socket)
    })
    const socket = await web.dial('api')
    assert.equal(await readAll(socket), 'hello web')
    assert.equal(socket.peer.service, 'api')
    assert.equal(socket.peer.spiffeId, `spiffe://${agent.trustDomain}/ns/default/dc/dc1/svc/api`)
    assert.equal(peer(socket), socket.peer)
    assert.equal(seen?.peer.service, 'web')
    assert.equal(peer(createServer()), undefined)
    assert.equal(peer(undefined), undefined)
  })

  it('carry names that need percent-encoding', async (t) => {
    const { join } = await startMesh(t)
    const caller = join('straße & co%20')
    const called = join('日本 service')
    await offer(called, greet)
    const socket = await caller.dial('日本 service')
    assert.equal(socket.peer.service, '日本 service')
    assert.equal(await readAll(socket), 'hello straße & co%20')
  })

  it('carry bytes both ways, and half-close when asked to', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, (socket) => {
      let heard = ''
      socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
      socket.on('end', () => socket.end(heard.toUpperCase()))
    })
    const socket = await web.dial(
      { address: `127.0.0.1:${portOf(listener)}`, service: 'api' },
      { allowHalfOpen: true },
    )
    socket.end('x'.repeat(1_000_000))
    assert.ok((await readAll(socket)) === 'X'.repeat(1_000_000))
  })

  it('reach a unix socket and IPv6', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '::1' }, greet)
    const socket = await web.dial({ address: `[::1]:${portOf(listener)}`, service: 'api' })
    assert.equal(await readAll(socket), 'hello web')
  })

  it('agree on a key by the groups that both have', async (t) => {
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

  it('take a resolver of somebody’s own', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, greet)
    const resolver: Resolver = {
      name: 'mine',
      resolve: () => [{ host: '127.0.0.1', port: portOf(listener), identity: { service: 'api' } }],
    }
    assert.equal(await readAll(await web.dial(resolver)), 'hello web')
  })

  it('move on to another instance when one cannot be reached', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    await offer(join('api'), greet)
    for (let i = 0; i < 8; i += 1) {
      agent.registerService({
        ID: `gone-${i}`,
        Name: 'api',
        Port: 1,
        Address: '127.0.0.1',
        Connect: { Native: true },
      })
    }
    for (let i = 0; i < 8; i += 1) assert.equal(await readAll(await web.dial('api')), 'hello web')
  })

  it('need something to handle connections', async (t) => {
    const { join } = await startMesh(t)
    const error = await rejection(join('api').listen({ port: 0 }, undefined as never))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })
})

describe('a dial that fails', () => {
  it('to a service that nobody offers says so', async (t) => {
    const { join } = await startMesh(t)
    const error = await rejection(join('web').dial('nobody'))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(error.upstream, 'nobody')
  })

  it('lists every try', async (t) => {
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

  it('refuses a service that is not the one dialled', async (t) => {
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

  it('refuses the same service of another datacenter or namespace', async (t) => {
    const { join } = await startMesh(t)
    const address = `127.0.0.1:${portOf(await join('api').listen({ port: 0, host: '127.0.0.1' }, greet))}`
    for (const where of [{ datacenter: 'dc2' }, { namespace: 'other' }, { partition: 'other' }]) {
      const error = await rejection(join('web').dial({ address, service: 'api', ...where }))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY', JSON.stringify(where))
    }
  })

  it('ends at its deadline, with the last word as cause', async (t) => {
    const { join } = await startMesh(t)
    const mute = await silentServer(t)
    const error = await rejection(
      join('web').dial({ address: mute.address, service: 'api' }, { timeoutMs: 200 }),
    )
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.timeoutMs, 200)
    await mute.closed
  })

  it('ends when its signal says so, and leaves nothing open', async (t) => {
    const { join } = await startMesh(t)
    const mute = await silentServer(t)
    const controller = new AbortController()
    const dialling = rejection(
      join('web').dial({ address: mute.address, service: 'api' }, { signal: controller.signal }),
    )
    await mute.connected
    const reason = new Error('changed my mind')
    controller.abort(reason)
    const error = await dialling
    assert.equal(error.name, 'AbortError')
    assert.equal(error.code, 'ERR_CONNECT_ABORTED')
    assert.equal(error.cause, reason)
    await mute.closed
  })

  it('does not start with a signal that is aborted already', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    const before = agent.requestCount('/v1/health')
    const error = await rejection(web.dial('api', { signal: AbortSignal.abort() }))
    assert.equal(error.code, 'ERR_CONNECT_ABORTED')
    assert.equal(agent.requestCount('/v1/health'), before)
  })

  it('ends when the service is closed meanwhile, and after that is refused', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const mute = await silentServer(t)
    const dialling = rejection(web.dial({ address: mute.address, service: 'api' }))
    await mute.connected
    await web.close()
    assert.ok((await dialling) instanceof ClosedError)
    await mute.closed
    for (const promise of [
      web.dial('api'),
      web.ready(),
      web.listen({ port: 0 }, greet),
      web.register({ port: 1 }),
    ]) {
      assert.equal((await rejection(promise)).code, 'ERR_CONNECT_CLOSED')
    }
  })

  it('leaves the others their time when one never answers, and lists it', async (t) => {
    const { join } = await startMesh(t)
    const mute = await silentServer(t)
    const good = portOf(await join('api').listen({ port: 0, host: '127.0.0.1' }, greet))
    const endpoint = (port: number) => ({ host: '127.0.0.1', port, identity: { service: 'api' } })
    const silent = endpoint(Number(mute.address.split(':')[1]))
    const web = join('web')
    // Whichever comes first.
    const both: Resolver = { name: 'both', resolve: () => [silent, endpoint(good)] }
    for (let i = 0; i < 4; i += 1)
      assert.equal(await readAll(await web.dial(both, { timeoutMs: waitBound(400) })), 'hello web')
    const error = await rejection(web.dial({ name: 'one', resolve: () => [silent] }, { timeoutMs: 100 }))
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.attempts.length, 1)
    assert.ok(error.cause instanceof TimeoutError)
    assert.equal(error.attempts[0]?.address, mute.address)
  })

  for (const [what, upstream] of [
    ['an empty name', ''],
    ['a slash', 'a/b'],
    ['a dot segment', '..'],
    ['a control character', 'a\nb'],
    ['a number', 7],
    ['null', null],
    ['an address without a port', { address: '127.0.0.1', service: 'api' }],
    ['an address with port 0', { address: '127.0.0.1:0', service: 'api' }],
    ['an address without a service', { address: '127.0.0.1:1' }],
    ['an unknown key', { service: 'api', dc: 'dc1' }],
  ] as const) {
    it(`takes no upstream that is ${what}`, async (t) => {
      const { join } = await startMesh(t)
      const error = await rejection(join('web').dial(upstream as never))
      assert.equal(error.code, 'ERR_CONNECT_OPTION')
    })
  }

  for (const [what, resolve, code] of [
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
    it(`names a resolver that ${what}`, async (t) => {
      const { join } = await startMesh(t)
      const error = await rejection(join('web').dial({ name: 'mine', resolve } as never))
      assert.equal(error.code, code)
      assert.match(error.message, /mine/)
    })
  }
})

describe('a listener', () => {
  for (const allowHalfOpen of [false, true]) {
    it(`${allowHalfOpen ? 'keeps its side open' : 'ends its side'} when the peer ends its own`, async (t) => {
      const { join } = await startMesh(t)
      let ended: ((value: unknown) => void) | undefined
      const end = new Promise((resolve) => (ended = resolve))
      const where = { port: 0, host: '127.0.0.1', allowHalfOpen }
      const listener = await join('api').listen(where, (socket) => {
        socket.resume().once('end', () => setImmediate(() => ended?.(socket.writableEnded)))
      })
      const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
      const socket = await join('web').dial(upstream, { allowHalfOpen: true })
      socket.end('x')
      assert.equal(await end, !allowHalfOpen)
      socket.destroy()
    })
  }

  for (const [way, end, admitted] of [
    ['tcp', 'close', 4],
    ['unix', 'close', 4],
    ['tcp', 'destroy', 0],
    ['unix', 'destroy', 0],
  ] as const) {
    it(`hands over ${admitted} of 4 connections that await a decision at ${end}() (${way})`, async (t) => {
      const { agent, join } = await startMesh(t)
      const asked: (() => void)[] = []
      let all: (() => void) | undefined
      const everybody = new Promise<void>((resolve) => (all = resolve))
      let handled = 0
      const api = join('api', {
        authorize: () =>
          new Promise((resolve) => {
            asked.push(() => {
              resolve({ authorized: true, reason: 'late' })
            })
            if (asked.length === 4) all?.()
          }),
      })
      const folder = mkdtempSync(joinPath(tmpdir(), 'consul-connect-'))
      t.after(() => {
        rmSync(folder, { recursive: true })
      })
      const where = way === 'tcp' ? { port: 0, host: '127.0.0.1' } : { path: joinPath(folder, 'listen.sock') }
      const listener = await api.listen(where, (socket) => {
        handled += 1
        socket.end()
      })
      const leaf = agent.issueLeaf('web')
      const to = way === 'tcp' ? { port: portOf(listener), host: '127.0.0.1' } : where
      const ended = Array.from({ length: 4 }, () => {
        const socket = tlsConnect({
          ...to,
          cert: leaf.chainPem,
          key: leaf.privateKeyPem,
          ca: agent.ca.rootPem,
          checkServerIdentity: () => undefined,
        })
        return new Promise((resolve) =>
          socket
            .on('error', () => undefined)
            .on('close', resolve)
            .resume(),
        )
      })
      await everybody
      const closing = listener[end]()
      for (const allow of asked) allow()
      await closing
      await Promise.all(ended)
      assert.equal(handled, admitted)
      assert.equal(listener.connections, 0)
    })
  }

  it('that is closed before it is open says so, and has no port', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    await api.ready()
    for (let turns = 0; turns < 6; turns += 1) {
      const again = join('api')
      await again.ready()
      const opening = again.listen({ port: 0, host: '127.0.0.1' }, greet).then(
        (listener) => listener.address(),
        (error: unknown) => (error as { code?: string }).code,
      )
      for (let i = 0; i < turns; i += 1) await Promise.resolve()
      await again.close()
      const outcome = await opening
      assert.ok(outcome === 'ERR_CONNECT_CLOSED' || outcome === null, JSON.stringify(outcome))
    }
  })

  it('that cannot have its port says which and why', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await api.listen({ port: 0, host: '127.0.0.1' }, greet))
    const error = await rejection(api.listen({ port, host: '127.0.0.1' }, greet))
    assert.equal(error.code, 'ERR_CONNECT_LISTEN')
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1, port ${port}.*EADDRINUSE`))
    assert.equal((error.cause as NodeJS.ErrnoException).code, 'EADDRINUSE')
  })

  it('survives a handler that throws, and says so', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, () => {
      throw new Error('boom')
    })
    const warned = once(api as unknown as NodeJS.EventEmitter, 'warning')
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    await assert.rejects(readAll(socket), { code: 'ERR_CONNECT_REJECTED' })
    const [warning] = (await warned) as [ConnectError]
    assert.equal(warning.code, 'ERR_CONNECT_HANDLER')
    assert.equal((warning.cause as Error).message, 'boom')
  })

  it('drains on close: open connections end by themselves, new ones are refused', async (t) => {
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
    // The instance is deregistered first.
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

  it('may be destroyed first and closed later', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), (socket) => socket.write('hi'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const gone = rejection(once(socket, 'close'))
    listener.destroy()
    assert.equal((await gone).code, 'ECONNRESET')
    await listener.close()
    assert.equal(listener.connections, 0)
  })

  it('cuts what has not ended when the drain time is over', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), (socket) => socket.write('hi'))
    const socket = await join('web').dial('api')
    await once(socket, 'data')
    const gone = rejection(once(socket, 'close'))
    await listener.close({ drainTimeoutMs: 50 })
    assert.equal(listener.connections, 0)
    assert.equal((await gone).code, 'ECONNRESET')
  })

  it('ends half-made connections at once when it drains', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, greet)
    const { connect } = await import('node:net')
    const idle = connect(portOf(listener), '127.0.0.1')
    idle.on('error', () => undefined)
    await once(idle, 'connect')
    // Another connection that is served proves that the listener has seen the idle one.
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    await readAll(socket)
    const gone = once(idle, 'close')
    await listener.close()
    await gone
  })

  it('does not hold up real clients with handshakes that never end', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1', handshakeTimeoutMs: 300 }, greet)
    const { connect } = await import('node:net')
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

  it('answers garbage with nothing but the end', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api')
    const rejected = once(api as unknown as NodeJS.EventEmitter, 'rejected')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const { connect } = await import('node:net')
    const socket = connect(portOf(listener), '127.0.0.1')
    socket.on('error', () => undefined).resume()
    socket.write('GET / HTTP/1.1\r\n\r\n')
    await once(socket, 'close')
    const [error, remoteAddress] = (await rejected) as [Error, string]
    assert.match((error as NodeJS.ErrnoException).code ?? '', /^ERR_SSL_/)
    assert.equal(typeof remoteAddress, 'string')
  })

  it('offers ALPN names only when asked to', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const leaf = agent.issueLeaf('web')
    const dial = async (port: number, names: string[]): Promise<string | false | null> => {
      const socket = tlsConnect({
        port,
        host: '127.0.0.1',
        cert: leaf.chainPem,
        key: leaf.privateKeyPem,
        ca: agent.ca.rootPem,
        checkServerIdentity: () => undefined,
        ALPNProtocols: names,
      })
      await once(socket, 'secureConnect')
      const { alpnProtocol } = socket
      await readAll(socket)
      return alpnProtocol
    }
    const plain = portOf(await api.listen({ port: 0, host: '127.0.0.1' }, greet))
    assert.equal(await dial(plain, ['h2']), false)
    const named = portOf(await api.listen({ port: 0, host: '127.0.0.1', alpnProtocols: ['mine'] }, greet))
    assert.equal(await dial(named, ['other', 'mine']), 'mine')
  })
})

/** A TCP server that accepts and never says a word. */
async function silentServer(t: { after(fn: () => void): void }): Promise<{
  address: string
  connected: Promise<void>
  closed: Promise<void>
}> {
  let connected: (() => void) | undefined
  let closed: (() => void) | undefined
  const whenConnected = new Promise<void>((resolve) => (connected = resolve))
  const whenClosed = new Promise<void>((resolve) => (closed = resolve))
  const server = createServer((socket: Socket) => {
    connected?.()
    socket.on('error', () => undefined)
    socket.on('close', () => closed?.())
    socket.resume()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as { port: number }
  return { address: `127.0.0.1:${port}`, connected: whenConnected, closed: whenClosed }
}
