import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import type { Server } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { promisify } from 'node:util'
import express from 'express'
import Fastify from 'fastify'
import type { Listener, Service } from '../../src/index.js'
import { codeOf } from '../fixtures/http-ways.js'
import { type TestMesh, offer, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'
import { offerServer } from './offer-server.js'

const URL = 'https://api.service.consul/'

/** Creates a server, and a function that shuts it down as its users do. */
type Kind = (app: http.RequestListener) => Promise<{ server: Server; shutDown: () => Promise<unknown> }>

const kinds: Readonly<Record<string, Kind>> = {
  'node:http': async (app) => {
    const server = http.createServer(app)
    return Promise.resolve({ server, shutDown: () => promisify(server.close.bind(server))() })
  },
  'node:http with Symbol.asyncDispose': async (app) => {
    const server = http.createServer(app)
    return Promise.resolve({ server, shutDown: () => server[Symbol.asyncDispose]() })
  },
  'node:http2': async (app) => {
    const server = http2.createSecureServer({ allowHTTP1: true }, app as never)
    return Promise.resolve({ server, shutDown: () => promisify(server.close.bind(server))() })
  },
  express: async (app) => {
    const server = http.createServer(express().use(app))
    return Promise.resolve({ server, shutDown: () => promisify(server.close.bind(server))() })
  },
  fastify: async (app) => {
    const framework = Fastify()
    framework.all('/*', (request, reply) => {
      reply.hijack()
      app(request.raw, reply.raw)
    })
    await framework.ready()
    return { server: framework.server, shutDown: () => framework.close() }
  },
}

interface Serving extends TestMesh {
  readonly api: Service
  readonly web: Service
  readonly listener: Listener
}

async function serve(t: TestContext, server: Server): Promise<Serving> {
  const mesh = await startMesh(t)
  const api = mesh.join('api')
  return { ...mesh, api, web: mesh.join('web'), listener: await offerServer(api, server) }
}

async function instances({ agent }: TestMesh): Promise<number> {
  const response = await fetch(`${agent.url}/v1/health/service/api`)
  return ((await response.json()) as unknown[]).length
}

for (const [name, make] of Object.entries(kinds)) {
  describe(`serve: ${name}`, () => {
    it('deregisters its instance, completes pending requests, and closes its listener at shutdown', async (t) => {
      let respond: (() => void) | undefined
      const { server, shutDown } = await make((request, response) => {
        if (request.url === '/slow') respond = () => response.end('slow')
        else response.end('quick')
      })
      const mesh = await serve(t, server)
      assert.deepEqual(server.address(), mesh.listener.address())
      assert.equal(server.listening, true)
      assert.equal(await (await mesh.web.fetch(URL)).text(), 'quick')
      const slow = mesh.web.fetch(`${URL}slow`).then((response) => response.text())
      await until('the request has arrived', () => respond !== undefined)
      const closed = once(server, 'close')
      const down = shutDown()
      await until('the instance is deregistered', async () => (await instances(mesh)) === 0)
      respond?.()
      assert.equal(await slow, 'slow')
      await Promise.all([down, closed])
      assert.equal(server.address(), null)
      assert.equal(server.listening, false)
      assert.equal(mesh.listener.address(), null)
      await shutDown()
      await promisify(server.close.bind(server))()
    })

    it('rejects listen() of the server', async (t) => {
      const { server } = await make((_request, response) => response.end())
      const { join } = await startMesh(t)
      const api = join('api')
      const serving = api.serve(server, { port: 0, host: '127.0.0.1' })
      const expected = { code: 'ERR_CONNECT_LISTEN', message: /^listen: the server is served in the mesh/ }
      assert.throws(() => server.listen(0, '127.0.0.1'), expected)
      await serving
      assert.throws(() => server.listen(0, '127.0.0.1'), expected)
    })
  })
}

describe('serve', () => {
  it('rejects listen() of Fastify', async (t) => {
    const app = Fastify()
    await app.ready()
    await serve(t, app.server)
    assert.equal(codeOf(await rejection(app.listen({ port: 0 }))), 'ERR_CONNECT_LISTEN')
    await app.close()
  })

  it('ends a shutdown at closeAllConnections()', async (t) => {
    let requests = 0
    const server = http.createServer(() => {
      requests += 1
    })
    const { web } = await serve(t, server)
    const failed = rejection(web.fetch(URL))
    await until('a request has arrived', () => requests === 1)
    const closed = promisify(server.close.bind(server))()
    await until('the server drains', () => !server.listening)
    const start = performance.now()
    server.closeAllConnections()
    await closed
    assert.ok(performance.now() - start < 5_000)
    await failed
  })

  it('fails when the server is closed before the listener is open', async (t) => {
    const mesh = await startMesh(t)
    const server = http.createServer()
    const failed = rejection(mesh.join('api').serve(server, { port: 0, host: '127.0.0.1' }))
    await promisify(server.close.bind(server))()
    assert.equal((await failed).code, 'ERR_CONNECT_CLOSED')
    assert.equal(server.address(), null)
  })

  it('restores a server that it failed to serve', async (t) => {
    const { join } = await startMesh(t)
    const server = http.createServer()
    await rejection(join('api').serve(server, { port: 0, host: '203.0.113.1' }))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    assert.ok(server.listening && server.address() !== null)
    await promisify(server.close.bind(server))()
  })

  it('keeps serving on the second listener when the first is closed', async (t) => {
    const server = http.createServer((_request, response) => response.end('here'))
    const mesh = await serve(t, server)
    const second = await offerServer(mesh.api, server)
    await mesh.listener.close()
    assert.equal(await instances(mesh), 1)
    assert.deepEqual(server.address(), second.address())
    assert.equal(await (await mesh.web.fetch(URL)).text(), 'here')
    await promisify(server.close.bind(server))()
    assert.equal(await instances(mesh), 0)
  })
})

describe('a server that drains', () => {
  it('answers one more request on a kept HTTP/1 connection, with connection: close', async (t) => {
    const server = http.createServer((_request, response) => response.end('here'))
    const mesh = await serve(t, server)
    const socket = await mesh.web.dial('api')
    let received = ''
    socket.on('data', (chunk: Buffer) => (received += chunk.toString()))
    const ended = once(socket, 'end')
    const request = 'GET / HTTP/1.1\r\nHost: api\r\n\r\n'
    socket.write(request)
    await until('the first answer has arrived', () => received.endsWith('here'))
    assert.match(received, /\r\nConnection: keep-alive\r\n/)
    received = ''
    const closed = mesh.listener.close()
    await until('the server drains', () => !server.listening)
    socket.write(request)
    await ended
    assert.match(received, /^HTTP\/1\.1 200 OK\r\n.*Connection: close\r\n.*here$/s)
    await closed
  })

  it('adds connection: close to pending responses', async (t) => {
    let respond: (() => void) | undefined
    const server = http.createServer((_request, response) => {
      respond = () => response.end('here')
    })
    const mesh = await serve(t, server)
    const response = mesh.web.fetch(URL)
    await until('the request has arrived', () => respond !== undefined)
    const closed = mesh.listener.close()
    await until('the server drains', () => !server.listening)
    respond?.()
    assert.equal((await response).headers.get('connection'), 'close')
    assert.equal(await (await response).text(), 'here')
    await closed
  })

  it('announces to HTTP/2 clients that it accepts the streams that they have sent', async (t) => {
    const server = http2.createSecureServer({}, (_request, response) => {
      response.end('here')
    })
    const mesh = await serve(t, server)
    const socket = await mesh.web.dial('api', { alpnProtocols: ['h2'] })
    const session = http2.connect('https://api', { createConnection: () => socket })
    const lastStreamIds: number[] = []
    session.on('goaway', (_code: number, lastStreamId: number) => lastStreamIds.push(lastStreamId))
    await once(session, 'remoteSettings')
    const closed = mesh.listener.close()
    await Promise.all([once(session, 'close'), closed])
    assert.equal(lastStreamIds[0], 2 ** 31 - 1)
  })
})

describe('listener.close', () => {
  for (const end of ['close', 'destroy'] as const) {
    it(`deregisters the instance at its port, and no other, at ${end}`, async (t) => {
      const mesh = await startMesh(t)
      const api = mesh.join('api')
      const listener = await offer(api, (socket) => socket.end())
      const other = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end())
      await api.register({ port: portOf(other), address: '127.0.0.1' })
      await listener[end]()
      await until('one instance remains', async () => (await instances(mesh)) === 1)
    })
  }

  it('keeps an instance registered while another listener has its port', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    const listener = await offer(api, (socket) => socket.end())
    const other = await api.listen({ port: portOf(listener), host: '127.0.0.2' }, (socket) => socket.end())
    await other.close()
    assert.equal(await instances(mesh), 1)
    await listener.close()
    assert.equal(await instances(mesh), 0)
  })
})
