import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import { describe, it } from 'node:test'
import type { TLSSocket } from 'node:tls'
import { type MeshSocket, type Service, peer } from '../../src/index.js'
import { portOf, rejection, startMesh, type TestMesh } from '../fixtures/mesh.js'

const app: http.RequestListener = (request, response) => {
  response.end(
    `${request.method ?? ''} ${request.url ?? ''} from ${peer(request.socket)?.service ?? 'nobody'}`,
  )
}

describe('serve', () => {
  for (const [what, make] of [
    ['http', () => http.createServer(app)],
    ['https', () => https.createServer(app)],
    ['http2 with HTTP/1.1 allowed', () => http2.createSecureServer({ allowHTTP1: true }, app as never)],
  ] as const) {
    it(`lets a server of node:${what} answer, and tell who asks`, async (t) => {
      const { web, dial } = await serving(t, make())
      assert.equal(await get(await dial(web), '/a'), 'GET /a from web')
    })
  }

  it('speaks HTTP/2 over the mesh', async (t) => {
    const { web, dial } = await serving(t, http2.createSecureServer({}, app as never), { alpn: true })
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    for (const path of ['/1', '/2']) {
      const request = session.request({ ':path': path })
      let body = ''
      for await (const chunk of request) body += String(chunk)
      assert.equal(body, `GET ${path} from web`)
    }
    session.close()
    await once(session, 'close')
  })

  it('speaks HTTP/2 in clear inside the mesh’s TLS', async (t) => {
    const { web, dial } = await serving(t, http2.createServer(app as never))
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    let body = ''
    for await (const chunk of session.request({ ':path': '/x' })) body += String(chunk)
    assert.equal(body, 'GET /x from web')
    session.close()
    await once(session, 'close')
  })

  it('hands over upgraded connections', async (t) => {
    const server = http.createServer(app)
    server.on('upgrade', (request, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
      socket.write(peer(request.socket)?.service ?? 'nobody')
      socket.pipe(socket)
    })
    const { web, dial } = await serving(t, server)
    const mesh = await dial(web)
    const request = http.request({
      createConnection: () => mesh,
      headers: { connection: 'upgrade', upgrade: 'echo' },
    })
    request.end()
    const [, socket, head] = (await once(request, 'upgrade')) as [unknown, MeshSocket, Buffer]
    let heard = head.toString()
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
    socket.end(' says hello')
    await once(socket, 'end')
    assert.equal(heard, 'web says hello')
  })

  it('shows the application nothing of a caller who may not call', async (t) => {
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

  it('reads what a client sent while the decision was pending', async (t) => {
    let decide: (() => void) | undefined
    const asked = new Promise<void>((resolve) => {
      decide = undefined
      authorizeAsked = resolve
    })
    const allowed = new Promise<void>((resolve) => (decide = resolve))
    const { web, dial } = await serving(t, http.createServer(app), {
      authorize: async () => {
        authorizeAsked?.()
        await allowed
        return { authorized: true, reason: 'test' }
      },
    })
    const answer = get(await dial(web), '/early')
    await asked
    decide?.()
    assert.equal(await answer, 'GET /early from web')
  })

  it('shows its address where frameworks look for it, and starts the server’s own timeouts', async (t) => {
    const server = http.createServer({ headersTimeout: 100, connectionsCheckingInterval: 50 }, app)
    const heard = once(server, 'listening')
    const { web, dial, port } = await serving(t, server)
    await heard
    assert.equal((server.address() as { port: number }).port, port)
    const socket = await dial(web)
    socket.write('GET / HTTP/1.1\r\nx-slow: ')
    let answer = ''
    for await (const chunk of socket) answer += String(chunk)
    assert.match(answer, /^HTTP\/1\.1 408 /)
  })

  it('drains: requests under way are answered, idle connections end', async (t) => {
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
    while (respond === undefined) await new Promise(setImmediate)
    const idleEnded = once(idle, 'close')
    const closing = listener.close({ drainTimeoutMs: 5000 })
    await idleEnded
    respond()
    assert.equal(await slow, 'done')
    await closing
  })

  it('does not wait, when it drains, for a connection that has asked for nothing', async (t) => {
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

  it('leaves nothing on a server that could not be served', async (t) => {
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

  it('drains HTTP/2: streams under way end, then the sessions', async (t) => {
    let respond: (() => void) | undefined
    const server = http2.createSecureServer({}, (_request, response) => {
      respond = () => response.end('done')
    })
    const { web, dial, listener } = await serving(t, server, { alpn: true })
    const socket = await dial(web)
    const session = http2.connect('http://api', { createConnection: () => socket })
    const request = session.request({ ':path': '/' })
    while (respond === undefined) await new Promise(setImmediate)
    const closing = listener.close({ drainTimeoutMs: 5000 })
    await once(session, 'goaway')
    respond()
    let body = ''
    for await (const chunk of request) body += String(chunk)
    assert.equal(body, 'done')
    await closing
  })

  it('refuses a server that listens on a port of its own', async (t) => {
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

  it('takes clients of HTTP/1 that offer whatever they like, as Consul’s own proxy does', async (t) => {
    const { web, port } = await serving(t, http.createServer(app))
    const at = { address: `127.0.0.1:${port}`, service: 'api' }
    for (const alpnProtocols of [['h2'], ['h2', 'http/1.1'], ['http/1.1']]) {
      const socket = await web.dial(at, { alpnProtocols })
      assert.equal(socket.alpnProtocol, false)
      assert.equal(await get(socket, '/'), 'GET / from web')
    }
  })

  it('offers HTTP/1.1 beside HTTP/2 only where the server takes it', async (t) => {
    const { web, port } = await serving(t, http2.createSecureServer({}, app as never))
    const at = { address: `127.0.0.1:${port}`, service: 'api' }
    assert.equal((await web.dial(at, { alpnProtocols: ['http/1.1', 'h2'] })).alpnProtocol, 'h2')
    assert.equal(
      (await rejection(web.dial(at, { alpnProtocols: ['http/1.1'] }))).code,
      'ERR_CONNECT_DIAL_FAILED',
    )
  })

  it('refuses what is no server', async (t) => {
    const { join } = await startMesh(t)
    for (const wrong of [undefined, null, {}, app, 'http']) {
      const error = await rejection(join('api').serve(wrong as never, { port: 0 }))
      assert.equal(error.code, 'ERR_CONNECT_OPTION')
    }
  })
})

let authorizeAsked: (() => void) | undefined

interface Serving extends TestMesh {
  readonly web: Service
  readonly port: number
  readonly listener: Awaited<ReturnType<Service['serve']>>
  readonly dial: (from: Service) => Promise<MeshSocket>
}

async function serving(
  t: Parameters<typeof startMesh>[0],
  server: Parameters<Service['serve']>[0],
  options: { alpn?: boolean; authorize?: () => Promise<{ authorized: boolean; reason: string }> } = {},
): Promise<Serving> {
  const mesh = await startMesh(t)
  const api = mesh.join('api', options.authorize === undefined ? {} : { authorize: options.authorize })
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  const port = portOf(listener)
  const web = mesh.join('web')
  return {
    ...mesh,
    web,
    port,
    listener,
    dial: (from) =>
      options.alpn === true
        ? h2Socket(mesh, port)
        : from.dial({ address: `127.0.0.1:${port}`, service: 'api' }),
  }
}

/** A connection that offers h2, as another implementation of Connect would. */
async function h2Socket({ agent }: TestMesh, port: number): Promise<MeshSocket> {
  const { connect } = await import('node:tls')
  const leaf = agent.issueLeaf('web')
  const socket = connect({
    port,
    host: '127.0.0.1',
    cert: leaf.chainPem,
    key: leaf.privateKeyPem,
    ca: agent.ca.rootPem,
    checkServerIdentity: () => undefined,
    ALPNProtocols: ['h2'],
  })
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
  let body = ''
  for await (const chunk of response) body += String(chunk)
  return body
}
