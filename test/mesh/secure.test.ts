import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import * as net from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import * as tls from 'node:tls'
import { type Service, peer } from '../../src/index.js'
import { type TestMesh, nextEvent, readAll, rejection, startMesh } from '../fixtures/mesh.js'

const app: http.RequestListener = (request, response) => {
  response.end(`hello ${peer(request.socket)?.service}`)
}

const greet = (socket: net.Socket): void => {
  socket.end(`hello ${peer(socket)?.service}`)
}

describe('secure', () => {
  for (const [kind, create] of [
    ['node:http', () => http.createServer(app)],
    ['node:https', () => https.createServer(app)],
    ['node:http2', () => http2.createSecureServer({ allowHTTP1: true }, app as never)],
  ] as const) {
    it(`authorizes clients of a ${kind} server that listens itself`, async (t) => {
      const { web, upstream } = await secured(t, create())
      const response = await web.fetch('https://depot.service.consul/')
      assert.equal(await response.text(), 'hello web')
      const socket = await web.dial(upstream)
      socket.write('GET / HTTP/1.1\r\nhost: depot\r\nconnection: close\r\n\r\n')
      assert.match(await readAll(socket), /hello web/)
    })
  }

  for (const [kind, create] of [
    ['node:tls', () => tls.createServer(greet)],
    ['node:net', () => net.createServer(greet)],
  ] as const) {
    it(`authorizes clients of a ${kind} server that listens itself`, async (t) => {
      const { web, upstream } = await secured(t, create())
      assert.equal(await readAll(await web.dial(upstream)), 'hello web')
    })
  }

  it('answers no client in plain text, nor one without a certificate of the mesh', async (t) => {
    let connections = 0
    const server = http.createServer(app).on('connection', () => (connections += 1))
    const { port, depot } = await secured(t, server)
    const plain = net.connect(port, '127.0.0.1').on('error', () => undefined)
    plain.write('GET / HTTP/1.1\r\nhost: depot\r\n\r\n')
    assert.doesNotMatch(await readAll(plain).catch(() => ''), /HTTP/)
    const rejected = nextEvent(depot, 'rejected', (error) => 'code' in error)
    const stranger = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    stranger.on('error', () => undefined).write('GET / HTTP/1.1\r\nhost: depot\r\n\r\n')
    await rejected
    assert.equal(connections, 0)
  })

  it('passes denied connections to no listener of the server, and closes revoked ones', async (t) => {
    let connections = 0
    const server = net.createServer((socket) => {
      connections += 1
      socket.write('hello')
    })
    const { agent, web, upstream, depot } = await secured(t, server)
    const socket = (await web.dial(upstream)).on('error', () => undefined)
    await once(socket, 'data')
    const revoked = nextEvent(depot, 'revoked')
    agent.setIntention('web', 'depot', 'deny')
    await revoked
    assert.equal((await rejection(readAll(await web.dial(upstream)))).code, 'ERR_CONNECT_REJECTED')
    assert.equal(connections, 1)
  })

  it('uses a new certificate for new connections', async (t) => {
    const { agent, depot, web, upstream } = await secured(t, net.createServer(greet))
    const serial = async (): Promise<string> => (await web.dial(upstream)).peer.serialNumber
    const before = await serial()
    const rotated = nextEvent(depot, 'rotated')
    agent.rotateCa()
    await rotated
    assert.notEqual(await serial(), before)
  })

  it('refuses connections until the first certificate, and after a failed call', async (t) => {
    const mesh = await startMesh(t)
    const depot = mesh.join('depot')
    let requests = 0
    const server = http.createServer((_request, response) => {
      requests += 1
      response.end()
    })
    t.after(() => server.close())
    const securing = depot.secure(server, { maxHandshakes: -1 })
    const port = await listening(server)
    assert.equal((await rejection(securing)).code, 'ERR_CONNECT_OPTION')
    for (const path of ['/1', '/2'])
      await rejection(once(http.get({ port, host: '127.0.0.1', path }), 'response'))
    assert.equal(requests, 0)
    await depot.secure(server)
    await depot.register({ port, address: '127.0.0.1' })
    assert.equal((await mesh.join('web').fetch('https://depot.service.consul/')).status, 200)
    assert.equal(requests, 1)
  })

  it('refuses a server that listens already, and one that is secured or served', async (t) => {
    const { join } = await startMesh(t)
    const depot = join('depot')
    const early = http.createServer(app).listen(0, '127.0.0.1')
    t.after(() => early.close())
    await once(early, 'listening')
    const refusal = await rejection(depot.secure(early))
    assert.equal(refusal.code, 'ERR_CONNECT_OPTION')
    assert.match(refusal.message, /a server that does not listen yet/)
    const server = http.createServer(app)
    await depot.secure(server)
    assert.match((await rejection(depot.secure(server))).message, /one that is secured/)
    assert.match((await rejection(depot.serve(server, { port: 0 }))).message, /one that is secured/)
    for (const wrong of [undefined, {}, app, { injectConnection: app, drain: app, destroy: app }])
      assert.equal((await rejection(depot.secure(wrong as never))).code, 'ERR_CONNECT_OPTION')
  })

  it('refuses plain text after a failed serve(), and after its emit was restored by another library', async (t) => {
    const { join } = await startMesh(t)
    const depot = join('depot')
    let connections = 0
    const server = net.createServer((socket) => {
      connections += 1
      socket.end('secret')
    })
    t.after(() => server.close())
    const emit = server.emit.bind(server)
    server.emit = emit
    await rejection(depot.secure(server, { maxHandshakes: -1 }))
    const port = await listening(server)
    assert.equal((await rejection(depot.serve(server, { port: 0 }))).code, 'ERR_CONNECT_OPTION')
    assert.equal((await rejection(depot.serve(server, { port: -1 }))).code, 'ERR_CONNECT_OPTION')
    await refusesPlainText(port)
    assert.equal(connections, 0)
    server.emit = emit
    await refusesPlainText(port)
    Reflect.deleteProperty(server, 'emit')
    await refusesPlainText(port)
  })

  it('refuses to be served while its own listen() is in progress', async (t) => {
    const { join } = await startMesh(t)
    let connections = 0
    const server = net.createServer(() => (connections += 1))
    t.after(() => server.close())
    server.listen(0, 'localhost')
    const bound = once(server, 'listening')
    const refused = await rejection(join('depot').serve(server, { port: 0 }))
    assert.equal(refused.code, 'ERR_CONNECT_LISTEN')
    await bound
    assert.equal(connections, 0)
  })

  it('refuses a server whose earlier port has open connections, and closes a server without a listener', async (t) => {
    const { join } = await startMesh(t)
    const server = net.createServer((socket) => socket.on('error', () => undefined))
    const port = await listening(server)
    const early = net.connect(port, '127.0.0.1').on('error', () => undefined)
    await once(server, 'connection')
    server.close()
    assert.match((await rejection(join('depot').secure(server))).message, /a server without connections/)
    early.destroy()
    const next = net.createServer()
    await rejection(join('depot').secure(next, { maxHandshakes: -1 }))
    await listening(next)
    await new Promise((resolve) => next.close(resolve))
    assert.equal(next.listening, false)
  })

  it('ends a connection whose peer has ended, unless the server is half-open', async (t) => {
    const { web, upstream } = await secured(
      t,
      net.createServer((socket) => socket.resume()),
    )
    const socket = await web.dial(upstream, { allowHalfOpen: true })
    socket.end()
    assert.equal(await readAll(socket), '')
  })

  it('closes although an HTTP/2 session was destroyed', async (t) => {
    const sessions: http2.ServerHttp2Session[] = []
    const server = http2.createServer((_request, response) => response.end())
    server.on('session', (session) => sessions.push(session))
    const { web, depot, upstream } = await secured(t, server)
    const socket = (await web.dial(upstream)).on('error', () => undefined)
    const client = http2.connect('http://depot', { createConnection: () => socket })
    client.on('error', () => undefined)
    await once(server, 'session')
    const closing = depot.close({ drainTimeoutMs: 1_000 })
    sessions[0]?.destroy()
    await closing
  })

  it('lets a server that only sends complete its transfer', async (t) => {
    let send: (() => void) | undefined
    const server = net.createServer((socket) => {
      socket.write('begin ')
      send = () => socket.end('complete')
    })
    const { web, depot, upstream } = await secured(t, server)
    const socket = await web.dial(upstream, { allowHalfOpen: true })
    const received = readAll(socket)
    while (send === undefined) await new Promise(setImmediate)
    const closing = depot.close({ drainTimeoutMs: 10_000 })
    // Longer than the time for which a drain keeps idle connections of HTTP servers.
    setTimeout(send, 1_200)
    assert.equal(await received, 'begin complete')
    await closing
  })

  for (const [what, close] of [
    ['the server', ({ server }: Secured) => server.close()],
    ['the service', ({ depot }: Secured) => depot.close()],
  ] as const) {
    it(`stops listening and lets a response end when ${what} is closed`, async (t) => {
      let respond: (() => void) | undefined
      const server = http.createServer((_request, response) => {
        respond = () => response.end('complete')
      })
      const mesh = await secured(t, server)
      const response = mesh.web.fetch('https://depot.service.consul/').then((answer) => answer.text())
      while (respond === undefined) await new Promise(setImmediate)
      const closed = once(server, 'close')
      let closings = 0
      server.on('close', () => (closings += 1))
      void close(mesh)
      while (server.listening) await new Promise(setImmediate)
      respond()
      assert.equal(await response, 'complete')
      await closed
      await mesh.depot.close()
      assert.equal(closings, 1)
      const refused = await rejection(once(net.connect(mesh.port, '127.0.0.1'), 'connect'))
      assert.equal(refused.code, 'ECONNREFUSED')
    })
  }
})

interface Secured extends TestMesh {
  readonly server: net.Server
  readonly depot: Service
  readonly web: Service
  readonly port: number
  readonly upstream: { readonly address: string; readonly service: string }
}

/** Secures a server, makes it listen, and registers it as `depot`. */
async function secured(t: TestContext, server: net.Server): Promise<Secured> {
  const mesh = await startMesh(t)
  const depot = mesh.join('depot')
  await depot.secure(server)
  const port = await listening(server)
  await depot.register({ port, address: '127.0.0.1' })
  const upstream = { address: `127.0.0.1:${port}`, service: 'depot' }
  return { ...mesh, server, depot, web: mesh.join('web'), port, upstream }
}

async function refusesPlainText(port: number): Promise<void> {
  const plain = net.connect(port, '127.0.0.1').on('error', () => undefined)
  plain.write('GET / HTTP/1.1\r\nhost: depot\r\n\r\n')
  assert.equal(await readAll(plain).catch(() => ''), '')
}

async function listening(server: net.Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as net.AddressInfo).port
}
