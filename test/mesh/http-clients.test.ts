import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import { type AddressInfo, type Socket, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { interceptors, request as undiciRequest } from 'undici'
import { MeshDispatcher } from '../../src/http/dispatcher.js'
import { type AgentOptions, type MeshSocket, type Registration, type Service, peer } from '../../src/index.js'
import { Service as TimedService } from '../../src/service/service.js'
import type { TestAgentOptions } from '../../src/testing/index.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { codeOf, httpWays } from '../fixtures/http-ways.js'
import { type TestMesh, nextEvent, rejection, startMesh, until } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'

const NONE = 'ERR_CONNECT_NO_INSTANCES'

interface Serving extends TestMesh {
  readonly web: Service
  readonly api: Service
  /** The connections that the server has seen, oldest first. */
  readonly connections: MeshSocket[]
  /** The registration of `api`. */
  readonly registration: Registration
}

/** A service `api` that says who asks for what, and a service `web`. */
async function serving(
  t: TestContext,
  app: http.RequestListener = greet,
  options?: TestAgentOptions,
): Promise<Serving> {
  const mesh = await startMesh(t, options)
  const api = mesh.join('api')
  return { ...mesh, api, web: mesh.join('web'), ...(await offerHttp(api, app)) }
}

/** A service whose host `silent.internal` leads to somebody who takes connections and says nothing. */
async function toSilence(
  t: TestContext,
): Promise<{ readonly web: Service; readonly connected: Promise<Socket> }> {
  const { join } = await startMesh(t)
  const silent = createServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.after(() => silent.close())
  const address = `127.0.0.1:${(silent.address() as AddressInfo).port}`
  const web = join('web', { hosts: { 'silent.internal': { address, service: 'api' } } })
  const connected = once(silent, 'connection').then(([socket]) => socket as Socket)
  return { web, connected }
}

/** A client under a clock of its own, and how to turn it to shortly before a certificate expires. */
function timedClient(
  t: TestContext,
  api: Service,
  agent: AgentOptions,
): { readonly web: Service; readonly untilExpiry: (leftMs: number) => Promise<void> } {
  const clock = new FakeClock(Date.now())
  const web = new TimedService('web', { agent }, { clock, random: Math.random })
  t.after(() => {
    web.destroy()
  })
  const untilExpiry = async (leftMs: number): Promise<void> => {
    const first = Math.min(web.leaf?.notAfter.getTime() ?? 0, api.leaf?.notAfter.getTime() ?? 0)
    await clock.advance(first - clock.now() - leftMs)
  }
  return { web, untilExpiry }
}

async function offerHttp(
  service: Service,
  app: http.RequestListener,
  id?: string,
): Promise<Pick<Serving, 'connections' | 'registration'>> {
  // Longer than any test, so that what ends a connection is what the test is about.
  const server = http.createServer({ keepAliveTimeout: 120_000 }, app)
  const connections: MeshSocket[] = []
  server.on('connection', (socket) => connections.push(socket as never))
  const listener = await service.serve(server, { port: 0, host: '127.0.0.1' })
  const { port } = listener.address() as AddressInfo
  const registration = await service.register({ port, address: '127.0.0.1', ...(id !== undefined && { id }) })
  return { connections, registration }
}

const greet: http.RequestListener = (request, response) => {
  let body = ''
  request.on('data', (chunk) => (body += String(chunk)))
  request.on('end', () => {
    const { method = '', url = '', socket } = request
    response.end(`${method} ${url} ${body}from ${peer(socket)?.service ?? 'nobody'}`)
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

    it('uses a connection again', async (t) => {
      const { web, connections } = await serving(t)
      for (let i = 0; i < 20; i += 1) await ask(web, 'https://api.service.consul/')
      // undici may be asked again before it has put the first one back.
      assert.ok(connections.length <= 2, `${connections.length} connections`)
    })

    it('reaches each upstream over its own connections, by the hosts of the service’s options too', async (t) => {
      const { join, api } = await serving(t)
      const other = join('Other.Name')
      await offerHttp(other, (request, response) =>
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
      it(`connects to nothing for ${url}`, async (t) => {
        const { web } = await serving(t)
        assert.equal(codeOf(await rejection(ask(web, url))), 'ERR_CONNECT_HOST')
      })
    }

    it('says when the upstream refuses us', async (t) => {
      const { agent, web, connections } = await serving(t)
      agent.setIntention('web', 'api', 'deny')
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_REJECTED')
      assert.equal(connections.length, 0)
    })

    it('says when there is no instance, and reaches one that comes', async (t) => {
      const { join, web } = await serving(t)
      const error = await rejection(ask(web, 'https://late.service.consul/'))
      assert.equal(codeOf(error), NONE)
      await offerHttp(join('late'), greet)
      const answer = await until('late answers', async () =>
        ask(web, 'https://late.service.consul/').catch(() => undefined),
      )
      assert.equal(answer.body, 'GET / from web')
    })

    it('answers a request whose upstream loses its last instance meanwhile, and says so to the next', async (t) => {
      let respond: (() => void) | undefined
      const { registration, web } = await serving(t, (_request, response) => {
        respond = () => response.end('late')
      })
      const answer = ask(web, 'https://api.service.consul/')
      await until('it is asked', () => respond !== undefined)
      await registration.close()
      respond?.()
      assert.equal((await answer).body, 'late')
      await until(
        'web sees that api is gone',
        async () => codeOf(await rejection(web.resolve('api'))) === NONE,
      )
      // Another host has no kept connection, so that the request has to dial.
      const error = await rejection(ask(web, 'https://api.connect.consul/'))
      assert.equal(codeOf(error), NONE)
      assert.match(`${error.message} ${String(error.cause)}`, /api/)
    })

    it('fails a request whose connection is revoked while its body is sent', async (t) => {
      let onBegun: (() => void) | undefined
      const begun = new Promise<void>((resolve) => (onBegun = resolve))
      const { agent, api, web } = await serving(t, (request) => {
        request.once('data', () => {
          request.pause()
          onBegun?.()
        })
      })
      // More than what the kernel takes without a reader.
      const failed = rejection(
        ask(web, 'https://api.service.consul/', { method: 'POST', body: 'x'.repeat(32 << 20) }),
      )
      await begun
      const revoked = nextEvent(api, 'revoked')
      agent.setIntention('web', 'api', 'deny')
      await revoked
      const error = await failed
      assert.ok(codeOf(error) !== undefined, String(error))
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_REJECTED')
    })

    it('survives the end of a connection that it keeps', async (t) => {
      const { web, connections } = await serving(t)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      const gone = once(kept, 'close')
      kept.destroy()
      await gone
      const { body } = await until('it answers again', () =>
        ask(web, 'https://api.service.consul/').catch(() => undefined),
      )
      assert.equal(body, 'GET / from web')
    })

    it('loses a kept connection whose root is withdrawn, and connects again', async (t) => {
      const { agent, api, web, connections } = await serving(t)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      await beginNewCa(agent, [api, web])
      // While both roots are there it is as good as ever.
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 1)
      const gone = new Promise((resolve) => kept.once('close', resolve))
      await withdrawOldCa(agent, web)
      await gone
      assert.equal((await ask(web, 'https://api.service.consul/')).body, 'GET / from web')
      assert.equal(connections.length, 2)
      assert.notEqual(connections[1]?.peer.serialNumber, kept.peer.serialNumber)
    })

    it('finishes a request that is under way on a connection that it gives up', async (t) => {
      let respond: (() => void) | undefined
      const { api, agentOptions, connections } = await serving(t, (request, response) => {
        if (request.url === '/slow') respond = () => response.end('slow')
        else response.end('quick')
      })
      const { web, untilExpiry } = timedClient(t, api, agentOptions)
      const slow = ask(web, 'https://api.service.consul/slow')
      await until('it is asked', () => respond !== undefined)
      await untilExpiry(59_000)
      assert.equal((await ask(web, 'https://api.service.consul/quick')).body, 'quick')
      assert.equal(connections.length, 2)
      const [kept] = connections
      assert.ok(kept !== undefined)
      const gone = once(kept, 'close')
      respond?.()
      assert.equal((await slow).body, 'slow')
      await gone
      assert.equal((await ask(web, 'https://api.service.consul/quick')).body, 'quick')
      assert.equal(connections.length, 2)
    })

    it('gives up a kept connection before a certificate expires', async (t) => {
      const { api, agentOptions, connections } = await serving(t)
      const { web, untilExpiry } = timedClient(t, api, agentOptions)
      await ask(web, 'https://api.service.consul/')
      const [kept] = connections
      assert.ok(kept !== undefined)
      await untilExpiry(61_000)
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 1)
      const gone = once(kept, 'close')
      await untilExpiry(59_000)
      await gone
      await ask(web, 'https://api.service.consul/')
      assert.equal(connections.length, 2)
    })

    it('ends with its service: what is idle at once, what is under way when it is done', async (t) => {
      let respond: (() => void) | undefined
      const { web, connections } = await serving(t, (request, response) => {
        if (request.url === '/slow') respond = () => response.end('slow')
        else response.end('quick')
      })
      const slow = ask(web, 'https://api.service.consul/slow')
      await until('it is asked', () => respond !== undefined)
      await ask(web, 'https://api.service.consul/quick')
      const [, idle] = connections
      assert.ok(idle !== undefined)
      const gone = once(idle, 'close')
      const closing = web.close({ drainTimeoutMs: 60_000 })
      await gone
      respond?.()
      assert.equal((await slow).body, 'slow')
      await closing
      assert.equal(codeOf(await rejection(ask(web, 'https://api.service.consul/'))), 'ERR_CONNECT_CLOSED')
    })

    it('is cut with its service', async (t) => {
      const { web, connections } = await serving(t, () => undefined)
      const cut = rejection(ask(web, 'https://api.service.consul/'))
      await until('it is asked', () => connections.length === 1)
      web.destroy()
      assert.ok(await cut)
      await web.close()
    })
  })
}

describe('service.fetch', () => {
  it('follows a redirect inside the mesh, and none that leads out of it', async (t) => {
    const { web } = await serving(t, (request, response) => {
      const location = request.url === '/in' ? 'https://api.connect.consul/there' : 'http://127.0.0.1:8443/'
      if (request.url === '/there') response.end('there')
      else response.writeHead(302, { location }).end()
    })
    assert.equal(await (await web.fetch('https://api.service.consul/in')).text(), 'there')
    assert.equal(codeOf(await rejection(web.fetch('https://api.service.consul/out'))), 'ERR_CONNECT_HOST')
  })

  it('takes a Request, and gives a Response, of the globals', async (t) => {
    const { web } = await serving(t)
    const request = new Request('https://api.service.consul/', { method: 'POST', body: 'hi ' })
    const response = await web.fetch(request)
    assert.ok(response instanceof Response)
    assert.equal(await response.text(), 'POST / hi from web')
  })

  it('sends what a Request holds that is passed in the second place', async (t) => {
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

  it('is Node’s own, whatever has taken the global’s place', async (t) => {
    const { web } = await serving(t)
    const before = globalThis.fetch
    t.after(() => {
      globalThis.fetch = before
    })
    globalThis.fetch = () => Promise.reject(new Error('the other one'))
    assert.equal(await (await web.fetch('https://api.service.consul/')).text(), 'GET / from web')
  })

  it('takes no other dispatcher', async (t) => {
    const { web } = await serving(t)
    const error = await rejection(
      web.fetch('https://api.service.consul/', { dispatcher: web.dispatcher() } as never),
    )
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
  })

  it('streams a body both ways', async (t) => {
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
  it('is the same each time, and one of its own with options', async (t) => {
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
    let asked = 0
    const { web } = await serving(t, (_request, response) => {
      asked += 1
      if (asked < 3) response.writeHead(503).end()
      else response.end('third time')
    })
    const dispatcher = web.dispatcher().compose(interceptors.retry({ minTimeout: 1, statusCodes: [503] }))
    const { body } = await undiciRequest('https://api.service.consul/', { dispatcher })
    assert.equal(await body.text(), 'third time')
  })

  it('speaks HTTP/2 when it is asked for, and HTTP/1.1 where that is all there is', async (t) => {
    const { join, web } = await serving(t)
    const both = join('both')
    const server = http2.createSecureServer({ allowHTTP1: true }, (request, response) => {
      response.end(`${request.httpVersion} from ${peer(request.socket)?.service ?? 'nobody'}`)
    })
    const listener = await both.serve(server, { port: 0, host: '127.0.0.1' })
    await both.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
    const dispatcher = web.dispatcher({ pool: { allowH2: true } })
    const ask = async (host: string, by = dispatcher): Promise<string> =>
      (await undiciRequest(`https://${host}.service.consul/`, { dispatcher: by })).body.text()
    assert.equal(await ask('both'), '2.0 from web')
    assert.equal(await ask('both', web.dispatcher()), '1.1 from web')
    assert.equal(await ask('api'), 'GET / from web')
    await dispatcher.close()
  })

  for (const end of ['close', 'destroy'] as const) {
    it(`survives the end of HTTP/2 sessions, and a ${end} afterwards`, async (t) => {
      const mesh = await startMesh(t)
      const api = mesh.join('api')
      const sessions: http2.ServerHttp2Session[] = []
      const server = http2.createSecureServer({}, (_request, response) => response.end('here'))
      server.on('session', (session) => sessions.push(session))
      const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
      await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
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
        const asked = Array.from({ length: 5 }, ask)
        endSession()
        const answers = await Promise.allSettled(asked)
        assert.ok(answers.filter(({ status }) => status === 'fulfilled').length >= 4)
        assert.equal(await ask(), 'here')
      }
      const last = ask().catch(() => undefined)
      endSession()
      await dispatcher[end]()
      await last
      await until('the connections are gone', () => api.stats().connections === 0)
    })
  }

  it('answers 1,000 requests at a time over 50 connections at most', async (t) => {
    const { web, connections } = await serving(t, (_request, response) => response.end('x'))
    const ask = async (): Promise<string> => (await web.fetch('https://api.service.consul/')).text()
    const answers = await Promise.all(Array.from({ length: 1_000 }, ask))
    assert.deepEqual(new Set(answers), new Set(['x']))
    assert.ok(connections.length <= 50, `${connections.length} connections`)
  })

  it('is bounded by an option of the service, and by its own', async (t) => {
    const { join, connections } = await serving(t)
    const web = join('web', { maxConnectionsPerHost: 2 })
    const ask = async (dispatcher = web.dispatcher()): Promise<unknown> =>
      (await undiciRequest('https://api.service.consul/', { dispatcher })).body.text()
    await Promise.all(Array.from({ length: 20 }, () => ask()))
    assert.equal(connections.length, 2)
    const own = web.dispatcher({ pool: { connections: 3 } })
    await Promise.all(Array.from({ length: 20 }, () => ask(own)))
    assert.equal(connections.length, 5)
    const get = async (): Promise<void> => {
      const request = http.get('http://api.service.consul/', { agent: web.httpAgent() })
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      await response.toArray()
    }
    await Promise.all(Array.from({ length: 20 }, get))
    assert.equal(connections.length, 7)
  })

  it('fails requests that wait for a connection: at their signal, and with the dial that fails', async (t) => {
    const { web, connected } = await toSilence(t)
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

  it('gives up its dials when it is destroyed', async (t) => {
    const { web, connected } = await toSilence(t)
    const dispatcher = web.dispatcher({})
    const asked = rejection(undiciRequest('https://silent.internal/', { dispatcher }))
    const gone = once((await connected).resume(), 'close')
    await dispatcher.destroy()
    await gone
    await asked
  })

  it('keeps nothing of hosts that lead nowhere', async (t) => {
    const { web } = await serving(t)
    const dispatcher = web.dispatcher()
    const gone: unknown[] = []
    dispatcher.on('connectionError', (origin) => gone.push(origin))
    const hosts = Array.from({ length: 200 }, (_, i) => `https://host-${i}.example/`)
    await Promise.all(hosts.map((url) => rejection(undiciRequest(url, { dispatcher }))))
    assert.equal(gone.length, hosts.length)
    assert.ok(dispatcher instanceof MeshDispatcher)
    assert.deepEqual(dispatcher.origins, [])
  })

  it('tells of connections as undici’s own do', async (t) => {
    const { web } = await serving(t)
    const dispatcher = web.dispatcher()
    const told: string[] = []
    dispatcher.on('connect', (origin) => told.push(`connect ${origin.origin}`))
    dispatcher.on('disconnect', (origin) => told.push(`disconnect ${origin.origin}`))
    await (await undiciRequest('https://api.service.consul/', { dispatcher })).body.text()
    await dispatcher.close()
    assert.deepEqual(told, ['connect https://api.service.consul', 'disconnect https://api.service.consul'])
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
    it(`refuses ${JSON.stringify(options)}`, async (t) => {
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
  it('is the same each time, and one of its own with options', async (t) => {
    const { web } = await serving(t)
    assert.equal(web.httpAgent(), web.httpAgent())
    assert.notEqual(web.httpAgent({ pool: { maxSockets: 1 } }), web.httpAgent())
  })

  it('makes no more connections than it may, however many ask at once', async (t) => {
    const { web, connections } = await serving(t)
    for (const [pool, most] of [
      [{ maxSockets: 1 }, 1],
      [{ maxTotalSockets: 2 }, 2],
    ] as const) {
      const before = connections.length
      const agent = web.httpAgent({ pool })
      const get = async (): Promise<void> => {
        const request = http.get('http://api.service.consul/', { agent })
        const [response] = (await once(request, 'response')) as [http.IncomingMessage]
        await response.toArray()
      }
      await Promise.all(Array.from({ length: 20 }, get))
      assert.ok(connections.length - before <= most, `${connections.length - before} connections`)
    }
  })

  it('lets each request that waits hear of a dial that fails', async (t) => {
    const { join } = await startMesh(t)
    const agent = join('web').httpAgent({ pool: { maxSockets: 1 } })
    const get = async (): Promise<unknown> =>
      ((await once(http.get('http://nobody.service.consul/', { agent }), 'error')) as unknown[])[0]
    const errors = await Promise.all(Array.from({ length: 5 }, get))
    assert.deepEqual(new Set(errors.map(codeOf)), new Set(['ERR_CONNECT_NO_INSTANCES']))
  })

  it('lets each request that waits hear that its service was closed', async (t) => {
    const { web, connections } = await serving(t, () => undefined)
    const agent = web.httpAgent({ pool: { maxSockets: 1 } })
    const get = async (): Promise<unknown> =>
      ((await once(http.get('http://api.service.consul/', { agent }), 'error')) as unknown[])[0]
    const asked = Promise.all(Array.from({ length: 4 }, get))
    await until('one is asked', () => connections.length === 1)
    await web.close({ drainTimeoutMs: 50 })
    const codes = (await asked).map(codeOf)
    assert.deepEqual(codes.slice(1), ['ERR_CONNECT_CLOSED', 'ERR_CONNECT_CLOSED', 'ERR_CONNECT_CLOSED'])
    assert.ok(codes[0] !== undefined)
  })

  it('gives up the dial of a request that is aborted, and tells of its timeout', async (t) => {
    const { web, connected } = await toSilence(t)
    const stop = new AbortController()
    const aborted = http.get('http://silent.internal/', { agent: web.httpAgent(), signal: stop.signal })
    const failed = once(aborted, 'error')
    const gone = once((await connected).resume(), 'close')
    stop.abort()
    assert.equal(((await failed) as [Error])[0].name, 'AbortError')
    await gone
    const slow = http.get('http://silent.internal/', { agent: web.httpAgent(), timeout: 50 })
    await once(slow, 'timeout')
    const ended = once(slow, 'error')
    slow.destroy()
    await ended
  })

  it('shows the peer on the socket of a request', async (t) => {
    const { web } = await serving(t)
    const request = http.get('http://api.service.consul/', { agent: web.httpAgent() })
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    assert.equal(peer(response.socket)?.service, 'api')
    response.resume()
  })

  it('gives a request that waits another connection than one that is given up', async (t) => {
    const responses: http.ServerResponse[] = []
    const { api, agentOptions, connections } = await serving(t, (_request, response) => {
      responses.push(response)
    })
    const { web, untilExpiry } = timedClient(t, api, agentOptions)
    const one = web.httpAgent({ pool: { maxSockets: 1 } })
    const get = async (): Promise<string> => {
      const request = http.get('http://api.service.consul/', { agent: one })
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      return (await response.toArray()).join('')
    }
    const first = get()
    await until('the first is asked', () => responses.length === 1)
    const second = get()
    await untilExpiry(59_000)
    responses[0]?.end('first')
    assert.equal(await first, 'first')
    await until('the second is asked', () => responses.length === 2)
    responses[1]?.end('second')
    assert.equal(await second, 'second')
    assert.equal(connections.length, 2)
  })

  it('gives no request a connection that it has just given up', async (t) => {
    const waiting = new Map<string, http.ServerResponse>()
    const { agent, api, web, connections } = await serving(t, (request, response) => {
      waiting.set(request.url ?? '', response)
    })
    const get = async (path: string): Promise<string> => {
      const request = http.get(`http://api.service.consul${path}`, { agent: web.httpAgent() })
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      return (await response.toArray()).join('')
    }
    const answer = async (path: string, asked: Promise<string>): Promise<void> => {
      const response = await until(`${path} is asked`, () => waiting.get(path))
      const free = freeOf(web.httpAgent()) + 1
      response.end(path)
      assert.equal(await asked, path)
      await until('its connection is free', () => freeOf(web.httpAgent()) === free)
    }
    const old = get('/old')
    await until('it is asked', () => waiting.has('/old'))
    await beginNewCa(agent, [api, web])
    await answer('/new', get('/new'))
    // The older one is put back last, and would be taken first.
    await answer('/old', old)
    let next: Promise<string> | undefined
    const roots = nextEvent(web, 'roots', () => {
      next = get('/next')
      return true
    })
    agent.dropOldRoot()
    await roots
    assert.ok(next !== undefined)
    await answer('/next', next)
    assert.equal(connections.length, 2)
  })

  it('hands over upgraded connections', async (t) => {
    const { join, web } = await startMesh(t).then((mesh) => ({ ...mesh, web: mesh.join('web') }))
    const api = join('api')
    const server = http.createServer()
    server.on('upgrade', (_request, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
      socket.pipe(socket)
    })
    const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
    await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
    const request = http.get('http://api.service.consul/', {
      agent: web.httpAgent(),
      headers: { connection: 'upgrade', upgrade: 'echo' },
    })
    const [, socket] = (await once(request, 'upgrade')) as [unknown, MeshSocket]
    socket.write('hello')
    assert.equal(String((await once(socket, 'data'))[0]), 'hello')
    socket.end()
  })

  it('does not take a unix socket for a host', async (t) => {
    const { web } = await serving(t)
    const request = http.get({ socketPath: '/api.service.consul', agent: web.httpAgent() })
    assert.equal(((await once(request, 'error')) as [{ code: string }])[0].code, 'ERR_CONNECT_HOST')
  })

  for (const [options, expected] of [
    [{ pool: { createConnection: () => undefined } }, /pool\.createConnection/],
    [{ pool: { maxTotalSockets: 'many' } }, /pool: expected options as http\.Agent takes them/],
    [{ keepAlive: true }, /keepAlive/],
  ] as const) {
    it(`refuses ${JSON.stringify(options)}`, async (t) => {
      const { join } = await startMesh(t)
      assert.throws(() => join('web').httpAgent(options as never), {
        code: 'ERR_CONNECT_OPTION',
        message: expected,
      })
    })
  }
})
