import assert from 'node:assert/strict'
import { once } from 'node:events'
import {
  Agent,
  type ClientRequest,
  type IncomingMessage,
  type RequestListener,
  type RequestOptions,
  type Server,
  createServer,
  request as httpRequest,
} from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { type Duplex, Readable, pipeline } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { buffer, text } from 'node:stream/consumers'
import { Pool } from 'undici'
import { RequestBridge } from '../../src/http/request-bridge.js'
import { waitBound } from '../fixtures/bounds.js'
import { settle } from '../fixtures/fake-clock.js'
import { plainServer } from '../fixtures/plain-server.js'

/** An HTTP server on loopback, a bridge to it, and an agent that uses the bridge. */
async function start(t: TestContext, listener: RequestListener = () => undefined) {
  const server = createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { server, ...bridgeTo(t, (server.address() as AddressInfo).port) }
}

function bridgeTo(t: TestContext, port: number) {
  const origin = `http://127.0.0.1:${port}`
  const pool = new Pool(origin)
  const bridge = new RequestBridge(pool)
  const streams: Duplex[] = []
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  agent.createConnection = () => {
    const stream = bridge.open(origin)
    streams.push(stream)
    return stream
  }
  t.after(async () => {
    agent.destroy()
    for (const stream of streams) stream.destroy()
    await pool.destroy()
  })
  return {
    streams,
    origin,
    bridge,
    request: (options: RequestOptions = {}): ClientRequest =>
      httpRequest({ agent, host: 'web.service.consul', ...options }),
  }
}

async function nextRequest(server: Server): Promise<Parameters<RequestListener>> {
  return (await once(server, 'request')) as Parameters<RequestListener>
}

async function responseTo(request: ClientRequest): Promise<IncomingMessage> {
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return response
}

/** Sends a request with a body. @returns the response, with its body as text */
async function exchange(request: ClientRequest, body?: string) {
  request.end(body)
  const response = await responseTo(request)
  return { response, status: response.statusCode, body: await text(response) }
}

/** Answers with what the server received. */
const echo: RequestListener = (request, response) => {
  void text(request).then((body) => {
    const { method, url, rawHeaders } = request
    response.end(JSON.stringify({ method, url, rawHeaders, body }))
  })
}

interface Echoed {
  readonly method: string
  readonly url: string
  readonly rawHeaders: readonly string[]
  readonly body: string
}

/** The values of the lines of a header. */
function linesOf(rawHeaders: readonly string[], name: string): string[] {
  return rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === name)
}

async function echoed(request: ClientRequest, body?: string): Promise<Echoed> {
  return JSON.parse((await exchange(request, body)).body) as Echoed
}

/** Resolves with the error of a request or of its response. */
async function failureOf(request: ClientRequest): Promise<Error> {
  return new Promise((resolve) => {
    request.on('error', resolve)
    request.on('response', (response) => {
      response.on('error', resolve)
      response.resume()
    })
  })
}

const TIMEOUT = { timeout: waitBound(30_000) }

describe('RequestBridge: a request', TIMEOUT, () => {
  it('reaches the server with its method, path, query, and host', async (t) => {
    const { request } = await start(t, echo)
    const { method, url, rawHeaders, body } = await echoed(request({ path: '/a%20b//c?x=1&x=2' }))
    assert.deepEqual([method, url, body], ['GET', '/a%20b//c?x=1&x=2', ''])
    assert.deepEqual(linesOf(rawHeaders, 'host'), ['web.service.consul'])
    assert.deepEqual(linesOf(rawHeaders, 'content-length'), [])
    assert.deepEqual(linesOf(rawHeaders, 'transfer-encoding'), [])
  })

  it('carries a body with its length', async (t) => {
    const { request } = await start(t, echo)
    const options = { method: 'POST', headers: { 'content-length': '5' } }
    const { method, rawHeaders, body } = await echoed(request(options), 'hello')
    assert.deepEqual([method, body, linesOf(rawHeaders, 'content-length')], ['POST', 'hello', ['5']])
  })

  it('carries a chunked body as it comes', async (t) => {
    const { server, request } = await start(t)
    const sent = request({ method: 'PUT' })
    const received = once(server, 'request') as Promise<[IncomingMessage, { end: () => void }]>
    sent.write('one')
    const [message, response] = await received
    assert.equal(message.headers['transfer-encoding'], 'chunked')
    const [first] = (await once(message, 'data')) as [Buffer]
    assert.equal(String(first), 'one')
    const [second, end] = [once(message, 'data'), once(message, 'end')]
    sent.end('two')
    assert.equal(String((await second)[0]), 'two')
    await end
    response.end()
    assert.equal((await responseTo(sent)).resume().statusCode, 200)
  })

  it('carries an empty body', async (t) => {
    const { request } = await start(t, echo)
    for (const headers of [{ 'content-length': '0' }, { 'transfer-encoding': 'chunked' }]) {
      const { method, body } = await echoed(request({ method: 'POST', headers }))
      assert.deepEqual([method, body], ['POST', ''])
    }
  })

  it('with Expect: 100-continue gets 100 Continue, and the server gets no expectation', async (t) => {
    const { request } = await start(t, echo)
    const sent = request({ method: 'POST', headers: { expect: '100-continue' } })
    sent.flushHeaders()
    await once(sent, 'continue')
    const { rawHeaders, body } = await echoed(sent, 'late')
    assert.deepEqual([body, linesOf(rawHeaders, 'expect')], ['late', []])
  })

  it('keeps the names and the lines of its headers', async (t) => {
    const { request } = await start(t, echo)
    const headers = ['Host', 'h', 'X-One', 'a', 'x-two', 'b', 'X-One', 'c', 'Cookie', 'd=1']
    const { rawHeaders } = await echoed(request({ headers }))
    const own = rawHeaders.filter((_, i) => /^(?:x-|cookie)/i.test(rawHeaders[i - (i % 2)] ?? ''))
    assert.deepEqual(own, ['X-One', 'a', 'x-two', 'b', 'X-One', 'c', 'Cookie', 'd=1'])
    assert.deepEqual(linesOf(rawHeaders, 'host'), ['h'])
  })

  it('keeps bytes over 0x7F of its headers', async (t) => {
    const { request } = await start(t, echo)
    const { rawHeaders } = await echoed(request({ headers: { 'x-a': 'caf\u00e9' } }))
    assert.deepEqual(linesOf(rawHeaders, 'x-a'), ['caf\u00e9'])
  })

  it('loses the headers of its connection', async (t) => {
    const { request } = await start(t, echo)
    const headers = {
      connection: 'keep-alive, X-Private',
      'keep-alive': 'timeout=5',
      'proxy-connection': 'keep-alive',
      'x-private': '1',
      'x-public': '2',
    }
    const { rawHeaders } = await echoed(request({ headers }))
    for (const name of ['keep-alive', 'proxy-connection', 'x-private']) {
      assert.deepEqual(linesOf(rawHeaders, name), [], name)
    }
    assert.deepEqual(linesOf(rawHeaders, 'connection'), ['keep-alive'])
    assert.deepEqual(linesOf(rawHeaders, 'x-public'), ['2'])
  })

  it('keeps back the announcement of trailers, which do not pass', async (t) => {
    const { request } = await start(t, echo)
    const sent = request({ method: 'POST', headers: { trailer: 'x-t', 'transfer-encoding': 'chunked' } })
    sent.write('a')
    sent.addTrailers({ 'x-t': '1' })
    const { rawHeaders, body } = await echoed(sent)
    assert.deepEqual([linesOf(rawHeaders, 'trailer'), body], [[], 'a'])
  })

  it('that is not HTTP fails its stream', async (t) => {
    const { bridge, origin } = await start(t)
    const stream = bridge.open(origin)
    stream.write('nonsense\r\n\r\n')
    const [error] = (await once(stream, 'error')) as [NodeJS.ErrnoException]
    assert.match(error.code ?? '', /^HPE_/)
  })

  it('with the method CONNECT is refused', async (t) => {
    const { request } = await start(t, () => assert.fail('reached the server'))
    const sent = request({ method: 'CONNECT', path: 'other:443' })
    const failure = failureOf(sent)
    sent.end()
    assert.equal(((await failure) as NodeJS.ErrnoException).code, 'ERR_CONNECT_CHAIN')
  })

  it('fails if no server can be reached', async (t) => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    await once(server.close(), 'close')
    const sent = bridgeTo(t, port).request()
    const failure = failureOf(sent)
    sent.end()
    assert.equal(((await failure) as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  })
})

describe('RequestBridge: a response', TIMEOUT, () => {
  it('keeps its status, its reason, and the names and lines of its headers', async (t) => {
    const { request } = await start(t, (_request, response) => {
      response.sendDate = false
      response.writeHead(418, 'Short And Stout', [
        ...['Set-Cookie', 'a=1', 'X-Mixed', 'x', 'set-cookie', 'b=2', 'Content-Length', '0'],
      ])
      response.end()
    })
    const { response } = await exchange(request())
    assert.deepEqual([response.statusCode, response.statusMessage], [418, 'Short And Stout'])
    const { rawHeaders } = response
    assert.deepEqual(rawHeaders.slice(0, 8), [
      ...['Set-Cookie', 'a=1', 'X-Mixed', 'x', 'set-cookie', 'b=2', 'Content-Length', '0'],
    ])
    assert.deepEqual(linesOf(rawHeaders, 'date'), [])
  })

  it('keeps a reason that is not ASCII', async (t) => {
    const port = await plainServer(t, (socket) => {
      socket.end('HTTP/1.1 200 5 \u20ac\r\ncontent-length: 0\r\n\r\n')
    })
    const { response } = await exchange(bridgeTo(t, port).request())
    assert.equal(Buffer.from(response.statusMessage ?? '', 'latin1').toString(), '5 \u20ac')
  })

  it('loses the headers of its connection', async (t) => {
    const port = await plainServer(t, (socket) => {
      const lines = ['Connection: close, X-Private', 'Keep-Alive: timeout=9', 'X-Private: 1', 'X-Public: 2']
      socket.end(`HTTP/1.1 200 OK\r\n${lines.join('\r\n')}\r\n\r\nto the end`)
    })
    const { response, body } = await exchange(bridgeTo(t, port).request())
    const { rawHeaders } = response
    assert.deepEqual(linesOf(rawHeaders, 'x-private'), [])
    assert.deepEqual(linesOf(rawHeaders, 'keep-alive'), [])
    assert.deepEqual(linesOf(rawHeaders, 'connection'), ['keep-alive'])
    assert.deepEqual([linesOf(rawHeaders, 'x-public'), body], [['2'], 'to the end'])
  })

  for (const [method, status] of [
    ['HEAD', 200],
    ['GET', 204],
    ['GET', 304],
  ] as const) {
    it(`to ${method} with the status ${status} has no body, and the stream stays in use`, async (t) => {
      const { request, streams } = await start(t, (_request, response) => {
        const length = status === 200 ? { 'content-length': '42' } : {}
        response.writeHead(status, { etag: 'e', ...length }).end()
      })
      for (let i = 0; i < 2; i += 1) {
        const { response, body } = await exchange(request({ method }))
        assert.deepEqual([response.statusCode, response.headers.etag, body], [status, 'e', ''])
        assert.equal(response.headers['content-length'], status === 200 ? '42' : undefined)
      }
      assert.equal(streams.length, 1)
    })
  }

  it('keeps bytes over 0x7F of its headers', async (t) => {
    const { request } = await start(t, (_request, response) => {
      response.writeHead(200, { 'x-a': 'caf\u00e9' }).end(Buffer.from('body'))
    })
    assert.equal((await exchange(request())).response.headers['x-a'], 'caf\u00e9')
  })

  it('has its trailers', async (t) => {
    const { request } = await start(t, (_request, response) => {
      response.writeHead(200, { trailer: 'X-Sum, X-Sum' })
      response.write('data')
      response.addTrailers([
        ['X-Sum', '1'],
        ['X-Sum', '2'],
      ])
      response.end()
    })
    const { response, body } = await exchange(request())
    assert.deepEqual([body, response.rawTrailers], ['data', ['X-Sum', '1', 'X-Sum', '2']])
  })

  it('arrives as it comes', async (t) => {
    const { server, request } = await start(t)
    const sent = request().end()
    const [, answer] = await nextRequest(server)
    answer.flushHeaders()
    const response = await responseTo(sent)
    const first = once(response, 'data')
    answer.write('one')
    assert.equal(String((await first)[0]), 'one')
    const [second, end] = [once(response, 'data'), once(response, 'end')]
    answer.end('two')
    assert.equal(String((await second)[0]), 'two')
    await end
  })

  it('holds back the server while the client does not read', async (t) => {
    const size = 64 * 1024 * 1024
    const { server, request } = await start(t)
    const sent = request().end()
    const [{ socket }, answer] = await nextRequest(server)
    const chunk = Buffer.alloc(65_536, 'x')
    pipeline(Readable.from(Array.from({ length: size / chunk.length }, () => chunk)), answer, () => undefined)
    const response = await responseTo(sent)
    await untilStill(() => socket.bytesWritten)
    assert.ok(socket.bytesWritten < size / 2, `the server has sent ${socket.bytesWritten} bytes`)
    assert.equal((await buffer(response)).length, size)
  })

  it('reaches the client although the server does not read the request', async (t) => {
    const { request, streams } = await start(t, (_request, response) => {
      response.writeHead(413).end('too large')
    })
    const sent = request({ method: 'POST' })
    sent.write('begin')
    const response = await responseTo(sent)
    assert.deepEqual([response.statusCode, await text(response)], [413, 'too large'])
    // The rest of the request is discarded, and the stream stays in use.
    const closed = once(sent, 'close')
    for (let i = 0; i < 32; i += 1) {
      await new Promise((resolve) => sent.write(Buffer.alloc(65_536), resolve))
    }
    sent.end()
    await closed
    assert.equal((await exchange(request())).status, 413)
    assert.equal(streams.length, 1)
  })
})

/** Resolves when a number has not grown during several turns of the event loop. */
async function untilStill(read: () => number): Promise<void> {
  for (let still = 0, last = -1; still < 1_000; still += 1) {
    const now = read()
    if (now !== last) still = 0
    last = now
    await settle()
  }
}

describe('RequestBridge: the end of a request', TIMEOUT, () => {
  it('by the client ends it at the server, before and during the response', async (t) => {
    for (const isEarly of [true, false]) {
      const { server, request } = await start(t)
      const sent = request()
      sent.on('error', () => undefined)
      sent.end()
      const [message, response] = await nextRequest(server)
      if (!isEarly) {
        response.write('part')
        const answer = await responseTo(sent)
        answer.on('error', () => undefined)
      }
      const closed = once(message.socket, 'close')
      sent.destroy()
      await closed
    }
  })

  it('by the client during the body is no complete request at the server', async (t) => {
    const { server, request } = await start(t)
    const sent = request({ method: 'POST' })
    sent.on('error', () => undefined)
    sent.write('part')
    const [message] = await nextRequest(server)
    await once(message, 'data')
    const error = once(message, 'error')
    sent.destroy()
    assert.equal(((await error)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
    assert.equal(message.complete, false)
  })

  for (const [framing, headers] of [
    ['chunks', {}],
    ['a length', { 'content-length': '100' }],
  ] as const) {
    it(`by the server during a response with ${framing} is an error`, async (t) => {
      const { server, request } = await start(t)
      const sent = request().end()
      const [message, answer] = await nextRequest(server)
      answer.writeHead(200, headers).write('part')
      const failure = failureOf(sent)
      const response = await responseTo(sent)
      message.socket.destroy()
      assert.ok((await failure) instanceof Error)
      assert.equal(response.complete, false)
    })
  }

  it('by the server before the response is an error', async (t) => {
    const { request, server } = await start(t)
    const sent = request()
    const failure = failureOf(sent)
    sent.end()
    const [message] = await nextRequest(server)
    message.socket.destroy()
    assert.ok((await failure) instanceof Error)
  })
})

describe('RequestBridge: an upgrade', TIMEOUT, () => {
  const UPGRADE = { connection: 'Upgrade, X-Private', upgrade: 'echo', 'x-private': '1' }

  /** Accepts each upgrade. */
  function accept(server: Server, onSocket: (socket: Duplex, request: IncomingMessage) => void): void {
    server.on('upgrade', (request: IncomingMessage, socket: Duplex) => {
      socket.on('error', () => undefined)
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-A: 1\r\n\r\n',
      )
      onSocket(socket, request)
    })
  }

  async function upgrade(sent: ClientRequest): Promise<[IncomingMessage, Socket, Buffer]> {
    sent.end()
    return (await once(sent, 'upgrade')) as [IncomingMessage, Socket, Buffer]
  }

  it('passes bytes both ways, and ends on both sides', async (t) => {
    const { server, request } = await start(t)
    const requests: IncomingMessage[] = []
    accept(server, (socket, message) => {
      requests.push(message)
      socket.pipe(socket)
    })
    const [response, socket] = await upgrade(request({ headers: UPGRADE }))
    assert.deepEqual(
      [response.statusCode, response.headers.upgrade, response.headers['x-a']],
      [101, 'echo', '1'],
    )
    const { headers } = requests[0]!
    assert.deepEqual(
      [headers.upgrade, headers.connection, headers['x-private']],
      ['echo', 'upgrade', undefined],
    )
    const size = 4 * 1024 * 1024
    socket.end(Buffer.alloc(size, 'x'))
    assert.equal((await buffer(socket)).length, size)
  })

  it('passes what the client sends before the answer', async (t) => {
    const { server, bridge, origin } = await start(t)
    accept(server, (socket) => socket.pipe(socket))
    const stream = bridge.open(origin)
    stream.end('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly')
    const received = await text(stream)
    assert.ok(received.startsWith('HTTP/1.1 101 Switching Protocols\r\n'), received)
    assert.ok(received.endsWith('\r\n\r\nearly'), received)
  })

  it('delivers all bytes that come before the server ends, however slowly the client reads', async (t) => {
    const { server, request } = await start(t)
    const size = 4 * 1024 * 1024
    const ended = new Promise<void>((resolve) => {
      accept(server, (socket) => {
        socket.resume().end(Buffer.alloc(size, 'x'), resolve)
      })
    })
    const [, socket] = await upgrade(request({ headers: UPGRADE }))
    let length = 0
    for await (const chunk of socket) {
      length += (chunk as Buffer).length
      await settle()
    }
    await ended
    assert.equal(length, size)
  })

  it('delivers the last bytes although the connection to the server is closed', async (t) => {
    const { server, request } = await start(t)
    const closed = new Promise<void>((resolve) => {
      accept(server, (socket) => {
        socket.resume().on('close', resolve).end('last words')
      })
    })
    const [, socket, head] = await upgrade(request({ headers: UPGRADE }))
    await closed
    await settle()
    assert.equal(String(head) + (await text(socket)), 'last words')
  })

  it('ends at the client when the server resets the connection', async (t) => {
    const { server, request } = await start(t)
    const sockets: Duplex[] = []
    accept(server, (socket) => sockets.push(socket))
    const [, socket] = await upgrade(request({ headers: UPGRADE }))
    const failure = once(socket, 'error')
    ;(sockets[0] as Socket).resetAndDestroy()
    assert.equal(((await failure)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
  })

  it('ends at the server when the client closes its stream', async (t) => {
    const { server, request } = await start(t)
    const sockets: Duplex[] = []
    accept(server, (socket) => {
      sockets.push(socket.resume())
      t.after(() => socket.destroy())
    })
    const [, socket] = await upgrade(request({ headers: UPGRADE }))
    // The server keeps its half open.
    const ended = once(sockets[0]!, 'end')
    socket.destroy()
    await ended
  })

  it('that the client gives up before the answer ends at the server', async (t) => {
    const { server, request } = await start(t)
    const arrived = once(server, 'upgrade') as Promise<[IncomingMessage, Socket]>
    const sent = request({ headers: UPGRADE })
    sent.on('error', () => undefined)
    sent.end()
    const [, socket] = await arrived
    const ended = once(socket.resume(), 'end')
    sent.destroy()
    await ended
    socket.destroy()
  })

  it('that the server refuses is a response', async (t) => {
    const { server, request } = await start(t)
    const refusal = 'no'.repeat(500_000)
    server.on('upgrade', (_request, socket) => {
      socket.end(
        `HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: ${refusal.length}\r\nConnection: close\r\n\r\n${refusal}`,
      )
    })
    const { response, status, body } = await exchange(request({ headers: UPGRADE }))
    assert.deepEqual([status, response.headers['x-a'], body === refusal], [403, '1', true])
    assert.equal(response.headers.connection, 'close')
  })

  it('that the server ignores is a response, and its stream ends', async (t) => {
    const { request, streams } = await start(t, echo)
    const { status, body } = await exchange(request({ headers: UPGRADE }))
    assert.deepEqual([status, (JSON.parse(body) as Echoed).method], [200, 'GET'])
    if (!streams[0]!.closed) await once(streams[0]!, 'close')
    // The next request has a stream of its own.
    assert.equal((await exchange(request())).status, 200)
    assert.equal(streams.length, 2)
  })

  it('that fails at the server is an error', async (t) => {
    const { server, request } = await start(t)
    server.on('upgrade', (_request, socket) => socket.destroy())
    const sent = request({ headers: UPGRADE })
    const failure = failureOf(sent)
    sent.end()
    assert.ok((await failure) instanceof Error)
  })
})

describe('RequestBridge: a stream', TIMEOUT, () => {
  it('carries one request after the other', async (t) => {
    const { request, streams } = await start(t, echo)
    for (let i = 0; i < 5; i += 1) {
      const { url, body } = await echoed(request({ method: 'POST', path: `/${i}` }), `body ${i}`)
      assert.deepEqual([url, body], [`/${i}`, `body ${i}`])
    }
    assert.equal(streams.length, 1)
  })

  it('closes after a response if the client asks for it', async (t) => {
    const { request, streams } = await start(t, echo)
    await exchange(request({ headers: { connection: 'close' } }))
    if (!streams[0]!.closed) await once(streams[0]!, 'close')
  })

  it('emits timeout after the time without a byte, and not before', async (t) => {
    const { bridge, origin } = await start(t, () => undefined)
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const stream = bridge.open(origin)
    let timeouts = 0
    stream.on('timeout', () => (timeouts += 1))
    assert.equal(stream.setTimeout(1_000), stream)
    t.mock.timers.tick(999)
    stream.write('GET / HTTP/1.1\r\n')
    t.mock.timers.tick(999)
    assert.equal(timeouts, 0)
    t.mock.timers.tick(1)
    assert.equal(timeouts, 1)
    // As at a net.Socket, the next byte starts the time again.
    t.mock.timers.tick(5_000)
    assert.equal(timeouts, 1)
    stream.write('Host: a\r\n')
    t.mock.timers.tick(1_000)
    assert.equal(timeouts, 2)
    stream.setTimeout(0)
    stream.write('X-A: 1\r\n')
    t.mock.timers.tick(5_000)
    assert.equal(timeouts, 2)
    stream.destroy()
  })

  it('counts received bytes as activity', async (t) => {
    const { bridge, origin } = await start(t, (_request, response) => response.end('hello'))
    const stream = bridge.open(origin)
    t.mock.timers.enable({ apis: ['setTimeout'] })
    let timeouts = 0
    stream.on('timeout', () => (timeouts += 1))
    stream.setTimeout(1_000)
    stream.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    t.mock.timers.tick(999)
    await once(stream, 'data')
    t.mock.timers.tick(999)
    assert.equal(timeouts, 0)
    t.mock.timers.tick(1)
    assert.equal(timeouts, 1)
    stream.destroy()
  })

  it('has no timer left when it is closed', async (t) => {
    const { bridge, origin } = await start(t)
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const stream = bridge.open(origin)
    let timeouts = 0
    stream.on('timeout', () => (timeouts += 1))
    stream.setTimeout(1_000)
    stream.destroy()
    await once(stream, 'close')
    t.mock.timers.tick(10_000)
    assert.equal(timeouts, 0)
  })
})
