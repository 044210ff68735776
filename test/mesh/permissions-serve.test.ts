// Permissions of intentions, as a served HTTP server applies them: over sockets, and in bytes where a client would clean them.
import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import { type AddressInfo, type Server, createServer as tcpServer } from 'node:net'
import type { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { type TLSSocket, connect as tlsConnect } from 'node:tls'
import { ServerCredentials, type ServerUnaryCall, type ServiceError, type sendUnaryData } from '@grpc/grpc-js'
import {
  type Authorizer,
  type Peer,
  type SecureServerOptions,
  type ServeOptions,
  type Service,
  requestDecision,
} from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import {
  type TestMesh,
  WAIT_MS,
  nextEvent,
  portOf,
  readAll,
  rejection,
  startMesh,
  until,
} from '../fixtures/mesh.js'
import { NO_ADMIN, type Rules, putEntry } from '../fixtures/permissions.js'
import { bytesMethod, grpcCaller, grpcServer } from './grpc.js'
import { tlsOptions } from './tls-peer.js'

const NO_FEED: Rules = [{ Action: 'deny', HTTP: { PathPrefix: '/feed' } }, ...NO_ADMIN]

interface Serving extends TestMesh {
  readonly api: Service
  readonly port: number
  /** Opens a connection with the certificate of a service. */
  readonly open: (options?: { from?: string; alpn?: string }) => Promise<TLSSocket>
  readonly session: (from?: string) => Promise<http2.ClientHttp2Session>
}

interface ServingOptions extends SecureServerOptions, Pick<ServeOptions, 'passthrough'> {
  readonly rules?: Rules | 'allow' | 'deny'
  readonly isSecured?: boolean
  readonly authorize?: Authorizer
}

async function serving(
  t: TestContext,
  server: Parameters<Service['serve']>[0],
  { rules = NO_ADMIN, isSecured = false, authorize, ...options }: ServingOptions = {},
): Promise<Serving> {
  const mesh = await startMesh(t, { version: '1.15' })
  const { agent } = mesh
  agent.setIntention('web', 'api', rules)
  await putEntry(agent, { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  const api = mesh.join('api', { authorize })
  const port = await (isSecured ? secure(api, server as Server, options) : serve(api, server, options))
  const open: Serving['open'] = async ({ from = 'web', alpn } = {}) => {
    const peer = tlsOptions(agent.issueLeaf(from), agent.ca)
    const ALPNProtocols = alpn === undefined ? undefined : [alpn]
    const socket = tlsConnect({ ...peer, port, host: '127.0.0.1', ALPNProtocols })
    socket.on('error', () => undefined)
    t.after(() => socket.destroy())
    await once(socket, 'secureConnect')
    return socket
  }
  return {
    ...mesh,
    api,
    port,
    open,
    session: async (from) => {
      const socket = await open({ ...(from !== undefined && { from }), alpn: 'h2' })
      const session = http2.connect('https://api', { createConnection: () => socket })
      return session.on('error', () => undefined)
    },
  }
}

async function serve(
  api: Service,
  server: Parameters<Service['serve']>[0],
  options: Omit<ServeOptions, 'port'>,
): Promise<number> {
  return portOf(await api.serve(server, { port: 0, host: '127.0.0.1', ...options }))
}

async function secure(api: Service, server: Server, options: SecureServerOptions): Promise<number> {
  await api.secure(server, options)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}

function normalization(agent: TestAgent, RequestNormalization: object): Promise<void> {
  return putEntry(agent, { Kind: 'mesh', HTTP: { Incoming: { RequestNormalization } } })
}

/**
 * Sends bytes, and returns all that the server sends until it ends the connection.
 * @param answers - after how many answers the last request is sent; undefined for none
 */
async function exchange(
  { open }: Pick<Serving, 'open'>,
  bytes: string,
  { from = 'web', answers }: { from?: string; answers?: number | undefined } = {},
): Promise<string> {
  const socket = await open({ from })
  const timer = setTimeout(() => socket.destroy(new Error(`no end after ${JSON.stringify(bytes)}`)), 5_000)
  socket.setEncoding('latin1').write(bytes, 'latin1')
  let received = ''
  let isLast = answers === undefined
  for await (const chunk of socket) {
    received += chunk as string
    if (isLast || statuses(received).length < answers!) continue
    isLast = true
    socket.write(LAST)
  }
  clearTimeout(timer)
  return received
}

function statuses(received: string): number[] {
  return [...received.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
}

function get(target: string, ...lines: readonly string[]): string {
  return request('GET', target, ...lines)
}

function request(method: string, target: string, ...lines: readonly string[]): string {
  return `${method} ${target} HTTP/1.1\r\nhost: api\r\n${lines.map((line) => `${line}\r\n`).join('')}\r\n`
}

/** The last request on a connection. */
const LAST = get('/last', 'connection: close')

interface Http1Case {
  /** The last request is sent after these bytes. */
  readonly bytes: string
  readonly statuses: readonly number[]
  /** The requests that reach the application, without the last one. */
  readonly reached?: readonly string[]
  /** Whether the server ends the connection after these bytes. */
  readonly ends?: boolean
}

function head(target: string, lines: string, body = ''): string {
  return `GET ${target} HTTP/1.1\r\n${lines}\r\n${body}`
}

const post = (lines: string, body = ''): string => `POST /x HTTP/1.1\r\nhost: api\r\n${lines}\r\n${body}`

const denied = (bytes: string): Http1Case => ({ bytes, statuses: [403] })
const refused = (bytes: string): Http1Case => ({ bytes, statuses: [400] })
const unreadable = (bytes: string): Http1Case => ({ bytes, statuses: [400], ends: true })
const allowed = (bytes: string, ...reached: readonly string[]): Http1Case => ({
  bytes,
  statuses: reached.map(() => 200),
  reached,
})

const HTTP1: Readonly<Record<string, Http1Case>> = {
  'an allowed path': allowed(get('/x?a=/admin'), 'request GET /x?a=/admin api'),
  'a denied path': denied(get('/admin/x?y')),
  'a denied HEAD': denied(request('HEAD', '/admin')),
  'a denied body': denied(`${request('POST', '/admin', 'content-length: 5')}hello`),
  'a denied chunked body': denied(
    `${request('PUT', '/admin', 'transfer-encoding: chunked')}2\r\nhi\r\n0\r\n\r\n`,
  ),
  'pipelined requests': {
    bytes: get('/1') + get('/admin') + get('/2') + get('/admin/2'),
    statuses: [200, 403, 200, 403],
    reached: ['request GET /1 api', 'request GET /2 api'],
  },
  'Upgrade: h2c': denied(
    get('/admin', 'connection: upgrade, http2-settings', 'upgrade: h2c', 'http2-settings: AAMAAABkAAQAAP__'),
  ),
  'a fragment': refused(get('/admin#x')),
  'an absolute target': denied(get('http://api/admin')),
  'an absolute target of another host': allowed(get('HTTP://other/x'), 'request GET /x other'),
  'an absolute target without a path': allowed(get('http://other:80'), 'request GET / other:80'),
  'an empty segment': allowed(get('//admin'), 'request GET //admin api'),
  'a target without a slash': unreadable(get('admin')),
  'a scheme without a host': unreadable(get('http:/admin')),
  'an absolute target with a user': refused(get('http://a@api/admin')),
  'OPTIONS *': refused(request('OPTIONS', '*')),
  'a dot segment': denied(get('/public/../admin')),
  'an escaped letter': denied(get('/%61dmin')),
  'a dot segment with a parameter': denied(get('/a/..;/admin')),
  'an escaped zero byte': refused(get('/admin%00')),
  'a backslash at the start': unreadable(get('\\admin')),
  'a backslash': denied(get('/x\\..\\admin')),
  'raw bytes': unreadable(get('/caf\xe9')),
  'a normalized path': allowed(get('/a/./b/../%7ec?%61'), 'request GET /a/~c?%61 api'),
  'two Host headers': refused(head('/x', 'host: api\r\nhost: api\r\n')),
  'no Host header': unreadable(head('/x', 'connection: close\r\n')),
  'two lengths': unreadable(post('content-length: 1\r\ncontent-length: 2\r\n', 'ab')),
  'a length and chunks': unreadable(post('content-length: 5\r\ntransfer-encoding: chunked\r\n', '0\r\n\r\n')),
  'chunks that are not last': unreadable(post('transfer-encoding: chunked, identity\r\n', '0\r\n\r\n')),
  'a space before a colon': unreadable(post('content-length : 5\r\n', 'hello')),
  'a folded line': unreadable(post('x-a: b\r\n c\r\ncontent-length: 0\r\n')),
  'a bare line feed': unreadable(post('x-a: b\ncontent-length: 0\r\n')),
}

const HTTP1_SERVERS: Readonly<Record<string, { create: () => Server; isSecured: boolean }>> = {
  http: { create: () => http.createServer(), isSecured: false },
  'http2 with HTTP/1.1 allowed': {
    create: () => http2.createSecureServer({ allowHTTP1: true }),
    isSecured: false,
  },
  'http, secured': { create: () => http.createServer(), isSecured: true },
}

/** Makes a server note each request that it sees, and answer it. */
function noting(server: Server): string[] {
  const seen: string[] = []
  const note = (event: string, { method, url, headers }: http.IncomingMessage): void => {
    if (url !== '/last') seen.push(`${event} ${method} ${url} ${headers.host}`)
  }
  server.on('request', (req: http.IncomingMessage, res: http.ServerResponse) => {
    note('request', req)
    res.end('hello')
  })
  return seen
}

for (const [kind, { create, isSecured }] of Object.entries(HTTP1_SERVERS)) {
  describe(`permissions of HTTP/1.1 requests to a server of ${kind}`, () => {
    it('are applied to each target', async (t) => {
      const server = create()
      const seen = noting(server)
      const mesh = await serving(t, server, { isSecured })
      for (const [name, { bytes, statuses: expected, reached = [], ends = false }] of Object.entries(HTTP1)) {
        const received = await exchange(mesh, bytes, { answers: ends ? undefined : expected.length })
        assert.deepEqual(statuses(received), ends ? expected : [...expected, 200], `${name}: ${received}`)
        assert.deepEqual(seen.splice(0), reached, name)
      }
      const all = Object.values(HTTP1).flatMap((each) => [
        ...each.statuses,
        ...(each.ends === true ? [] : [200]),
      ])
      for (const [authorized, status] of [
        [true, 200],
        [false, 403],
      ] as const) {
        const { count } = mesh.api
          .stats()
          .requests.find((each) => each.basis === 'permissions' && each.authorized === authorized)!
        assert.equal(count, all.filter((each) => each === status).length)
      }
    })
  })
}

describe('permissions of a request with an event of its own', () => {
  const expecting = (target: string, expect = '100-continue'): string =>
    `${request('POST', target, 'connection: close', 'content-length: 5', `expect: ${expect}`)}hello`
  const upgrading = (target: string): string => get(target, 'connection: upgrade', 'upgrade: echo')
  const CASES = {
    'checkContinue without a listener': {
      bytes: expecting('/x'),
      deniedBytes: expecting('/admin'),
      event: 'request',
      starts: 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ',
    },
    checkContinue: {
      bytes: expecting('/x'),
      deniedBytes: expecting('/admin'),
      event: 'checkContinue',
      starts: 'HTTP/1.1 299 ',
    },
    'checkExpectation without a listener': {
      bytes: expecting('/x', 'wonders'),
      deniedBytes: expecting('/admin', 'wonders'),
      event: undefined,
      starts: 'HTTP/1.1 417 ',
    },
    checkExpectation: {
      bytes: expecting('/x', 'wonders'),
      deniedBytes: expecting('/admin', 'wonders'),
      event: 'checkExpectation',
      starts: 'HTTP/1.1 299 ',
    },
    upgrade: {
      bytes: upgrading('/x'),
      deniedBytes: upgrading('/admin'),
      event: 'upgrade',
      starts: 'HTTP/1.1 101 ',
    },
    'upgrade without a listener': {
      bytes: upgrading('/x'),
      deniedBytes: upgrading('/admin'),
      event: 'request',
      starts: 'HTTP/1.1 200 ',
    },
    connect: {
      bytes: 'CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n',
      deniedBytes: 'CONNECT db:22 HTTP/1.1\r\nhost: db:22\r\n\r\n',
      event: 'connect',
      starts: 'HTTP/1.1 200 ',
    },
  } as const

  for (const [name, { bytes, deniedBytes, event, starts }] of Object.entries(CASES)) {
    it(`are applied to ${name}`, async (t) => {
      const server = http.createServer()
      const seen: string[] = []
      server.on('request', ({ url }: http.IncomingMessage, res: http.ServerResponse) => {
        seen.push(`request ${url}`)
        res.setHeader('connection', 'close').end()
      })
      if (event?.startsWith('check') === true) {
        server.on(event, ({ url }: http.IncomingMessage, res: http.ServerResponse) => {
          seen.push(`${event} ${url}`)
          res.writeHead(299, { connection: 'close' }).end()
        })
      }
      if (event === 'upgrade' || event === 'connect') {
        server.on(event, ({ url }: http.IncomingMessage, socket: Duplex) => {
          seen.push(`${event} ${url}`)
          socket.end(`HTTP/1.1 ${event === 'upgrade' ? 101 : 200} Yes\r\n\r\n`)
        })
      }
      const rules: Rules = [
        { Action: 'deny', HTTP: { Header: [{ Name: 'host', Exact: 'db:22' }] } },
        ...NO_ADMIN,
      ]
      const mesh = await serving(t, server, { rules })
      // CONNECT keeps no connection open, nor does a request whose body may come or not.
      const isOpen = name === 'upgrade without a listener'
      const answer = await exchange(mesh, deniedBytes, { answers: isOpen ? 1 : undefined })
      assert.match(answer, /^HTTP\/1\.1 403 Forbidden\r\n/)
      assert.deepEqual(seen.splice(0), isOpen ? ['request /last'] : [])
      assert.ok((await exchange(mesh, bytes)).startsWith(starts))
      const target = event === 'connect' ? 'db:5432' : '/x'
      assert.deepEqual(seen, event === undefined ? [] : [`${event} ${target}`])
    })
  }

  it('are applied once to a request that the application emits again', async (t) => {
    const server = http.createServer((_request, response) => response.setHeader('connection', 'close').end())
    server.on('checkContinue', (req: http.IncomingMessage, res: http.ServerResponse) => {
      res.writeContinue()
      server.emit('request', req, res)
    })
    const mesh = await serving(t, server)
    assert.match(await exchange(mesh, expecting('/x')), /^HTTP\/1\.1 100 .*\r\n\r\nHTTP\/1\.1 200 /)
    assert.deepEqual(mesh.api.stats().requests, [{ authorized: true, basis: 'permissions', count: 1 }])
  })

  it('are not lost to a library that restores emit', async (t) => {
    let requests = 0
    const server = http.createServer((_req, res) => res.end(String((requests += 1))))
    const emit = server.emit.bind(server)
    const mesh = await serving(t, server)
    server.emit = emit
    assert.equal(await exchange(mesh, get('/admin')).catch(() => ''), '')
    assert.equal(requests, 0)
  })

  it('leave a listener that is added after the others were removed', async (t) => {
    const seen: string[] = []
    const server = http.createServer()
    const mesh = await serving(t, server)
    server
      .removeAllListeners('checkContinue')
      .on('checkContinue', (req: http.IncomingMessage, res: http.ServerResponse) => {
        seen.push(req.url ?? '')
        res.setHeader('connection', 'close').end()
      })
    assert.deepEqual(statuses(await exchange(mesh, expecting('/admin'))), [403])
    assert.deepEqual(statuses(await exchange(mesh, expecting('/x'))), [200])
    assert.deepEqual(seen, ['/x'])
  })

  it('leave an answer to a request that waits during a drain', async (t) => {
    const server = http.createServer((_request, response) => response.end('hello'))
    const mesh = await serving(t, server)
    const socket = await mesh.open()
    socket.write(get('/'))
    await once(socket, 'data')
    const closing = mesh.api.close({ drainTimeoutMs: 5_000 })
    socket.write(expecting('/x'))
    assert.deepEqual(statuses(await readAll(socket)), [100, 200])
    await closing
  })

  for (const event of ['upgrade', 'connect'] as const) {
    it(`close a connection of a denied ${event} whose client does not`, async (t) => {
      const server = http.createServer().on(event, (_request, socket: Duplex) => socket.destroy())
      const mesh = await serving(t, server, { rules: 'allow' })
      const { agent, api } = mesh
      agent.setIntention('web', 'api', [{ Action: 'deny', HTTP: { Methods: ['GET', 'CONNECT'] } }])
      const { port } = mesh
      const peer = tlsOptions(agent.issueLeaf('web'), agent.ca)
      const options = { ...peer, port, host: '127.0.0.1', allowHalfOpen: true }
      const socket = tlsConnect(options)
      t.after(() => socket.destroy())
      socket
        .on('error', () => undefined)
        .write(event === 'upgrade' ? upgrading('/admin') : request('CONNECT', 'x:1'))
      await once(socket.resume(), 'end')
      await until('the connection is closed', () => api.stats().connections === 0, 12_000)
    })
  }

  it('answer a denied HEAD of a server that refuses bodies without a place', async (t) => {
    const server = http.createServer({ rejectNonStandardBodyWrites: true }, (_request, response) =>
      response.end(),
    )
    const mesh = await serving(t, server)
    const answer = await exchange(mesh, request('HEAD', '/admin'), { answers: 1 })
    assert.deepEqual(statuses(answer), [403, 200])
  })
})

interface Answer {
  readonly headers: http2.IncomingHttpHeaders
  readonly trailers: http2.IncomingHttpHeaders
  readonly body: string
}

/** Sends a request over HTTP/2, and waits for its end. */
async function ask(
  session: http2.ClientHttp2Session,
  headers: http2.OutgoingHttpHeaders,
  body?: string,
): Promise<Answer> {
  const stream = session.request({ ':authority': 'api', ...headers }, { endStream: body === undefined })
  if (body !== undefined) stream.end(body)
  let trailers = {}
  stream.on('trailers', (received: http2.IncomingHttpHeaders) => (trailers = received))
  const [received] = (await once(stream, 'response', { signal: AbortSignal.timeout(WAIT_MS) })) as [
    http2.IncomingHttpHeaders,
  ]
  return { headers: received, trailers, body: await readAll(stream) }
}

describe('permissions of HTTP/2 requests', () => {
  type Stream = [stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders]
  const note = (seen: string[], headers: http2.IncomingHttpHeaders): void => {
    const { ':method': method, ':path': path, ':authority': authority, host } = headers
    if (path !== '/last') seen.push(`${method} ${path} ${authority ?? host}`)
  }
  const onStream =
    (seen: string[]) =>
    (...[stream, headers]: Stream): void => {
      note(seen, headers)
      stream.on('error', () => undefined).respond({ ':status': 200 })
      stream.end('hello')
    }
  const KINDS: Readonly<Record<string, (seen: string[]) => Server>> = {
    'the compatible API': (seen) =>
      http2.createSecureServer({}, (req, res) => {
        note(seen, req.headers)
        res.end('hello')
      }),
    'the event `stream`': (seen) => http2.createSecureServer().on('stream', onStream(seen)),
    'the event `stream` of the session': (seen) =>
      http2.createSecureServer().on('session', (session) => session.on('stream', onStream(seen))),
    'a server in plain text': (seen) => http2.createServer().on('stream', onStream(seen)),
  }
  const path = (target: string, headers: object = {}): http2.OutgoingHttpHeaders => ({
    ':path': target,
    ...headers,
  })
  const CASES: readonly (readonly [http2.OutgoingHttpHeaders, number, string?])[] = [
    [path('/x'), 200, 'GET /x api'],
    [path('/admin'), 403],
    [path('/admin', { ':method': 'HEAD' }), 403],
    [path('/admin', { ':method': 'POST' }), 403],
    [path('/x/../admin'), 403],
    [path('/%61dmin'), 403],
    [path('/a/..;/admin'), 403],
    [path('/a/./b'), 200, 'GET /a/b api'],
    [path('/a/./b', { ':authority': ':path' }), 200, 'GET /a/b :path'],
    [path('//admin'), 200, 'GET //admin api'],
    [path('/admin#x'), 400],
    [path('/admin%00'), 400],
    [path('*', { ':method': 'OPTIONS' }), 400],
    [path('/x', { host: 'other' }), 400],
    [path('/x', { host: 'api' }), 200, 'GET /x api'],
    [path('/admin', { expect: '100-continue' }), 403],
    [path('/admin', { 'content-type': 'application/grpcx' }), 403],
  ]
  it('end a denied stream whose client accepts no body', async (t) => {
    const mesh = await serving(
      t,
      http2.createSecureServer({}, () => assert.fail('a denied request arrived')),
    )
    const socket = await mesh.open({ alpn: 'h2' })
    const settings = { initialWindowSize: 0 }
    const session = http2.connect('https://api', { createConnection: () => socket, settings })
    session.on('error', () => undefined)
    const stream = session.request({ ':authority': 'api', ':path': '/admin' }).resume()
    const [headers] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders]
    assert.equal(headers[':status'], 403)
    await once(stream, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
  })

  for (const [kind, create] of Object.entries(KINDS)) {
    it(`are applied to ${kind}`, async (t) => {
      const seen: string[] = []
      const mesh = await serving(t, create(seen))
      const session = await mesh.session()
      for (const [headers, status, reached] of CASES) {
        const body = headers[':method'] === 'POST' ? 'x'.repeat(200_000) : undefined
        const answer = await ask(session, headers, body)
        const what = JSON.stringify([headers, answer])
        assert.equal(answer.headers[':status'], status, what)
        assert.deepEqual(seen.splice(0), reached === undefined ? [] : [reached], what)
      }
      for (const type of ['application/grpc', 'application/grpc+proto']) {
        const { headers, body } = await ask(
          session,
          path('/admin', { 'content-type': type, ':method': 'POST' }),
          'x',
        )
        assert.equal(headers[':status'], 200)
        assert.equal(headers['grpc-status'], '7')
        assert.equal(headers['grpc-message'], 'request denied by the service mesh')
        assert.equal(body, '')
      }
      assert.equal((await ask(session, path('/last'))).headers[':status'], 200)
      assert.deepEqual(seen, [])
    })
  }

  it('are applied to requests that expect to continue', async (t) => {
    const server = http2.createSecureServer({}, (_req, res) => res.end('hello'))
    const session = await (await serving(t, server)).session()
    for (const [expect, status] of [
      ['100-continue', 200],
      ['wonders', 417],
    ] as const)
      assert.equal((await ask(session, path('/x', { expect }))).headers[':status'], status)
  })

  it('are applied to the raw headers as well', async (t) => {
    let raw: readonly string[] = []
    const server = http2.createSecureServer({}, (req, res) => {
      raw = req.rawHeaders
      res.end()
    })
    const session = await (await serving(t, server)).session()
    await ask(session, path('/a/./b', { ':authority': ':path' }))
    assert.deepEqual(raw.slice(0, 4), [':authority', ':path', ':path', '/a/b'])
  })

  it('are applied to calls of a gRPC server', async (t) => {
    const server = grpcServer(t)
    const seen: string[] = []
    const handle =
      (name: string) =>
      ({ request: message }: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>): void => {
        seen.push(name)
        if (name !== 'open') answer(null, message)
      }
    const names = ['admin', 'echo', 'open']
    server.addService(
      Object.fromEntries(names.map((name) => [name, bytesMethod(`/${name}/call`)])),
      Object.fromEntries(names.map((name) => [name, handle(name)])),
    )
    const mesh = await serving(t, server.createConnectionInjector(ServerCredentials.createInsecure()))
    await mesh.api.register({ port: mesh.port, address: '127.0.0.1' })
    const ask = await grpcCaller(t, mesh.join('web'))
    const call = (name: string): Promise<number> =>
      ask(`/${name}/call`, 'x').then(
        () => 0,
        (error: unknown) => (error as ServiceError).code,
      )
    assert.deepEqual([await call('echo'), await call('admin'), await call('echo')], [0, 7, 0])
    assert.deepEqual(seen, ['echo', 'echo'])
    const open = call('open')
    await until('the call is open', () => seen.includes('open'))
    mesh.agent.setIntention('web', 'api', [{ Action: 'deny', HTTP: { PathPrefix: '/open' } }, ...NO_ADMIN])
    assert.equal(await open, 7)
    assert.equal(await call('echo'), 0)
  })

  it('survive clients that reset their streams', async (t) => {
    const server = http2.createSecureServer({}, (_req, res) => res.end('hello'))
    const session = await (await serving(t, server)).session()
    for (let i = 0; i < 200; i += 1) {
      const stream = session.request({
        ':path': '/admin',
        ':method': 'POST',
        ...(i % 2 === 0 && { 'content-type': 'application/grpc' }),
      })
      stream
        .on('error', () => undefined)
        .close(i % 3 === 0 ? http2.constants.NGHTTP2_INTERNAL_ERROR : http2.constants.NGHTTP2_CANCEL)
    }
    assert.equal((await ask(session, path('/last'))).headers[':status'], 200)
  })
})

describe('the header x-forwarded-client-cert', () => {
  const FORGED = 'x-forwarded-client-cert'
  for (const forwardClientCert of [false, true]) {
    for (const rules of ['allow', NO_ADMIN] as const) {
      const what = `${rules === 'allow' ? 'an action' : 'permissions'} and forwardClientCert: ${forwardClientCert}`
      it(`is never that of a caller, with ${what}`, async (t) => {
        const seen: unknown[] = []
        const raw = (lines: readonly string[]): string[] =>
          lines.filter((_text, i) => lines[i - (i % 2)]?.toLowerCase() === FORGED)
        const server = http2.createSecureServer({ allowHTTP1: true }, (req, res) => {
          const { headersDistinct = {} } = req as unknown as Partial<http.IncomingMessage>
          seen.push(req.headers[FORGED], raw(req.rawHeaders), headersDistinct[FORGED])
          if (req.httpVersionMajor === 1) res.setHeader('connection', 'close')
          res.end()
        })
        server.on('upgrade', (req: http.IncomingMessage, socket: Duplex) => {
          seen.push(req.headers[FORGED], raw(req.rawHeaders), req.headersDistinct[FORGED])
          socket.end()
        })
        const mesh = await serving(t, server, { rules, forwardClientCert })
        const fingerprints: string[] = []
        const open: Serving['open'] = async (options) => {
          const socket = await mesh.open(options)
          const { fingerprint256 } = socket.getCertificate() as { fingerprint256: string }
          fingerprints.push(fingerprint256.replaceAll(':', '').toLowerCase())
          return socket
        }
        const expected = (): unknown[] => {
          if (!forwardClientCert) return [undefined, []]
          const uri = mesh.api.leaf!.uri
          const value = `By=${uri};Hash=${fingerprints.at(-1)!};Subject="";URI=${uri.replace(/api$/, 'web')}`
          return [value, [FORGED, value]]
        }
        const forged = ['X-Forwarded-Client-Cert: a', 'x-forwarded-client-cert: b', 'x-other: c']
        for (const more of [[], ['connection: upgrade', 'upgrade: echo']]) {
          await exchange({ open }, get('/x', ...forged, ...more))
          const [value, lines] = expected()
          assert.deepEqual(seen.splice(0), [value, lines, value === undefined ? undefined : [value]])
        }
        const socket = await open({ alpn: 'h2' })
        const session = http2.connect('https://api', { createConnection: () => socket })
        await ask(session, { ':path': '/x', [FORGED]: ['a', 'b'] })
        assert.deepEqual(seen.slice(0, 2), expected())
      })
    }
  }
})

describe('the settings of requests', () => {
  const app: http.RequestListener = ({ url, rawHeaders }, response) => {
    response.end(`<${url} ${rawHeaders.filter((text) => text.includes('_')).join()}>`)
  }
  const NORMALIZATIONS: readonly (readonly [object, string, number, string])[] = [
    [{ HeadersWithUnderscoresAction: 'REJECT_REQUEST' }, get('/x', 'x_a: 1'), 400, ''],
    [{ HeadersWithUnderscoresAction: 'DROP_HEADER' }, get('/x', 'x_a: 1', 'X_A: 2', 'x_b: 3'), 200, '</x >'],
    [{ HeadersWithUnderscoresAction: 'ALLOW' }, get('/x', 'x_a: 1'), 200, '</x x_a>'],
    [{ PathWithEscapedSlashesAction: 'KEEP_UNCHANGED' }, get('/x%2f..%2fadmin'), 200, '</x%2f..%2fadmin >'],
    [{ PathWithEscapedSlashesAction: 'REJECT_REQUEST' }, get('/x%2fy'), 400, ''],
    [{ PathWithEscapedSlashesAction: 'UNESCAPE_AND_FORWARD' }, get('/x%2f..%2fadmin'), 403, ''],
    [{ PathWithEscapedSlashesAction: 'UNESCAPE_AND_REDIRECT' }, get('/x%2f..%2fy?z'), 307, 'location: /y?z'],
    [{ MergeSlashes: true }, get('//admin'), 403, ''],
    [{ InsecureDisablePathNormalization: true }, get('/x/../admin'), 200, '</x/../admin >'],
  ]

  it('follow the config entry of the mesh', async (t) => {
    const mesh = await serving(t, http.createServer(app))
    for (const [setting, bytes, status, text] of NORMALIZATIONS) {
      await normalization(mesh.agent, setting)
      const what = JSON.stringify([setting, bytes])
      await until(`${what} is answered with ${status}`, async () => {
        const received = await exchange(mesh, bytes, { answers: 1 })
        return statuses(received)[0] === status && received.includes(text)
      })
    }
  })

  it('refuse ambiguous paths of any source, with strictPaths', async (t) => {
    const seen: string[] = []
    const server = http2.createSecureServer({ allowHTTP1: true }, (req, res) => {
      if (req.url !== '/last') seen.push(req.url)
      res.end()
    })
    const mesh = await serving(t, server, { strictPaths: true })
    mesh.agent.setIntention('other', 'api', 'allow')
    for (const from of ['web', 'other']) {
      const session = await mesh.session(from)
      const ambiguous = [
        '/a/../b',
        '/a//b',
        '/a;b',
        '/a%2fb',
        '/a%5Cb',
        '/a%00',
        '/a%25',
        '/%2e',
        '/a\\b',
        '/..',
      ]
      for (const path of ambiguous) {
        const received = await exchange(mesh, get(path), { from, answers: 1 })
        assert.deepEqual(statuses(received), [400, 200], `${from} ${path}`)
        assert.equal((await ask(session, { ':path': path })).headers[':status'], 400, `${from} ${path}`)
      }
      assert.deepEqual(seen, [])
      assert.deepEqual(statuses(await exchange(mesh, get('/a?//..'), { from, answers: 1 })), [200, 200])
      assert.deepEqual(seen.splice(0), ['/a?//..'])
      assert.deepEqual(statuses(await exchange(mesh, get('http://api/a'), { from, answers: 1 })), [200, 200])
      seen.length = 0
      assert.deepEqual(
        statuses(await exchange(mesh, get('http://api/a//b'), { from, answers: 1 })),
        [400, 200],
      )
    }
  })

  it('refuse a server that reads malformed requests', async (t) => {
    const { join } = await startMesh(t)
    const server = http.createServer({ insecureHTTPParser: true })
    const error = await rejection(join('api').serve(server, { port: 0 }))
    assert.equal(error.code, 'ERR_CONNECT_OPTION')
    assert.match(error.message, /insecureHTTPParser/)
    assert.equal((await rejection(join('api').secure(server))).code, 'ERR_CONNECT_OPTION')
  })

  it('deny connections of a source with permissions while the protocol is tcp', async (t) => {
    const mesh = await serving(t, http.createServer(app))
    const { agent, api, open } = mesh
    const socket = await open()
    socket.write(get('/x'))
    await once(socket, 'data')
    const revoked = nextEvent(api, 'revoked')
    await putEntry(agent, { Kind: 'service-defaults', Name: 'api', Protocol: 'tcp' })
    const [error] = await revoked
    assert.equal(error.request, undefined)
    assert.match(error.reason, /the protocol of api is tcp/)
    const isDenied = nextEvent(api, 'denied')
    await open()
    assert.match((await isDenied)[0].reason, /the protocol of api is tcp/)
    await putEntry(agent, { Kind: 'service-defaults', Name: 'api', Protocol: 'grpc' })
    await until('requests are decided again', async () => {
      const received = await exchange(mesh, get('/admin'), { answers: 1 }).catch(() => '')
      return statuses(received)[0] === 403
    })
  })

  it('hold for an authorizer that wraps the intentions', async (t) => {
    const wrappers: Readonly<Record<string, Authorizer>> = {
      'a copy': async ({ intentions }) => ({ ...(await intentions()) }),
      'a decision of its own': async ({ intentions }) => {
        await intentions()
        return { authorized: true, reason: 'all of them' }
      },
      'one that asks twice': async ({ intentions }) => {
        await intentions()
        return intentions()
      },
    }
    for (const [name, authorize] of Object.entries(wrappers)) {
      const mesh = await serving(t, http.createServer(app), { authorize })
      const received = await exchange(mesh, get('/admin'), { answers: 1 })
      assert.deepEqual(statuses(received), [403, 200], name)
    }
  })

  it('are those of authorize, requestDecision, the events, and the statistics', async (t) => {
    const reasons: unknown[] = []
    const server = http.createServer((req, res) => {
      reasons.push(requestDecision(req)?.reason)
      res.end()
    })
    let from: Peer | undefined
    const messages: { path: string; authorized: boolean; status: number | undefined }[] = []
    const onMessage = (message: unknown): void => void messages.push(message as (typeof messages)[number])
    subscribe('consul-connect:request', onMessage)
    t.after(() => unsubscribe('consul-connect:request', onMessage))
    const mesh = await serving(t, server)
    const { api } = mesh
    const counts: number[] = []
    api.on('requestDenied', (error, count) => {
      assert.deepEqual([error.method, error.path, error.status, error.permission], ['GET', '/admin', 403, 1])
      assert.equal(error.intention, 'default/web => default/api')
      counts.push(count)
      from = error.peer
    })
    await exchange(mesh, get('/admin?secret').repeat(30), { answers: 30 })
    await until('all are reported', () => counts.reduce((sum, count) => sum + count, 0) === 30)
    assert.ok(counts.length < 30)
    assert.deepEqual(reasons, ['allowed by permission 2 of intention default/web => default/api'])
    assert.deepEqual(api.stats().requests, [
      { authorized: false, basis: 'permissions', count: 30 },
      { authorized: true, basis: 'permissions', count: 1 },
    ])
    assert.equal(messages.length, 31)
    assert.deepEqual(
      [messages[0]!.path, messages[0]!.authorized, messages[0]!.status],
      ['/admin', false, 403],
    )
    assert.deepEqual(
      [messages[30]!.path, messages[30]!.authorized, messages[30]!.status],
      ['/last', true, undefined],
    )
    assert.ok(from !== undefined)
    const decision = await api.authorize(from, {
      method: 'GET',
      path: '/x/../admin',
      headers: { host: 'api' },
    })
    assert.deepEqual([decision.authorized, decision.path, decision.permission], [false, '/admin', 1])
    assert.equal((await api.authorize(from, { method: 'GET', path: '/x' })).authorized, true)
    assert.equal((await api.authorize(from)).authorized, false)
  })
})

describe('passthrough', () => {
  it('receives the connections of peers that may send any request', async (t) => {
    const passed: string[] = []
    const server = http.createServer((req, res) => {
      res.end(`${req.method} ${req.url}`)
    })
    const mesh = await serving(t, server, {
      allowHalfOpen: true,
      passthrough: (socket) => {
        passed.push(socket.peer.service)
        // Half-open, unlike the connections of the server.
        socket.on('end', () => socket.end('the rest')).resume()
      },
    })
    mesh.agent.setIntention('job', 'api', 'allow')
    mesh.agent.setIntention('thief', 'api', 'deny')
    assert.match(await exchange(mesh, get('/x', 'connection: close')), /GET \/x$/)
    const job = await mesh.open({ from: 'job', alpn: 'h2' })
    assert.equal(job.alpnProtocol, false)
    job.end('bytes')
    assert.equal(await readAll(job), 'the rest')
    assert.equal(await readAll(await mesh.open({ from: 'thief' })), '')
    assert.deepEqual(passed, ['job'])
  })

  it('loses its connections when permissions begin to apply, and keeps them otherwise', async (t) => {
    const server = http.createServer((_req, res) => {
      res.end()
    })
    let passed = 0
    const mesh = await serving(t, server, {
      rules: 'allow',
      passthrough: (socket) => {
        passed += 1
        socket.pipe(socket)
      },
    })
    const socket = await mesh.open()
    const ended = readAll(socket)
    socket.write('hello')
    await until('the connection was passed', () => passed === 1)
    mesh.agent.setIntention('job', 'api', 'deny')
    mesh.agent.setIntention('web', 'api', 'allow')
    const revoked = nextEvent(mesh.api, 'revoked')
    mesh.agent.setIntention('web', 'api', NO_ADMIN)
    assert.match((await revoked)[0].reason, /has permissions, which decide each request/)
    assert.equal(await ended, 'hello')
    const denied = await mesh.open()
    denied.write(get('/admin', 'connection: close'))
    assert.match(await readAll(denied), /^HTTP\/1.1 403 /)
    const kept = await mesh.open()
    kept.write(get('/x'))
    await once(kept, 'data')
    mesh.agent.setIntention('web', 'api', 'allow')
    await until('the next connection is passed', async () => {
      const another = await mesh.open()
      another.end('x')
      await readAll(another)
      return passed > 1
    })
    kept.write(get('/admin'))
    assert.match(String(((await once(kept, 'data')) as [Buffer])[0]), /^HTTP\/1.1 200 /)
  })

  it('needs a server whose requests are decided', async (t) => {
    const api = (await startMesh(t)).join('api')
    const options = { port: 0, passthrough: () => undefined }
    const error = await rejection(api.serve(tcpServer(), options))
    assert.match(
      error.message,
      /passthrough: expected a server of HTTP beside it, got one whose requests are not decided/,
    )
    const wrong = await rejection(api.serve(http.createServer(), { port: 0, passthrough: true as never }))
    assert.match(wrong.message, /passthrough: expected a function, got the boolean true/)
  })
})

describe('permissions that change', () => {
  /** Answers begin and do not end; upgrades echo. */
  function openEnded(): Server {
    const server = http.createServer((_req, res) => void res.write('begun'))
    server.on('upgrade', (_req, socket: Duplex) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
      socket.pipe(socket)
    })
    return server
  }
  const WAYS = {
    'an HTTP/1.1 response': { from: 'allow', target: '/feed/1', lines: [] },
    'one that permissions allowed': { from: NO_ADMIN, target: '/feed/1', lines: [] },
    'one with a path that is normalized': { from: 'allow', target: '/x/../feed', lines: [] },
    'one with an absolute target': { from: 'allow', target: 'http://api/feed', lines: [] },
    'an upgraded connection': {
      from: NO_ADMIN,
      target: '/feed',
      lines: ['connection: upgrade', 'upgrade: echo'],
    },
  } as const

  for (const [name, { from, target, lines }] of Object.entries(WAYS)) {
    it(`end ${name}, and no other`, async (t) => {
      const mesh = await serving(t, openEnded(), { rules: from })
      const { agent, api } = mesh
      const [feed, other] = [await mesh.open(), await mesh.open()]
      for (const [socket, path] of [
        [feed, target],
        [other, '/other'],
      ] as const) {
        socket.write(get(path, ...lines))
        await once(socket, 'data')
      }
      const revoked = nextEvent(api, 'revoked')
      const ended = once(feed, 'close')
      agent.setIntention('web', 'api', NO_FEED)
      const [error] = await revoked
      assert.equal(error.request?.method, 'GET')
      await ended
      assert.equal(other.destroyed, false)
      assert.deepEqual(api.stats().revocations, [{ basis: 'permissions', count: 1 }])
    })
  }

  for (const type of ['text/plain', 'application/grpc']) {
    it(`end a stream of ${type}, and no other`, async (t) => {
      const server = http2.createSecureServer().on('stream', (stream) => {
        stream.respond()
        stream.write('begun')
      })
      const { agent, api, session } = await serving(t, server, { rules: 'allow' })
      const client = await session()
      const [feed, other] = ['/x/../feed', '/other'].map((path) => {
        const stream = client.request({ ':path': path, ':method': 'POST', 'content-type': type })
        return stream.on('error', () => undefined)
      })
      await Promise.all([once(feed!, 'data'), once(other!, 'data')])
      const revoked = nextEvent(api, 'revoked')
      const ended = new Promise((resolve) => feed!.once('close', resolve))
      agent.setIntention('web', 'api', NO_FEED)
      await revoked
      await ended
      const { NGHTTP2_INADEQUATE_SECURITY } = http2.constants
      assert.equal(feed!.rstCode, NGHTTP2_INADEQUATE_SECURITY)
      assert.equal(other!.closed, false)
      assert.equal(api.stats().revocations[0]?.count, 1)
    })
  }

  it('leave open requests with revoke: false, and decide later ones', async (t) => {
    const mesh = await serving(t, openEnded(), { revoke: false })
    const { agent, api } = mesh
    const feed = await mesh.open()
    feed.write(get('/feed'))
    await once(feed, 'data')
    agent.setIntention('web', 'api', NO_FEED)
    await until('later requests are denied', async () => {
      const socket = await mesh.open()
      socket.write(get('/feed'))
      const [chunk] = (await once(socket, 'data')) as [Buffer]
      return String(chunk).startsWith('HTTP/1.1 403')
    })
    assert.equal(feed.destroyed, false)
    assert.deepEqual(api.stats().revocations, [])
  })

  it('end no request that has ended', async (t) => {
    const server = http2.createSecureServer({ allowHTTP1: true }, (_req, res) => res.end('hello'))
    const mesh = await serving(t, server)
    const { agent, api } = mesh
    const socket = await mesh.open()
    const session = await mesh.session()
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(
        Array.from({ length: 20 }, (_, i) =>
          ask(session, { ':path': i % 4 === 0 ? '/admin' : '/feed', ':method': 'POST' }, 'x'.repeat(1_000)),
        ),
      )
      socket.write((get('/feed') + request('HEAD', '/feed') + get('/admin')).repeat(10))
    }
    let answers = 0
    socket.on('data', (chunk: Buffer) => (answers += statuses(chunk.toString('latin1')).length))
    await until('all are answered', () => answers >= 590)
    const changed = nextEvent(api, 'decisions')
    agent.setIntention('web', 'api', NO_FEED)
    await changed
    await api.reauthorize()
    assert.equal(Number((await ask(session, { ':path': '/feed' })).headers[':status']), 403)
    assert.deepEqual(api.stats().revocations, [])
  })
})
