// A sidecar whose sources have permissions: it decides their requests in front of an application that knows nothing of the mesh.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import { type AddressInfo, type Server, type Socket } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import {
  Client,
  type ServerWritableStream,
  type ServiceError,
  credentials,
  status,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { WebSocket, WebSocketServer } from 'ws'
import { freePort } from '../fixtures/free-ports.js'
import { type TestMesh, WAIT_MS, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { NO_ADMIN, type Rules, putEntry } from '../fixtures/permissions.js'
import { asIs, bytesMethod, callMethod, grpcServer } from '../mesh/grpc.js'
import {
  type Pair,
  configFile,
  localConnect,
  nextData,
  startApplication,
  startPair,
} from './connect-proxy.js'

const NOTHING: Rules = [{ Action: 'deny', HTTP: { PathPrefix: '/' } }]

interface Decided extends TestMesh, Pair {}

/** Starts sidecars of `web` and `api`, whose intention has rules. */
async function decided(
  t: TestContext,
  applicationPort: number,
  {
    rules = NO_ADMIN,
    flags = [] as string[],
    protocol = 'http',
  }: { rules?: Rules | 'allow'; flags?: string[]; protocol?: string } = {},
): Promise<Decided> {
  const mesh = await startMesh(t, { version: '1.15' })
  const { agent } = mesh
  agent.setIntention('web', 'api', rules)
  await putEntry(agent, { Kind: 'service-defaults', Name: 'api', Protocol: protocol })
  return { ...mesh, ...(await startPair(t, agent.address, applicationPort, { inbound: flags })) }
}

async function listening(t: TestContext, server: Server | http2.Http2Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    if ('closeAllConnections' in server) (server as http.Server).closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

interface Answer {
  readonly status: number | undefined
  readonly headers: http.IncomingHttpHeaders
  readonly rawHeaders: readonly string[]
  readonly trailers: readonly string[]
  readonly text: string
}

/** Sends an HTTP/1 request, and reads its answer. */
async function send(
  port: number,
  {
    body = [] as readonly string[],
    trailers = {},
    ...options
  }: http.RequestOptions & { body?: readonly string[]; trailers?: http.OutgoingHttpHeaders } = {},
): Promise<Answer> {
  const request = http
    .request({ port, host: '127.0.0.1', agent: false, ...options })
    .on('error', () => undefined)
  for (const chunk of body) request.write(chunk)
  request.addTrailers(trailers)
  request.end()
  const signal = AbortSignal.timeout(WAIT_MS)
  const [response] = (await once(request, 'response', { signal })) as [http.IncomingMessage]
  const text = await readAll(response)
  const { statusCode: status, headers, rawHeaders, rawTrailers } = response
  return { status, headers, rawHeaders, trailers: rawTrailers, text }
}

/** Answers each request with what was received. */
function report(request: http.IncomingMessage, response: http.ServerResponse): void {
  let body = ''
  request.on('data', (chunk: Buffer) => (body += chunk.toString()))
  request.on('end', () => {
    const { method, url, rawHeaders, rawTrailers, httpVersion } = request
    response.setHeader('x-answer', ['1', '2'])
    response.end(JSON.stringify({ method, url, rawHeaders, rawTrailers, httpVersion, body }))
  })
}

describe('a sidecar in front of an HTTP/1 application', () => {
  it('answers denied requests itself, and forwards the others on one connection', async (t) => {
    const connections = new Set<Socket>()
    const server = http.createServer(report).on('connection', (socket: Socket) => connections.add(socket))
    const { port, inbound } = await decided(t, await listening(t, server))
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => {
      agent.destroy()
    })
    const paths = ['/a', '/admin', '/b/../admin', '/c']
    const answers = []
    for (const path of paths) answers.push(await send(port, { path, agent }))
    assert.deepEqual(
      answers.map(({ status }) => status),
      [200, 403, 403, 200],
    )
    assert.equal(connections.size, 1)
    const { msg, peer, status } = await inbound.logged(' denied; ')
    assert.equal(
      msg,
      'web to api: GET /admin denied; denied by permission 1 of intention default/web => default/api',
    )
    assert.deepEqual([String(peer).endsWith('/svc/web'), status], [true, 403])
    assert.equal(await inbound.metric('requests_total', { authorized: 'false' }), 2)
    assert.equal(await inbound.metric('requests_total', { authorized: 'true' }), 2)
  })

  it('passes requests and responses on as they are', async (t) => {
    const { port } = await decided(t, await listening(t, http.createServer(report)))
    const { status, rawHeaders, text } = await send(port, {
      method: 'PUT',
      path: '/x?y',
      headers: {
        ...{ host: 'API:80', 'X-Two': ['1', '2'], 'X-Forwarded-Client-Cert': 'Hash=1', TE: 'trailers' },
        ...{ Connection: 'close, TE', Trailer: 'X-Sum', 'Transfer-Encoding': 'chunked' },
      },
      body: ['hello ', 'there'],
      trailers: { 'X-Sum': '11' },
    })
    assert.equal(status, 200, text)
    const received = JSON.parse(text) as { rawHeaders: string[]; rawTrailers: string[]; body: string }
    assert.deepEqual(received, {
      ...{
        method: 'PUT',
        url: '/x?y',
        httpVersion: '1.1',
        body: 'hello there',
        rawTrailers: ['X-Sum', '11'],
      },
      rawHeaders: [
        ...['host', 'API:80', 'X-Two', '1', 'X-Two', '2', 'Trailer', 'X-Sum'],
        ...['Transfer-Encoding', 'chunked', 'TE', 'trailers', 'Connection', 'TE'],
      ],
    })
    assert.deepEqual(
      rawHeaders.filter((_, i) => /^x-answer$/i.test(rawHeaders[i - (i % 2)]!)),
      ['x-answer', '1', 'x-answer', '2'],
    )
  })

  it('keeps the framing of messages without a body, and of those that end with the connection', async (t) => {
    const application = await startApplication(t, (socket) => {
      socket.on('data', (chunk: Buffer) => {
        const [head = ''] = chunk.toString().split('\r\n\r\n')
        const lines = head.split('\r\n').slice(1).join(' ')
        socket.end(`HTTP/1.0 200 Fine\r\nX-A: 1\r\n\r\n${lines}`)
      })
    })
    const { port } = await decided(t, application.port)
    const answers = []
    for (const method of ['GET', 'POST', 'HEAD'])
      answers.push(await send(port, { method, path: '/', headers: { host: 'api' } }))
    assert.deepEqual(
      answers.map(({ text, rawHeaders, status }) => [status, text, rawHeaders.slice(0, 2)]),
      [
        [200, 'host: api Connection: keep-alive', ['X-A', '1']],
        [200, 'host: api Content-Length: 0 Connection: keep-alive', ['X-A', '1']],
        [200, '', ['X-A', '1']],
      ],
    )
  })

  it('answers 503 while the application is down', async (t) => {
    const applicationPort = await freePort()
    const { port, inbound } = await decided(t, applicationPort)
    for (const method of ['GET', 'HEAD', 'POST'])
      assert.equal((await send(port, { method, body: [] })).status, 503)
    await inbound.logged(
      `cannot connect to the application at 127.0.0.1:${applicationPort}: connect ECONNREFUSED`,
    )
    const server = http.createServer(report).listen(applicationPort, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    assert.equal((await send(port)).status, 200)
  })

  it('ends an idle connection when the application does', async (t) => {
    const server = http.createServer({ keepAliveTimeout: 100 }, report)
    const { port } = await decided(t, await listening(t, server))
    const socket = localConnect(t, port)
    socket.write('GET / HTTP/1.1\r\nhost: api\r\n\r\n')
    assert.match(await readAll(socket), /^HTTP\/1.1 200 OK\r\n/)
  })

  it('cuts a response that the application cuts, and a request that the client cuts', async (t) => {
    let aborted = 0
    const server = http.createServer((request, response) => {
      if (request.url === '/half') {
        response.writeHead(200, { 'content-length': 10 }).write('hello')
        setImmediate(() => response.destroy())
      } else request.on('error', () => (aborted += 1)).resume()
    })
    const { port } = await decided(t, await listening(t, server))
    assert.match((await rejection(send(port, { path: '/half' }))).message, /aborted/)
    const request = http.request({ port, host: '127.0.0.1', method: 'POST' }).on('error', () => undefined)
    request.write('hello')
    await until('the request has arrived', async () => (await connectionsOf(server)) === 1)
    request.destroy()
    await until('the application has seen the cut', () => aborted === 1)
  })

  it('passes on headers, informational responses, and parts of a body when they come', async (t) => {
    const server = http.createServer((request, response) => {
      response.writeEarlyHints({ link: '</a.css>; rel=preload' })
      response.writeHead(200).flushHeaders()
      request.pipe(response)
    })
    server.on('checkContinue', (request: http.IncomingMessage, response: http.ServerResponse) => {
      if (request.url === '/no') response.writeHead(413).end()
      else {
        response.writeContinue()
        server.emit('request', request, response)
      }
    })
    const { port } = await decided(t, await listening(t, server))
    const headers = { expect: '100-continue', 'transfer-encoding': 'chunked' }
    const request = http.request({ port, host: '127.0.0.1', method: 'POST', headers })
    t.after(() => request.destroy())
    const informational: number[] = []
    request.on('information', ({ statusCode }) => informational.push(statusCode))
    const answer = once(request, 'response')
    request.flushHeaders()
    await once(request, 'continue')
    const [response] = (await answer) as [http.IncomingMessage]
    assert.deepEqual(informational, [100, 103])
    for (const text of ['one', 'two']) {
      request.write(text)
      assert.equal(String(((await once(response, 'data')) as [Buffer])[0]), text)
    }
    request.end()
    assert.equal((await send(port, { path: '/no', method: 'POST', headers, body: [] })).status, 413)
  })

  it('refuses transfer codings that it cannot decode', async (t) => {
    const application = await startApplication(t, (socket) => {
      socket.once('data', () =>
        socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n'),
      )
    })
    const { port } = await decided(t, application.port)
    const headers = { 'transfer-encoding': 'gzip, chunked' }
    assert.equal((await send(port, { method: 'POST', headers, body: ['hello'] })).status, 501)
    assert.equal((await send(port)).status, 502)
  })

  it('carries 4 MB in each direction', async (t) => {
    const server = http.createServer((request, response) => request.pipe(response))
    const { port } = await decided(t, await listening(t, server))
    const body = Array.from({ length: 64 }, (_, i) => String.fromCharCode(97 + (i % 26)).repeat(65_536))
    const { text } = await send(port, { method: 'POST', body })
    assert.ok(text === body.join(''))
  })

  it('gives pipelined requests their own answers', async (t) => {
    const { port } = await decided(t, await listening(t, http.createServer(report)))
    const socket = localConnect(t, port)
    const get = (path: string, last = ''): string => `GET ${path} HTTP/1.1\r\nhost: api\r\n${last}\r\n`
    socket.write(get('/1') + get('/admin') + get('/2', 'connection: close\r\n'))
    const text = await readAll(socket)
    assert.deepEqual(text.match(/HTTP\/1.1 \d+|"url":"[^"]*"/g), [
      ...['HTTP/1.1 200', '"url":"/1"', 'HTTP/1.1 403', 'HTTP/1.1 200', '"url":"/2"'],
    ])
  })

  it('never forwards bytes as a request that was not decided, however many headers come before a length', async (t) => {
    const server = http.createServer(report)
    server.maxHeadersCount = 0
    const { port } = await decided(t, await listening(t, server))
    for (const method of ['GET', 'POST']) {
      const many = Array.from({ length: 2_500 }, (_, i) => `x${i}: y\r\n`).join('')
      const body = 'GET /admin HTTP/1.1\r\nhost: api\r\n\r\n'
      const socket = localConnect(t, port)
      socket.write(
        `${method} /x HTTP/1.1\r\nhost: api\r\nconnection: close\r\n${many}content-length: ${body.length}\r\n\r\n${body}`,
      )
      const text = await readAll(socket)
      assert.deepEqual(text.match(/HTTP\/1.1 \d+|"url":"[^"]*"/g), ['HTTP/1.1 200', '"url":"/x"'])
      assert.ok(text.includes(`"body":${JSON.stringify(body)}`))
    }
  })

  it('ends the requests that wait on a connection with it', async (t) => {
    const arrived: (string | undefined)[] = []
    const server = http.createServer(({ url }) => {
      arrived.push(url)
    })
    const { port, inbound } = await decided(t, await listening(t, server))
    const socket = localConnect(t, port)
    socket.write(['/1', '/2', '/3'].map((path) => `GET ${path} HTTP/1.1\r\nhost: api\r\n\r\n`).join(''))
    await until('the first request has arrived', () => arrived.length === 1)
    socket.destroy()
    await inbound.logged(({ msg }) => msg === 'connection')
    await until('the application has no connection', async () => (await connectionsOf(server)) === 0)
    assert.deepEqual(arrived, ['/1'])
  })

  it('survives answers that Node.js reads and does not write', async (t) => {
    const answers = [
      'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n',
      'HTTP/1.1 200 a\x01b\r\ncontent-length: 0\r\n\r\n',
      'HTTP/1.1 103 Early\r\nlink: </a>; rel="x y"\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
      'HTTP/1.1 103 Early\r\nlink: </a>\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
      'HTTP/1.1 204 No Content\r\ntrailer: x\r\n\r\n',
      'garbage\r\n\r\n',
    ]
    let answer = ''
    const application = await startApplication(t, (socket) => {
      socket.once('data', () => socket.write(answer, 'latin1'))
    })
    const { port, inbound } = await decided(t, application.port)
    const received = []
    for (answer of answers) received.push(await send(port).then(({ status: code }) => code, String))
    assert.equal(inbound.hasEnded, false, inbound.text)
    assert.deepEqual(received, [503, 200, 200, 200, 204, 503])
  })

  it('survives requests that Node.js reads and does not write, and keeps their bytes', async (t) => {
    const server = http.createServer(report)
    server.on('upgrade', (_, socket: Socket) => {
      socket.end('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n')
    })
    const { port } = await decided(t, await listening(t, server))
    const ask = async (head: string, body = ''): Promise<string> => {
      const socket = localConnect(t, port)
      socket.write(`${head}host: api\r\n\r\n`, 'latin1')
      if (body !== '') {
        // Later than the head is passed on.
        await until('the application has the request', async () => (await connectionsOf(server)) > 0)
        socket.write(body)
      }
      return readAll(socket)
    }
    const close = 'connection: close\r\n'
    assert.match(await ask(`GET /x HTTP/1.1\r\ntrailer: x\r\n${close}`), /^HTTP\/1.1 200 /)
    assert.match(
      await ask(`POST /x HTTP/1.1\r\ntrailer: x\r\ncontent-length: 0\r\n${close}`),
      /^HTTP\/1.1 200 /,
    )
    const upgrade = 'connection: upgrade\r\nupgrade: websocket\r\n'
    assert.match(await ask(`GET /x HTTP/1.1\r\ntrailer: x\r\n${upgrade}`), /^HTTP\/1.1 101 /)
    const text = await ask(`POST /x HTTP/1.1\r\nx-a: \xc3\xa9\r\ncontent-length: 2\r\n${close}`, 'hi')
    assert.match(text, /"x-a","\u00c3\u00a9"/)
    const expecting = `POST /x HTTP/1.1\r\nx-a: \xe9\r\nexpect: 100-continue\r\ncontent-length: 2\r\n${close}`
    assert.match(await ask(expecting), /^HTTP\/1.1 400 /)
  })

  it('leaves nothing of an upgrade that was not accepted, or is not answered', async (t) => {
    const server = http.createServer((request, response) => {
      if (request.url === '/no') response.writeHead(404).end('no')
    })
    const { port, inbound } = await decided(t, await listening(t, server))
    for (const path of ['/no', '/wait']) {
      const socket = localConnect(t, port)
      const upgrade = 'connection: upgrade\r\nupgrade: websocket\r\n'
      socket.end(`GET ${path} HTTP/1.1\r\nhost: api\r\n${upgrade}\r\nx`)
      await readAll(socket).catch(() => undefined)
    }
    await until(
      'no connection is open',
      async () => (await inbound.metric('connections_open', { direction: 'inbound' })) === 0,
    )
    await until('the application has none', async () => (await connectionsOf(server)) === 0)
  })

  it('refuses an upgrade behind an open request, and more than 100 open requests', async (t) => {
    const server = http.createServer(() => undefined)
    const { port } = await decided(t, await listening(t, server))
    const get = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\nhost: api\r\n${more}\r\n`
    for (const bytes of [
      get('/slow') + get('/x', 'connection: upgrade\r\nupgrade: websocket\r\n'),
      get('/slow').repeat(101),
    ]) {
      const socket = localConnect(t, port)
      socket.write(bytes)
      assert.equal((await rejection(readAll(socket))).code, 'ECONNRESET')
    }
  })

  it('opens WebSocket connections, and cuts them when their permission goes', async (t) => {
    const server = http.createServer(report)
    const webSockets = new WebSocketServer({ server })
    webSockets.on('connection', (socket) => {
      socket.on('message', (data: Buffer) => {
        socket.send(`you said ${data.toString()}`)
      })
    })
    const { agent, port } = await decided(t, await listening(t, server))
    const socket = new WebSocket(`ws://127.0.0.1:${port}/feed`)
    t.after(() => {
      socket.terminate()
    })
    const message = once(socket, 'message')
    await once(socket, 'open')
    socket.send('hello')
    assert.equal(String(((await message) as [Buffer])[0]), 'you said hello')
    const denied = new WebSocket(`ws://127.0.0.1:${port}/admin`)
    assert.match(((await once(denied, 'error')) as [Error])[0].message, /Unexpected server response: 403/)
    const cut = once(socket, 'close')
    agent.setIntention('web', 'api', [{ Action: 'deny', HTTP: { PathPrefix: '/feed' } }, ...NO_ADMIN])
    assert.equal(((await cut) as [number])[0], 1006)
  })

  it('upgrades to nothing but WebSocket: other protocols would carry requests without a decision', async (t) => {
    const server = http.createServer(report)
    server.on('upgrade', (_, socket: Socket) => {
      socket.end('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n')
    })
    const { port } = await decided(t, await listening(t, server))
    const ask = (head: string, body = ''): Promise<string> => {
      const socket = localConnect(t, port)
      const lines = 'host: api\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n'
      socket.write(`${head}${lines}http2-settings: AAMAAABkAAQAAP__\r\n\r\n${body}`)
      return readAll(socket)
    }
    const text = await ask('GET /x HTTP/1.1\r\n')
    assert.match(text, /^HTTP\/1.1 200 OK\r\n/)
    assert.match(text, /"url":"\/x"/)
    // Before version 22.21, Node.js cannot read its body.
    const posted = await ask('POST /x HTTP/1.1\r\ncontent-length: 5\r\n', 'hello')
    assert.match(posted, /^HTTP\/1.1 (501 Not Implemented\r\n|200 OK[^]*"body":"hello")/)
    const tunnel = localConnect(t, port)
    tunnel.write('CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\n')
    assert.match((await rejection(readAll(tunnel))).message, /ECONNRESET/)
  })
})

/** A method of gRPC that streams until its call ends. */
const FEED = { ...bytesMethod('/api.Feed/Watch'), responseStream: true } as const

async function grpcApplication(t: TestContext): Promise<number> {
  const server = grpcServer(t)
  const methods = {
    Hello: bytesMethod('/api.Greeter/Hello'),
    Admin: bytesMethod('/api.Admin/Stop'),
    Watch: FEED,
  }
  const answer = ({ request }: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>): void => {
    if (String(request) === 'fail') done({ code: status.FAILED_PRECONDITION, details: 'not today' })
    else done(null, Buffer.from(`hello ${String(request)}`))
  }
  server.addService(methods, {
    Hello: answer,
    Admin: answer,
    Watch: (call: ServerWritableStream<Buffer, Buffer>) => {
      call.write(Buffer.from('first'))
    },
  })
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port)
      else reject(error)
    })
  })
}

async function refusal(client: Client, path: string, text: string): Promise<ServiceError> {
  return (await rejection(callMethod(client, path, text))) as unknown as ServiceError
}

describe('a sidecar in front of an HTTP/2 application', () => {
  it('decides calls of gRPC, and passes on their answers and errors', async (t) => {
    const { port, agent } = await decided(t, await grpcApplication(t), {
      protocol: 'grpc',
      rules: [{ Action: 'deny', HTTP: { PathPrefix: '/api.Admin/' } }, ...NO_ADMIN],
    })
    const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
    t.after(() => {
      client.close()
    })
    assert.equal(await callMethod(client, '/api.Greeter/Hello', 'you'), 'hello you')
    const failed = await refusal(client, '/api.Greeter/Hello', 'fail')
    assert.deepEqual([failed.code, failed.details], [9, 'not today'])
    const denied = await refusal(client, '/api.Admin/Stop', 'now')
    assert.deepEqual([denied.code, denied.details], [7, 'request denied by the service mesh'])
    const missing = await refusal(client, '/api.Other/Hello', 'you')
    assert.equal(missing.code, 12)
    const feed = client.makeServerStreamRequest(FEED.path, asIs, asIs, Buffer.from('x'))
    assert.equal(String(((await once(feed, 'data')) as [Buffer])[0]), 'first')
    const ended = once(feed, 'error') as Promise<[ServiceError]>
    agent.setIntention('web', 'api', [{ Action: 'deny', HTTP: { PathExact: FEED.path } }, ...NO_ADMIN])
    assert.equal((await ended)[0].code, 7)
    assert.equal(await callMethod(client, '/api.Greeter/Hello', 'again'), 'hello again')
  })

  it('passes on headers, bodies, trailers, and resets', async (t) => {
    const resets: number[] = []
    const server = http2.createServer()
    server.on('stream', (stream, headers) => {
      stream.on('error', () => undefined).on('close', () => resets.push(stream.rstCode))
      let trailers: http2.IncomingHttpHeaders = {}
      stream.on('trailers', (received) => (trailers = received))
      if (headers[':path'] === '/refuse') stream.close(http2.constants.NGHTTP2_REFUSED_STREAM)
      else if (headers[':path'] === '/wait') stream.respond({ ':status': 200 })
      else {
        stream.additionalHeaders({ ':status': 103, link: '</a.css>' })
        stream.respond(
          { ':status': 201, 'set-cookie': ['a', 'b'], 'x-got': JSON.stringify(headers) },
          { waitForTrailers: true },
        )
        stream.on('wantTrailers', () => {
          stream.sendTrailers({ 'x-sum': trailers['x-sum'] })
        })
        stream.pipe(stream)
      }
    })
    const { port } = await decided(t, await listening(t, server), { protocol: 'http2' })
    const session = http2.connect(`http://127.0.0.1:${port}`).on('error', () => undefined)
    t.after(() => {
      session.destroy()
    })
    const stream = session.request(
      {
        ':method': 'POST',
        ':path': '/x/../y',
        ':authority': 'api',
        'x-forwarded-client-cert': 'Hash=1',
        'x-a': '1',
      },
      { waitForTrailers: true },
    )
    stream.on('wantTrailers', () => {
      stream.sendTrailers({ 'x-sum': '5' })
    })
    const early = once(stream, 'headers')
    const answer = once(stream, 'response')
    const trailers = once(stream, 'trailers')
    stream.end('hello')
    assert.equal(((await early) as [http2.IncomingHttpHeaders])[0][':status'], 103)
    const [headers] = (await answer) as [http2.IncomingHttpHeaders]
    assert.equal(await readAll(stream), 'hello')
    assert.deepEqual([headers[':status'], headers['set-cookie']], [201, ['a', 'b']])
    const got = JSON.parse(String(headers['x-got'])) as object
    assert.deepEqual(got, {
      ':method': 'POST',
      ':path': '/y',
      ':authority': 'api',
      ':scheme': 'http',
      'x-a': '1',
    })
    assert.equal(((await trailers) as [http2.IncomingHttpHeaders])[0]['x-sum'], '5')

    const refused = session.request({ ':path': '/refuse' })
    assert.match((await rejection(readAll(refused))).message, /NGHTTP2_REFUSED_STREAM/)
    const head = session.request({ ':path': '/x', ':method': 'HEAD' })
    await once(head, 'response')
    const waiting = session.request({ ':path': '/wait' })
    await once(waiting, 'response')
    const count = resets.length
    waiting.close(http2.constants.NGHTTP2_CANCEL)
    await until('the application has seen the reset', () => resets.length > count)
    assert.equal(resets.at(-1), http2.constants.NGHTTP2_CANCEL)
    const denied = session.request({ ':path': '/admin' })
    assert.equal(((await once(denied, 'response')) as [http2.IncomingHttpHeaders])[0][':status'], 403)
  })

  it('answers 503, and UNAVAILABLE to gRPC, while the application is down, and ends with its connection', async (t) => {
    const applicationPort = await freePort()
    const { port } = await decided(t, applicationPort, { protocol: 'grpc' })
    const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
    t.after(() => {
      client.close()
    })
    assert.equal((await refusal(client, '/api.Greeter/Hello', 'you')).code, 14)
    const session = http2.connect(`http://127.0.0.1:${port}`).on('error', () => undefined)
    t.after(() => {
      session.destroy()
    })
    const ask = async (): Promise<unknown> => {
      const stream = session.request({ ':path': '/' })
      const [headers] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders]
      stream.resume()
      return headers[':status']
    }
    assert.equal(await ask(), 503)
    const sessions: http2.ServerHttp2Session[] = []
    const server = http2.createServer((_, response) => response.end())
    server.on('session', (opened) => sessions.push(opened)).listen(applicationPort, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    assert.equal(await ask(), 200)
    assert.equal(await ask(), 200)
    assert.equal(sessions.length, 1)
    const closed = once(session, 'close')
    sessions[0]!.close()
    await closed
  })
})

/** The frames of HTTP/2 (RFC 9113, section 4.1). */
function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head.writeUInt8(type, 3)
  head.writeUInt8(flags, 4)
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** A frame of headers, as literals that are not indexed (RFC 7541, section 6.2.2). */
function headersFrame(lines: readonly (readonly [string, string])[], flags = 0x4, stream = 1): Buffer {
  const text = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), Buffer.from(value)])
  const fields = lines.map(([name, value]) => Buffer.concat([Buffer.from([0]), text(name), text(value)]))
  return frame(1, flags, stream, Buffer.concat(fields))
}

describe('an HTTP/2 application that answers strangely', () => {
  const data = frame(0, 0, 1, Buffer.from('part'))
  const reset = (code: number): Buffer => frame(3, 0, 1, Buffer.from([0, 0, 0, code]))
  const CASES: Readonly<Record<string, readonly [answer: readonly Buffer[], outcome: string]>> = {
    'status 600': [[headersFrame([[':status', '600']])], 'NGHTTP2_INTERNAL_ERROR'],
    'status 103 before status 099': [
      [headersFrame([[':status', '103']]), headersFrame([[':status', '099']])],
      'NGHTTP2_',
    ],
    'a header of a connection': [
      [
        headersFrame(
          [
            [':status', '200'],
            ['http2-settings', 'x'],
          ],
          0x5,
        ),
      ],
      '200 ',
    ],
    'te in trailers': [
      [headersFrame([[':status', '200']]), headersFrame([['te', 'x, y']], 0x5)],
      'NGHTTP2_PROTOCOL_ERROR',
    ],
    'a reset without an error before headers': [[reset(0)], '503 '],
    'a reset in a body': [[headersFrame([[':status', '200']]), data, reset(2)], 'NGHTTP2_INTERNAL_ERROR'],
    'an end of the connection': [[headersFrame([[':status', '200']]), data], 'NGHTTP2_INTERNAL_ERROR'],
  }
  for (const [what, [answer, outcome]] of Object.entries(CASES)) {
    it(`with ${what} does not end the sidecar`, async (t) => {
      const application = await startApplication(t, (socket) => {
        let isAnswered = false
        socket.write(frame(4, 0, 0))
        socket.on('data', (bytes: Buffer) => {
          // The request comes with or after the preface.
          if (isAnswered || !bytes.includes(frame(1, 0x5, 1).subarray(3))) return
          isAnswered = true
          socket.write(Buffer.concat([frame(4, 1, 0), ...answer]))
          if (what === 'an end of the connection') socket.end()
        })
      })
      const { port, inbound } = await decided(t, application.port, { protocol: 'http2' })
      const session = http2.connect(`http://127.0.0.1:${port}`).on('error', () => undefined)
      t.after(() => {
        session.destroy()
      })
      const stream = session.request({ ':path': '/' })
      let code: unknown
      stream.on('response', (headers) => (code = headers[':status']))
      const got = await readAll(stream).then(
        (text) => `${String(code)} ${text}`,
        (error: unknown) => (error as Error).message,
      )
      assert.ok(got.includes(outcome), got)
      assert.equal(inbound.hasEnded, false, inbound.text)
    })
  }

  it('and headers that Node.js reads and does not write do not, and repeated ones are not lost', async (t) => {
    const server = http2.createServer((request, response) => response.end(String(request.headers['te'])))
    const { port, inbound } = await decided(t, await listening(t, server), { protocol: 'http2' })
    const application = localConnect(t, port)
    const received: Buffer[] = []
    application.on('data', (chunk: Buffer) => received.push(chunk))
    const ask = (stream: number, lines: readonly (readonly [string, string])[]): Buffer => {
      const target = [
        [':method', 'GET'],
        [':path', '/x'],
        [':scheme', 'http'],
        [':authority', 'api'],
      ] as const
      return headersFrame([...target, ...lines], 0x5, stream)
    }
    application.write(
      Buffer.concat([
        Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
        frame(4, 0, 0),
        ask(1, [['te', 'Trailers']]),
        ask(3, [
          ['te', 'trailers'],
          ['te', 'trailers'],
        ]),
        ask(5, [['http2-settings', 'x']]),
        ask(7, [
          ['content-type', 'a'],
          ['content-type', 'b'],
        ]),
      ]),
    )
    // The answer of the last stream has only headers, which end it.
    await until('all are answered', () => {
      const bytes = Buffer.concat(received)
      return [1, 3, 5, 7].every((stream) => bytes.includes(frame(1, 0, stream).subarray(5)))
    })
    assert.equal(inbound.hasEnded, false, inbound.text)
  })
})

describe('sources with and without permissions', () => {
  it('have their requests decided, or their bytes forwarded', async (t) => {
    const application = await startApplication(t, (socket) => {
      socket.on('data', (chunk: Buffer) => socket.write(`bytes ${chunk.toString()}`))
    })
    const { agent, port, inbound } = await decided(t, application.port, { rules: 'allow' })
    const socket = localConnect(t, port)
    socket.write('hello')
    assert.equal(await nextData(socket), 'bytes hello')
    const cut = rejection(readAll(socket))
    agent.setIntention('web', 'api', NOTHING)
    assert.match((await cut).message, /ECONNRESET/)
    const revoked = await inbound.logged(({ msg, reason }) => msg === 'connection' && reason === 'revoked')
    assert.match(String(revoked['error']), /has permissions, which decide each request/)
    assert.equal((await send(port)).status, 403)
    assert.equal(application.sockets.size, 0)
  })

  it('an HTTP connection stays open when its source loses its permissions, and its requests are allowed', async (t) => {
    const { agent, port, inbound } = await decided(t, await listening(t, http.createServer(report)))
    const keptAlive = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => {
      keptAlive.destroy()
    })
    const get = async (): Promise<number | undefined> =>
      (await send(port, { path: '/admin', agent: keptAlive })).status
    assert.equal(await get(), 403)
    agent.setIntention('web', 'api', 'allow')
    await until('the request is allowed', async () => (await get()) === 200)
    assert.equal(await inbound.metric('connections_opened_total', { direction: 'inbound' }), 1)
  })

  it('are denied under a protocol without requests', async (t) => {
    const application = await startApplication(t, () => undefined)
    const { port, inbound } = await decided(t, application.port, { protocol: 'tcp' })
    assert.match((await rejection(readAll(localConnect(t, port)))).message, /ECONNRESET/)
    await inbound.logged('the protocol of api is tcp')
    assert.equal(application.sockets.size, 0)
  })

  it('end when they are idle for the idle timeout', async (t) => {
    const { port } = await decided(t, await listening(t, http.createServer(report)), {
      flags: ['-config-file', configFile(t, { idle_timeout_ms: 300 })],
    })
    const socket = localConnect(t, port)
    socket.write('GET /admin HTTP/1.1\r\nhost: api\r\n\r\n')
    assert.match(await readAll(socket), /^HTTP\/1.1 403 Forbidden\r\n/)
  })
})

function connectionsOf(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => {
      if (error === null) resolve(count)
      else reject(error)
    })
  })
}
