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

const URL = 'https://api.service.consul/'

/** A server of each kind, and how its owner shuts it down. */
type Kind = (app: http.RequestListener) => Promise<{ server: Server; shutDown: () => Promise<unknown> }>

const kinds: Readonly<Record<string, Kind>> = {
  'node:http': async (app) => {
    const server = http.createServer(app)
    return Promise.resolve({ server, shutDown: () => promisify(server.close.bind(server))() })
  },
  'node:http disposed of': async (app) => {
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
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  await api.register({ port: portOf(listener), address: '127.0.0.1' })
  return { ...mesh, api, web: mesh.join('web'), listener }
}

async function instances({ agent }: TestMesh): Promise<number> {
  const response = await fetch(`${agent.url}/v1/health/service/api`)
  return ((await response.json()) as unknown[]).length
}

for (const [name, make] of Object.entries(kinds)) {
  describe(`serve: ${name}`, () => {
    it('shuts down: leaves the catalog, answers the request under way, and closes the listener', async (t) => {
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
      await until('the request is under way', () => respond !== undefined)
      const closed = once(server, 'close')
      const down = shutDown()
      await until('the instance is gone', async () => (await instances(mesh)) === 0)
      respond?.()
      assert.equal(await slow, 'slow')
      await Promise.all([down, closed])
      assert.equal(server.address(), null)
      assert.equal(server.listening, false)
      assert.equal(mesh.listener.address(), null)
      await shutDown()
      await promisify(server.close.bind(server))()
    })

    it('opens no port beside the mesh', async (t) => {
      const { server } = await make((_request, response) => response.end())
      const { join } = await startMesh(t)
      const api = join('api')
      const serving = api.serve(server, { port: 0, host: '127.0.0.1' })
      const refused = { code: 'ERR_CONNECT_LISTEN', message: /^listen: the server is served in the mesh/ }
      assert.throws(() => server.listen(0, '127.0.0.1'), refused)
      await serving
      assert.throws(() => server.listen(0, '127.0.0.1'), refused)
    })
  })
}

describe('serve', () => {
  it('lets Fastify listen nowhere else', async (t) => {
    const app = Fastify()
    await app.ready()
    await serve(t, app.server)
    assert.equal(codeOf(await rejection(app.listen({ port: 0 }))), 'ERR_CONNECT_LISTEN')
    await app.close()
  })

  it('cuts a shutdown short by closeAllConnections', async (t) => {
    let requests = 0
    const server = http.createServer(() => {
      requests += 1
    })
    const { web } = await serve(t, server)
    const failed = rejection(web.fetch(URL))
    await until('a request is under way', () => requests === 1)
    const closed = promisify(server.close.bind(server))()
    await until('it drains', () => !server.listening)
    const start = performance.now()
    server.closeAllConnections()
    await closed
    assert.ok(performance.now() - start < 5_000)
    await failed
  })

  it('ends with the server when that is closed before the listener is open', async (t) => {
    const mesh = await startMesh(t)
    const server = http.createServer()
    const failed = rejection(mesh.join('api').serve(server, { port: 0, host: '127.0.0.1' }))
    await promisify(server.close.bind(server))()
    assert.equal((await failed).code, 'ERR_CONNECT_CLOSED')
    assert.equal(server.address(), null)
  })

  it('gives a server back that could not be served', async (t) => {
    const { join } = await startMesh(t)
    const server = http.createServer()
    await rejection(join('api').serve(server, { port: 0, host: '203.0.113.1' }))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    assert.ok(server.listening && server.address() !== null)
    await promisify(server.close.bind(server))()
  })

  it('goes on for the second of two listeners when the first is closed', async (t) => {
    const server = http.createServer((_request, response) => response.end('here'))
    const mesh = await serve(t, server)
    const second = await mesh.api.serve(server, { port: 0, host: '127.0.0.1' })
    await mesh.api.register({ port: portOf(second), address: '127.0.0.1' })
    await mesh.listener.close()
    assert.equal(await instances(mesh), 1)
    assert.deepEqual(server.address(), second.address())
    assert.equal(await (await mesh.web.fetch(URL)).text(), 'here')
    await promisify(server.close.bind(server))()
    assert.equal(await instances(mesh), 0)
  })
})

describe('a server that drains', () => {
  it('answers one more request on a kept HTTP/1 connection, and says that it closes', async (t) => {
    const server = http.createServer((_request, response) => response.end('here'))
    const mesh = await serve(t, server)
    const socket = await mesh.web.dial('api')
    let heard = ''
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
    const ended = once(socket, 'end')
    const request = 'GET / HTTP/1.1\r\nHost: api\r\n\r\n'
    socket.write(request)
    await until('the first answer is there', () => heard.endsWith('here'))
    assert.match(heard, /\r\nConnection: keep-alive\r\n/)
    heard = ''
    const closed = mesh.listener.close()
    await until('it drains', () => !server.listening)
    socket.write(request)
    await ended
    assert.match(heard, /^HTTP\/1\.1 200 OK\r\n.*Connection: close\r\n.*here$/s)
    await closed
  })

  it('says so in a response whose headers are not sent yet', async (t) => {
    let respond: (() => void) | undefined
    const server = http.createServer((_request, response) => {
      respond = () => response.end('here')
    })
    const mesh = await serve(t, server)
    const response = mesh.web.fetch(URL)
    await until('the request is under way', () => respond !== undefined)
    const closed = mesh.listener.close()
    await until('it drains', () => !server.listening)
    respond?.()
    assert.equal((await response).headers.get('connection'), 'close')
    assert.equal(await (await response).text(), 'here')
    await closed
  })

  it('accepts the HTTP/2 streams that are on their way', async (t) => {
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
  for (const way of ['close', 'destroy'] as const) {
    it(`takes the instance at its port out of the catalog by ${way}, and no other`, async (t) => {
      const mesh = await startMesh(t)
      const api = mesh.join('api')
      const listener = await offer(api, (socket) => socket.end())
      const other = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end())
      await api.register({ port: portOf(other), address: '127.0.0.1' })
      await listener[way]()
      await until('one is left', async () => (await instances(mesh)) === 1)
    })
  }

  it('leaves an instance in the catalog whose port another listener has', async (t) => {
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
