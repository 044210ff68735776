import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import { type TestContext, describe, it } from 'node:test'
import { interceptors, request as undiciRequest } from 'undici'
import { MeshDispatcher } from '../../src/http/dispatcher.js'
import { type AgentOptions, type MeshSocket, type Registration, type Service, peer } from '../../src/index.js'
import { codeOf, httpWays } from '../fixtures/http-ways.js'
import { type TestMesh, nextEvent, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'
import { clockedService } from './clocked-service.js'
import { offerServer } from './offer-server.js'
import { type TcpServer, startTcpServer } from './tcp-server.js'

const NONE = 'ERR_CONNECT_NO_INSTANCES'

interface Serving extends TestMesh {
  readonly web: Service
  readonly api: Service
  /** The connections that the server has accepted, oldest first. */
  readonly connections: MeshSocket[]
  /** The registration of `api`. */
  readonly registration: Registration
}

/** A service `api` that answers with the request and its source, and a service `web`. */
async function serving(t: TestContext, app: http.RequestListener = greet): Promise<Serving> {
  const mesh = await startMesh(t)
  const api = mesh.join('api')
  return { ...mesh, api, web: mesh.join('web'), ...(await offerHttp(api, app)) }
}

/** A service whose host `silent.internal` is a server that accepts connections and sends nothing. */
async function withSilentHost(t: TestContext): Promise<TcpServer & { readonly web: Service }> {
  const { join } = await startMesh(t)
  const silent = await startTcpServer(t)
  const hosts = { 'silent.internal': { address: silent.address, service: 'api' } }
  return { ...silent, web: join('web', { hosts }) }
}

/** A client on a clock of its own, and a function that advances the clock to a time before the next expiry. */
function clockedClient(
  t: TestContext,
  api: Service,
  agent: AgentOptions,
): { readonly web: Service; readonly untilExpiry: (remainingMs: number) => Promise<void> } {
  const { service: web, clock } = clockedService(t, 'web', { agent })
  const untilExpiry = async (remainingMs: number): Promise<void> => {
    const expiry = Math.min(web.leaf?.notAfter.getTime() ?? 0, api.leaf?.notAfter.getTime() ?? 0)
    await clock.advance(expiry - clock.now() - remainingMs)
  }
  return { web, untilExpiry }
}

/** The body of a GET request of node:http. */
async function get(agent: http.Agent, path = '/'): Promise<string> {
  const request = http.get(`http://api.service.consul${path}`, { agent })
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return (await response.toArray()).join('')
}

async function offerHttp(
  service: Service,
  app: http.RequestListener,
): Promise<Pick<Serving, 'connections' | 'registration'>> {
  // Longer than any test, so that the server does not close an idle connection.
  const server = http.createServer({ keepAliveTimeout: 120_000 }, app)
  const connections: MeshSocket[] = []
  server.on('connection', (socket) => connections.push(socket as never))
  const listener = await service.serve(server, { port: 0, host: '127.0.0.1' })
  const registration = await service.register({ port: portOf(listener), address: '127.0.0.1' })
  return { connections, registration }
}

const greet: http.RequestListener = (request, response) => {
  let body = ''
  request.on('data', (chunk) => (body += String(chunk)))
  request.on('end', () => {
    const { method = '', url = '', socket } = request
    response.end(`${method} ${url} ${body}from ${peer(socket)?.service ?? 'none'}`)
  })
}

for (const [name, ask] of Object.entries(httpWays)) {
  describe(name, () => {
    it('reaches an upstream by the host of its URL', async (t) => {
      const { web } = await serving(t)
      for (const host of ['api.service.consul', 'api.connect.consul', 'api.service.dc1.consul']) {
        assert.deepEqual(await ask(web, `https://${host}/x?y`), { status: 200, body: 'GET /x?y from web' })
      }
      assert.deepEqual(await ask(web, 'https://api.service.consul/', { method: 'POST', body: 'hello ' }), {
        status: 200,
        body: 'POST / hello from web',
      })
    })

    it('reaches a prepared query', async (t) => {
      const { agent, web } = await serving(t)
      agent.createQuery({ Name: 'nearest-api', Service: { Service: 'api' } })
      assert.equal((await ask(web, 'https://nearest-api.query.consul/')).body, 'GET / from web')
    })

    it('uses the options hosts and domain, and separate connections for each upstream', async (t) => {
      const { join, api } = await serving(t)
      await offerHttp(join('Other.Name'), (request, response) =>
        response.end(`other for ${peer(request.socket)?.service}`),
      )
      const web = join('web', {
        hosts: { 'other.internal': { service: 'Other.Name' } },
        domain: 'mesh.example',
      })
      assert.equal((await ask(web, 'https://other.internal/')).body, 'other for web')
      assert.equal((await ask(web, 'https://api.service.mesh.example/')).body, 'GET / from web')
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_HOST')
      assert.equal(api.stats().connections, 1)
    })

    for (const url of [
      'https://example.com/',
      'https://api.service.consul.example.com/',
      'https://api.service.consul:8443/',
      'https://127.0.0.1/',
      'https://[::1]/',
      'https://localhost/',
    ]) {
      it(`rejects ${url}, which is outside of the mesh`, async (t) => {
        const { web } = await serving(t)
        assert.equal(codeOf(await rejection(ask(web, url))), 'ERR_CONNECT_HOST')
      })
    }

    it('reports that the upstream denies the connection', async (t) => {
      const { agent, web, connections } = await serving(t)
      agent.setIntention('web', 'api', 'deny')
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_REJECTED')
      assert.equal(connections.length, 0)
    })

    it('reports that no instance exists, and reaches a later one', async (t) => {
      const { join, web } = await serving(t)
      const error = await rejection(ask(web, 'https://late.service.consul/'))
      assert.equal(codeOf(error), NONE)
      await offerHttp(join('late'), greet)
      const answer = await until('late answers', async () =>
        ask(web, 'https://late.service.consul/').catch(() => undefined),
      )
      assert.equal(answer.body, 'GET / from web')
    })

    it('completes a request while the last instance is deregistered, and fails the next one', async (t) => {
      let respond: (() => void) | undefined
      const { registration, web } = await serving(t, (_request, response) => {
        respond = () => response.end('late')
      })
      const answer = ask(web, 'https://api.service.consul/')
      await until('the request has arrived', () => respond !== undefined)
      await registration.close()
      respond?.()
      assert.equal((await answer).body, 'late')
      await until(
        'web sees no instance of api',
        async () => codeOf(await rejection(web.resolve('api'))) === NONE,
      )
      // This host has no kept connection, so that the request has to dial.
      const error = await rejection(ask(web, 'https://api.connect.consul/'))
      assert.equal(codeOf(error), NONE)
      assert.match(`${error.message} ${String(error.cause)}`, /api/)
    })

    it('fails a request whose connection is revoked during its body', async (t) => {
      let hasBegun = false
      const { agent, api, web } = await serving(t, (request) => {
        request.once('data', () => {
          request.pause()
          hasBegun = true
        })
      })
      // More than the kernel buffers without a reader.
      const failed = rejection(
        ask(web, 'https://api.service.consul/', { method: 'POST', body: 'x'.repeat(32 << 20) }),
      )
      await until('the body has begun', () => hasBegun)
      const revoked = nextEvent(api, 'revoked')
      agent.setIntention('web', 'api', 'deny')
      await revoked
      const error = await failed
      assert.ok(codeOf(error) !== undefined, String(error))
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_REJECTED')
    })

    it('survives the end of a kept connection', async (t) => {
      const { web, connections } = await serving(t)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      const closed = once(kept, 'close')
      kept.destroy()
      await closed
      const { body } = await until('a request succeeds again', () =>
        ask(web, 'https://api.service.consul/').catch(() => undefined),
      )
      assert.equal(body, 'GET / from web')
    })

    it('replaces a kept connection whose CA root is withdrawn', async (t) => {
      const { agent, api, web, connections } = await serving(t)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      await beginNewCa(agent, [api, web])
      // The connection is reused while both roots are listed.
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 1)
      const closed = new Promise((resolve) => kept.once('close', resolve))
      await withdrawOldCa(agent, web)
      await closed
      assert.equal((await ask(web, 'https://api.service.consul/')).body, 'GET / from web')
      assert.equal(connections.length, 2)
      assert.notEqual(connections[1]?.peer.serialNumber, kept.peer.serialNumber)
    })

    it('completes a pending request on a connection that it retires', async (t) => {
      let respond: (() => void) | undefined
      const { api, agentOptions, connections } = await serving(t, (request, response) => {
        if (request.url === '/slow') respond = () => response.end('slow')
        else response.end('quick')
      })
      const { web, untilExpiry } = clockedClient(t, api, agentOptions)
      const slow = ask(web, 'https://api.service.consul/slow')
      await until('the request has arrived', () => respond !== undefined)
      await untilExpiry(59_000)
      assert.equal((await ask(web, 'https://api.service.consul/quick')).body, 'quick')
      assert.equal(connections.length, 2)
      const [kept] = connections
      assert.ok(kept !== undefined)
      const closed = once(kept, 'close')
      respond?.()
      assert.equal((await slow).body, 'slow')
      await closed
      assert.equal((await ask(web, 'https://api.service.consul/quick')).body, 'quick')
      assert.equal(connections.length, 2)
    })

    it('reuses a kept connection, and retires it before a certificate expires', async (t) => {
      const { api, agentOptions, connections } = await serving(t)
      const { web, untilExpiry } = clockedClient(t, api, agentOptions)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      await untilExpiry(61_000)
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 1)
      const closed = once(kept, 'close')
      await untilExpiry(59_000)
      await closed
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 2)
    })

    it('ends idle connections at close() of its service, and the others after their request', async (t) => {
      let respond: (() => void) | undefined
      const { web, connections } = await serving(t, (request, response) => {
        if (request.url === '/slow') respond = () => response.end('slow')
        else response.end('quick')
      })
      const slow = ask(web, 'https://api.service.consul/slow')
      await until('the request has arrived', () => respond !== undefined)
      await ask(web, 'https://api.service.consul/quick')
      const [, idle] = connections
      assert.ok(idle !== undefined)
      const closed = once(idle, 'close')
      const closing = web.close({ drainTimeoutMs: 60_000 })
      await closed
      respond?.()
      assert.equal((await slow).body, 'slow')
      await closing
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_CLOSED')
    })

    it('fails requests when its service is destroyed', async (t) => {
      const { web, connections } = await serving(t, () => undefined)
      const failed = rejection(ask(web, 'https://api.service.consul/'))
      await until('the request has arrived', () => connections.length === 1)
      web.destroy()
      assert.ok(await failed)
      await web.close()
    })
  })
}

describe('service.fetch', () => {
  it('accepts the global Request and returns the global Response', async (t) => {
    const { web } = await serving(t)
    const request = new Request('https://api.service.consul/', { method: 'POST', body: 'hi ' })
    const response = await web.fetch(request)
    assert.ok(response instanceof Response)
    assert.equal(await response.text(), 'POST / hi from web')
  })

  it('uses a Request as its second argument', async (t) => {
    const { web } = await serving(t, (request, response) => {
      request.pipe(
        response
          .setHeader('x-method', request.method ?? '')
          .setHeader('x-token', String(request.headers['authorization'])),
      )
    })
    const init = new Request('https://elsewhere.example/', {
      method: 'POST',
      headers: { authorization: 'Bearer x' },
      body: 'the body',
    })
    const response = await web.fetch('https://api.service.consul/', init)
    assert.equal(response.headers.get('x-method'), 'POST')
    assert.equal(response.headers.get('x-token'), 'Bearer x')
    assert.equal(await response.text(), 'the body')
    const aborted = new Request('https://elsewhere.example/', { signal: AbortSignal.abort() })
    assert.equal((await rejection(web.fetch('https://api.service.consul/', aborted))).name, 'AbortError')
  })

  it('does not call a replaced global fetch', async (t) => {
    const { web } = await serving(t)
    const before = globalThis.fetch
    t.after(() => {
      globalThis.fetch = before
    })
    globalThis.fetch = () => Promise.reject(new Error('the replaced fetch was called'))
    assert.equal(await (await web.fetch('https://api.service.consul/')).text(), 'GET / from web')
  })

  it('rejects the option dispatcher', async (t) => {
    const { web } = await serving(t)
    const error = await rejection(
      web.fetch('https://api.service.consul/', { dispatcher: web.dispatcher() } as never),
    )
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })

  it('streams request and response bodies', async (t) => {
    const { web } = await serving(t, (request, response) => request.pipe(response))
    const chunks = Array.from({ length: 64 }, (_, i) => new Uint8Array(65_536).fill(i))
    const response = await web.fetch('https://api.service.consul/', {
      method: 'POST',
      body: ReadableStream.from(chunks) as never,
      duplex: 'half',
    })
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), Buffer.concat(chunks))
  })
})

describe('dispatcher', () => {
  it('is shared without options, and separate with options', async (t) => {
    const { web } = await serving(t)
    assert.equal(web.dispatcher(), web.dispatcher())
    const own = web.dispatcher({ pool: { connections: 1 } })
    assert.notEqual(own, web.dispatcher())
    await own.close()
    const error = await rejection(undiciRequest('https://api.service.consul/', { dispatcher: own }))
    assert.equal(codeOf(error), 'ERR_CONNECT_CLOSED')
    assert.equal(
      (await undiciRequest('https://api.service.consul/', { dispatcher: web.dispatcher() })).statusCode,
      200,
    )
  })

  it('composes with interceptors', async (t) => {
    let requests = 0
    const { web } = await serving(t, (_request, response) => {
      requests += 1
      if (requests < 3) response.writeHead(503).end()
      else response.end('third time')
    })
    const dispatcher = web.dispatcher().compose(interceptors.retry({ minTimeout: 1, statusCodes: [503] }))
    const { body } = await undiciRequest('https://api.service.consul/', { dispatcher })
    assert.equal(await body.text(), 'third time')
  })

  it('uses HTTP/2 with allowH2, and HTTP/1.1 with servers that support nothing else', async (t) => {
    const { join, web } = await serving(t)
    const server = http2.createSecureServer({ allowHTTP1: true }, (request, response) => {
      response.end(`${request.httpVersion} from ${peer(request.socket)?.service ?? 'none'}`)
    })
    await offerServer(join('both'), server)
    const dispatcher = web.dispatcher({ pool: { allowH2: true } })
    const ask = async (host: string, by = dispatcher): Promise<string> =>
      (await undiciRequest(`https://${host}.service.consul/`, { dispatcher: by })).body.text()
    assert.equal(await ask('both'), '2.0 from web')
    assert.equal(await ask('both', web.dispatcher()), '1.1 from web')
    assert.equal(await ask('api'), 'GET / from web')
    await dispatcher.close()
  })

  for (const end of ['close', 'destroy'] as const) {
    it(`survives the end of HTTP/2 sessions, and a later ${end}`, async (t) => {
      const mesh = await startMesh(t)
      const api = mesh.join('api')
      const sessions: http2.ServerHttp2Session[] = []
      const server = http2.createSecureServer({}, (_request, response) => response.end('here'))
      server.on('session', (session) => sessions.push(session))
      await offerServer(api, server)
      const dispatcher = mesh.join('web').dispatcher({ pool: { allowH2: true, connections: 1 } })
      const ask = async (): Promise<string> =>
        (await undiciRequest('https://api.service.consul/', { dispatcher })).body.text()
      const endSession = (): void => {
        const session = sessions.at(-1)
        session?.goaway()
        session?.close()
      }
      assert.equal(await ask(), 'here')
      for (let i = 0; i < 3; i += 1) {
        // An error that undici throws out of an event fails the test.
        const requests = Array.from({ length: 5 }, ask)
        endSession()
        const answers = await Promise.allSettled(requests)
        assert.ok(answers.filter(({ status }) => status === 'fulfilled').length >= 4)
        assert.equal(await ask(), 'here')
      }
      const last = ask().catch(() => undefined)
      endSession()
      await dispatcher[end]()
      await last
      await until('the connections have ended', () => api.stats().connections === 0)
    })
  }

  it('sends 1,000 parallel requests over at most 50 connections', async (t) => {
    const { web, connections } = await serving(t, (_request, response) => response.end('x'))
    const ask = async (): Promise<string> => (await web.fetch('https://api.service.consul/')).text()
    const answers = await Promise.all(Array.from({ length: 1_000 }, ask))
    assert.deepEqual(new Set(answers), new Set(['x']))
    assert.ok(connections.length <= 50, `${connections.length} connections`)
  })

  it('respects the connection limits of the service and of its own options', async (t) => {
    const { join, connections } = await serving(t)
    const web = join('web', { maxConnectionsPerHost: 2 })
    const ask = async (dispatcher = web.dispatcher()): Promise<unknown> =>
      (await undiciRequest('https://api.service.consul/', { dispatcher })).body.text()
    await Promise.all(Array.from({ length: 20 }, () => ask()))
    assert.equal(connections.length, 2)
    const own = web.dispatcher({ pool: { connections: 3 } })
    await Promise.all(Array.from({ length: 20 }, () => ask(own)))
    assert.equal(connections.length, 5)
    await Promise.all(Array.from({ length: 20 }, () => get(web.httpAgent())))
    assert.equal(connections.length, 7)
  })

  it('fails requests that wait for a connection when their signal is aborted or the dial fails', async (t) => {
    const { web, connected } = await withSilentHost(t)
    const dispatcher = web.dispatcher({ dialTimeoutMs: 1_000, pool: { connections: 1 } })
    const ask = (signal?: AbortSignal): Promise<unknown> =>
      rejection(
        undiciRequest('https://silent.internal/', { dispatcher, ...(signal !== undefined && { signal }) }),
      )
    const first = ask()
    await connected
    const stop = new AbortController()
    const aborted = ask(stop.signal)
    const waiting = Array.from({ length: 10 }, () => ask())
    stop.abort(new Error('stop'))
    assert.equal(((await aborted) as Error).message, 'stop')
    const codes = (await Promise.all([first, ...waiting])).map(codeOf)
    assert.deepEqual(new Set(codes), new Set(['ERR_CONNECT_TIMEOUT']))
    await dispatcher.close()
  })

  it('aborts its dials when it is destroyed', async (t) => {
    const { web, connected, closed } = await withSilentHost(t)
    const dispatcher = web.dispatcher({})
    const failed = rejection(undiciRequest('https://silent.internal/', { dispatcher }))
    await connected
    await dispatcher.destroy()
    await Promise.all([closed, failed])
  })

  it('keeps no pool for hosts that it rejects', async (t) => {
    const { web } = await serving(t)
    const dispatcher = web.dispatcher()
    const failed: unknown[] = []
    dispatcher.on('connectionError', (origin) => failed.push(origin))
    const hosts = Array.from({ length: 200 }, (_, i) => `https://host-${i}.example/`)
    await Promise.all(hosts.map((url) => rejection(undiciRequest(url, { dispatcher }))))
    assert.equal(failed.length, hosts.length)
    assert.ok(dispatcher instanceof MeshDispatcher)
    assert.deepEqual(dispatcher.origins, [])
  })

  it('emits the connection events of undici', async (t) => {
    const { web } = await serving(t)
    const dispatcher = web.dispatcher()
    const events: string[] = []
    dispatcher.on('connect', (origin) => events.push(`connect ${origin.origin}`))
    dispatcher.on('disconnect', (origin) => events.push(`disconnect ${origin.origin}`))
    await (await undiciRequest('https://api.service.consul/', { dispatcher })).body.text()
    await dispatcher.close()
    assert.deepEqual(events, ['connect https://api.service.consul', 'disconnect https://api.service.consul'])
  })

  for (const [options, expected] of [
    [{ pool: { connect: {} } }, /pool\.connect/],
    [{ pool: { socketPath: '/x' } }, /pool\.socketPath/],
    [{ pool: { keepAliveTimeout: -1 } }, /pool: expected options as undici takes them/],
    [{ pool: { connections: -1 } }, /pool: expected options as undici takes them/],
    [{ pool: { allowH2: 'yes' } }, /pool\.allowH2/],
    [{ pools: {} }, /pools/],
    [{ dialTimeoutMs: 0 }, /dialTimeoutMs/],
  ] as const) {
    it(`rejects ${JSON.stringify(options)}`, async (t) => {
      const { join } = await startMesh(t)
      assert.throws(() => join('web').dispatcher(options as never), {
        code: 'ERR_CONNECT_OPTION',
        message: expected,
      })
    })
  }
})

function freeOf(agent: http.Agent): number {
  return Object.values(agent.freeSockets).reduce((sum, sockets) => sum + (sockets?.length ?? 0), 0)
}

describe('agent', () => {
  it('is shared without options, and separate with options', async (t) => {
    const { web } = await serving(t)
    assert.equal(web.httpAgent(), web.httpAgent())
    assert.notEqual(web.httpAgent({ pool: { maxSockets: 1 } }), web.httpAgent())
  })

  it('respects maxSockets and maxTotalSockets', async (t) => {
    const { web, connections } = await serving(t)
    for (const [pool, limit] of [
      [{ maxSockets: 1 }, 1],
      [{ maxTotalSockets: 2 }, 2],
    ] as const) {
      const before = connections.length
      const agent = web.httpAgent({ pool })
      await Promise.all(Array.from({ length: 20 }, () => get(agent)))
      assert.ok(connections.length - before <= limit, `${connections.length - before} connections`)
    }
  })

  it('fails every waiting request when a dial fails', async (t) => {
    const { join } = await startMesh(t)
    const agent = join('web').httpAgent({ pool: { maxSockets: 1 } })
    const failure = async (): Promise<unknown> =>
      ((await once(http.get('http://missing.service.consul/', { agent }), 'error')) as unknown[])[0]
    const errors = await Promise.all(Array.from({ length: 5 }, failure))
    assert.deepEqual(new Set(errors.map(codeOf)), new Set(['ERR_CONNECT_NO_INSTANCES']))
  })

  it('fails every waiting request when its service is closed', async (t) => {
    const { web, connections } = await serving(t, () => undefined)
    const agent = web.httpAgent({ pool: { maxSockets: 1 } })
    const failure = async (): Promise<unknown> =>
      ((await once(http.get('http://api.service.consul/', { agent }), 'error')) as unknown[])[0]
    const failed = Promise.all(Array.from({ length: 4 }, failure))
    await until('a request has arrived', () => connections.length === 1)
    await web.close({ drainTimeoutMs: 50 })
    const codes = (await failed).map(codeOf)
    assert.deepEqual(codes.slice(1), ['ERR_CONNECT_CLOSED', 'ERR_CONNECT_CLOSED', 'ERR_CONNECT_CLOSED'])
    assert.ok(codes[0] !== undefined)
  })

  it('aborts the dial of an aborted request, and emits the timeout of a slow one', async (t) => {
    const { web, connected, closed } = await withSilentHost(t)
    const stop = new AbortController()
    const aborted = http.get('http://silent.internal/', { agent: web.httpAgent(), signal: stop.signal })
    const failed = once(aborted, 'error')
    await connected
    stop.abort()
    assert.equal(((await failed) as [Error])[0].name, 'AbortError')
    await closed
    const slow = http.get('http://silent.internal/', { agent: web.httpAgent(), timeout: 50 })
    await once(slow, 'timeout')
    const ended = once(slow, 'error')
    slow.destroy()
    await ended
  })

  it('exposes the peer on the socket of a response', async (t) => {
    const { web } = await serving(t)
    const request = http.get('http://api.service.consul/', { agent: web.httpAgent() })
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    assert.equal(peer(response.socket)?.service, 'api')
    response.resume()
  })

  it('assigns a waiting request a new connection instead of a retired one', async (t) => {
    const responses: http.ServerResponse[] = []
    const { api, agentOptions, connections } = await serving(t, (_request, response) => {
      responses.push(response)
    })
    const { web, untilExpiry } = clockedClient(t, api, agentOptions)
    const agent = web.httpAgent({ pool: { maxSockets: 1 } })
    const first = get(agent)
    await until('the first request has arrived', () => responses.length === 1)
    const second = get(agent)
    await untilExpiry(59_000)
    responses[0]?.end('first')
    assert.equal(await first, 'first')
    await until('the second request has arrived', () => responses.length === 2)
    responses[1]?.end('second')
    assert.equal(await second, 'second')
    assert.equal(connections.length, 2)
  })

  it('assigns no request a connection that it has just retired', async (t) => {
    const waiting = new Map<string, http.ServerResponse>()
    const { agent, api, web, connections } = await serving(t, (request, response) => {
      waiting.set(request.url ?? '', response)
    })
    const answer = async (path: string, body: Promise<string>): Promise<void> => {
      const response = await until(`${path} has arrived`, () => waiting.get(path))
      const free = freeOf(web.httpAgent()) + 1
      response.end(path)
      assert.equal(await body, path)
      await until('its connection is free', () => freeOf(web.httpAgent()) === free)
    }
    const old = get(web.httpAgent(), '/old')
    await until('the request has arrived', () => waiting.has('/old'))
    await beginNewCa(agent, [api, web])
    await answer('/new', get(web.httpAgent(), '/new'))
    // The older connection becomes free last, so that the agent would use it first.
    await answer('/old', old)
    let next: Promise<string> | undefined
    const roots = nextEvent(web, 'roots', () => {
      next = get(web.httpAgent(), '/next')
      return true
    })
    agent.dropOldRoot()
    await roots
    assert.ok(next !== undefined)
    await answer('/next', next)
    assert.equal(connections.length, 2)
  })

  it('rejects requests to a unix socket', async (t) => {
    const { web } = await serving(t)
    const request = http.get({ socketPath: '/api.service.consul', agent: web.httpAgent() })
    assert.equal(((await once(request, 'error')) as [{ code: string }])[0].code, 'ERR_CONNECT_HOST')
  })

  for (const [options, expected] of [
    [{ pool: { createConnection: () => undefined } }, /pool\.createConnection/],
    [{ pool: { maxTotalSockets: 'many' } }, /pool: expected options as http\.Agent takes them/],
    [{ keepAlive: true }, /keepAlive/],
  ] as const) {
    it(`rejects ${JSON.stringify(options)}`, async (t) => {
      const { join } = await startMesh(t)
      assert.throws(() => join('web').httpAgent(options as never), {
        code: 'ERR_CONNECT_OPTION',
        message: expected,
      })
    })
  }
})
