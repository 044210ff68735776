import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import { describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { type TLSSocket, connect as tlsConnect } from 'node:tls'
import { type Authorizer, type Listener, type MeshSocket, type Service, peer } from '../../src/index.js'
import { type TestMesh, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { tlsOptions } from './tls-peer.js'

const app: http.RequestListener = (request, response) => {
  response.end(`${request.method ?? ''} ${request.url ?? ''} from ${peer(request.socket)?.service ?? 'none'}`)
}

describe('serve', () => {
  for (const [kind, make] of [
    ['http', () => http.createServer(app)],
    ['https', () => https.createServer(app)],
    ['http2 with HTTP/1.1 allowed', () => http2.createSecureServer({ allowHTTP1: true }, app as never)],
  ] as const) {
    it(`exposes the peer to a server of node:${kind}`, async (t) => {
      const { web, dial } = await serving(t, make())
      assert.equal(await get(await dial(web), '/a'), 'GET /a from web')
    })
  }

  it('serves HTTP/2', async (t) => {
    const { web, dial } = await serving(t, http2.createSecureServer({}, app as never), { alpn: true })
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    for (const path of ['/1', '/2']) {
      assert.equal(await readAll(session.request({ ':path': path })), `GET ${path} from web`)
    }
    session.close()
    await once(session, 'close')
  })

  it('serves HTTP/2 without ALPN for a server of http2.createServer', async (t) => {
    const { web, dial } = await serving(t, http2.createServer(app as never))
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    assert.equal(await readAll(session.request({ ':path': '/x' })), 'GET /x from web')
    session.close()
    await once(session, 'close')
  })

  it('passes no request of a denied peer to the server', async (t) => {
    let requests = 0
    const { agent, web, dial } = await serving(
      t,
      http.createServer(() => (requests += 1)),
    )
    agent.setIntention('web', 'api', 'deny')
    const error = await rejection(get(await dial(web), '/'))
    assert.equal(error.code, 'ERR_CONNECT_REJECTED')
    assert.equal(requests, 0)
  })

  it('reads a request that was sent while authorization was pending', async (t) => {
    let allow: (() => void) | undefined
    const { web, dial } = await serving(t, http.createServer(app), {
      authorize: () =>
        new Promise((resolve) => {
          allow = () => {
            resolve({ authorized: true, reason: 'test' })
          }
        }),
    })
    const answer = get(await dial(web), '/early')
    await until('authorization is pending', () => allow !== undefined)
    allow?.()
    assert.equal(await answer, 'GET /early from web')
  })

  it('emits listening, reports its address, and applies the timeouts of the server', async (t) => {
    const server = http.createServer({ headersTimeout: 100, connectionsCheckingInterval: 50 }, app)
    const listening = once(server, 'listening')
    const { web, dial, port } = await serving(t, server)
    await listening
    assert.equal((server.address() as { port: number }).port, port)
    const socket = await dial(web)
    socket.write('GET / HTTP/1.1\r\nx-slow: ')
    assert.match(await readAll(socket), /^HTTP\/1\.1 408 /)
  })

  it('completes pending requests and ends idle connections when it drains', async (t) => {
    let respond: (() => void) | undefined
    const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      if (request.url === '/slow') respond = () => response.end('done')
      else response.end('quick')
    })
    const { web, dial, listener } = await serving(t, server)
    const keepAlive = (): http.Agent => new http.Agent({ keepAlive: true })
    const idle = await dial(web)
    assert.equal(await get(idle, '/quick', keepAlive()), 'quick')
    const slow = get(await dial(web), '/slow', keepAlive())
    await until('the request has arrived', () => respond !== undefined)
    const idleEnded = once(idle, 'close')
    const closing = listener.close({ drainTimeoutMs: 5000 })
    await idleEnded
    respond?.()
    assert.equal(await slow, 'done')
    await closing
  })

  it('does not wait for connections without a request when it drains', async (t) => {
    const { web, dial, listener } = await serving(t, http.createServer(app))
    const idle = await dial(web)
    const ended = new Promise((resolve) =>
      idle
        .on('error', () => undefined)
        .on('close', resolve)
        .resume(),
    )
    while (listener.connections === 0) await new Promise(setImmediate)
    await listener.close({ drainTimeoutMs: 60_000 })
    await ended
  })

  it('removes its listeners from a server that it failed to serve', async (t) => {
    const { join } = await startMesh(t)
    const server = http2.createSecureServer({}, app as never)
    const before = server.eventNames().map((name) => [name, server.listenerCount(name)])
    for (let i = 0; i < 3; i += 1)
      await rejection(join('api').serve(server, { port: 0, host: '203.0.113.1' }))
    assert.deepEqual(
      server.eventNames().map((name) => [name, server.listenerCount(name)]),
      before,
    )
  })

  it('completes pending HTTP/2 streams, and then ends the sessions, when it drains', async (t) => {
    let respond: (() => void) | undefined
    const server = http2.createSecureServer({}, (_request, response) => {
      respond = () => response.end('done')
    })
    const { web, dial, listener } = await serving(t, server, { alpn: true })
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    const request = session.request({ ':path': '/' })
    await until('the request has arrived', () => respond !== undefined)
    const closing = listener.close({ drainTimeoutMs: 5000 })
    await once(session, 'goaway')
    respond?.()
    assert.equal(await readAll(request), 'done')
    await closing
  })

  it('rejects a server that listens', async (t) => {
    const { join } = await startMesh(t)
    const server = http.createServer(app).listen(0, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    const error = await rejection(join('api').serve(server, { port: 0 }))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
    assert.match(
      error.message,
      /a server that does not listen: leave out its own listen\(\), got one that listens/,
    )
  })

  it('accepts any ALPN offer for an HTTP/1.1 server: the built-in proxy of Consul offers h2', async (t) => {
    const { web, port } = await serving(t, http.createServer(app))
    const upstream = { address: `127.0.0.1:${port}`, service: 'api' }
    for (const alpnProtocols of [['h2'], ['h2', 'http/1.1'], ['http/1.1']]) {
      const socket = await web.dial(upstream, { alpnProtocols })
      assert.equal(socket.alpnProtocol, false)
      assert.equal(await get(socket, '/'), 'GET / from web')
    }
  })

  it('negotiates HTTP/1.1 with an HTTP/2 server only with allowHTTP1', async (t) => {
    const { web, port } = await serving(t, http2.createSecureServer({}, app as never))
    const upstream = { address: `127.0.0.1:${port}`, service: 'api' }
    assert.equal((await web.dial(upstream, { alpnProtocols: ['http/1.1', 'h2'] })).alpnProtocol, 'h2')
    assert.equal(
      (await rejection(web.dial(upstream, { alpnProtocols: ['http/1.1'] }))).code,
      'ERR_CONNECT_DIAL_FAILED',
    )
  })

  it('tells HTTP/2 from HTTP/1.1 by the first bytes, whatever a client has negotiated', async (t) => {
    const { web, port } = await serving(t, http2.createSecureServer({ allowHTTP1: true }, app as never))
    const upstream = { address: `127.0.0.1:${port}`, service: 'api' }
    for (const alpnProtocols of [undefined, ['h2'], ['http/1.1'], ['h2', 'http/1.1']]) {
      const options = alpnProtocols && { alpnProtocols }
      assert.equal(await get(await web.dial(upstream, options), '/'), 'GET / from web')
      const http1 = await web.dial(upstream, options)
      await flush(http1, 'P')
      http1.write('OST / HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: 0\r\n\r\n')
      assert.match(await readAll(http1), /^HTTP\/1.1 200 OK\r\n/)
      const socket = await web.dial(upstream, options)
      const session = http2.connect('https://api', { createConnection: () => socket })
      const stream = session.request({ ':path': '/' })
      assert.equal(await readAll(stream), 'GET / from web')
      const closed = once(session, 'close')
      session.close()
      await closed
    }
    const slow = await web.dial(upstream)
    for (const part of ['P', 'RI', ' * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\0\0\0\x04\0\0\0\0\0']) {
      await flush(slow, part)
    }
    const [settings] = (await once(slow, 'data')) as [Buffer]
    assert.equal(settings[3], 4)
    slow.destroy()
    for (const part of ['', 'PR']) {
      const ending = await web.dial(upstream)
      ending.end(part)
      assert.equal((await rejection(readAll(ending))).code, 'ERR_CONNECT_REJECTED')
    }
  })

  it('rejects values that are not servers', async (t) => {
    const { join } = await startMesh(t)
    for (const wrong of [undefined, null, {}, app, 'http']) {
      const error = await rejection(join('api').serve(wrong as never, { port: 0 }))
      assert.equal(error.code, 'ERR_CONNECT_OPTION')
    }
  })
})

/** Writes bytes, and waits until they are on their way. */
async function flush(socket: MeshSocket, bytes: string): Promise<void> {
  await new Promise((resolve) => socket.write(bytes, 'latin1', resolve))
  await turn()
}

interface Serving extends TestMesh {
  readonly web: Service
  readonly port: number
  readonly listener: Listener
  readonly dial: (from: Service) => Promise<MeshSocket>
}

async function serving(
  t: Parameters<typeof startMesh>[0],
  server: Parameters<Service['serve']>[0],
  { alpn = false, ...options }: { alpn?: boolean; authorize?: Authorizer } = {},
): Promise<Serving> {
  const mesh = await startMesh(t)
  const api = mesh.join('api', options)
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  const port = portOf(listener)
  const web = mesh.join('web')
  return {
    ...mesh,
    web,
    port,
    listener,
    dial: (from) =>
      alpn ? h2Socket(mesh, port) : from.dial({ address: `127.0.0.1:${port}`, service: 'api' }),
  }
}

/** A connection that offers h2, as other implementations of Connect do. */
async function h2Socket({ agent }: TestMesh, port: number): Promise<MeshSocket> {
  const options = tlsOptions(agent.issueLeaf('web'), agent.ca)
  const socket = tlsConnect({ ...options, port, host: '127.0.0.1', ALPNProtocols: ['h2'] })
  await once(socket, 'secureConnect')
  assert.equal(socket.alpnProtocol, 'h2')
  return socket as unknown as MeshSocket
}

async function get(socket: MeshSocket, path: string, agent?: http.Agent): Promise<string> {
  const createConnection = (): TLSSocket => socket as unknown as TLSSocket
  const request = http.get({
    path,
    ...(agent === undefined ? { createConnection } : { agent: Object.assign(agent, { createConnection }) }),
  })
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return readAll(response)
}
