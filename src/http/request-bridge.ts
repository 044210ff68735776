import { type IncomingMessage, type Server, ServerResponse, createServer } from 'node:http'
import type { Socket } from 'node:net'
import { type Duplex, type Readable, duplexPair } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { StreamSocket } from '../adapters/stream.js'
import { systemClock } from '../base/clock.js'
import { ConnectError, toError } from '../base/errors.js'
import { resetError } from '../sockets/network-errors.js'
import { type RawHeaders, linesOf, pairsOf } from './header-lines.js'
import { type ClassicHandler, toUndici } from './routes/classic-handler.js'

/** Headers of one connection (RFC 9110, section 7.6.1), which each side of the bridge sets by itself. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'expect', 'trailer'],
])

/** The server of the service limits the headers of its requests. */
const MAX_HEADER_SIZE = 1_048_576

const NOTHING: Buffer = Buffer.alloc(0)

/**
 * Lets clients that write HTTP/1.1 to a stream, as `node:http` does, use a dispatcher: a server without a port reads
 * their requests. So they follow the same routes as all other clients.
 */
export class RequestBridge {
  readonly #dispatcher: Dispatcher
  readonly #server: Server
  readonly #origins = new WeakMap<Duplex, string>()
  readonly #clients = new WeakMap<Duplex, Duplex>()

  constructor(dispatcher: Dispatcher) {
    this.#dispatcher = dispatcher
    // The client has timeouts of its own.
    const bounds = {
      requestTimeout: 0,
      headersTimeout: 0,
      keepAliveTimeout: 0,
      maxHeaderSize: MAX_HEADER_SIZE,
    }
    this.#server = createServer({ ...bounds, requireHostHeader: false })
    this.#server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.#forward(request, response)
    })
    this.#server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      this.#upgrade(request, socket, head)
    })
    this.#server.on('connect', (_request: IncomingMessage, socket: Duplex) => {
      const error = new ConnectError('ERR_CONNECT_CHAIN', 'CONNECT cannot follow the routes of a service')
      this.#fail(socket, error)
    })
    this.#server.on('clientError', (error: Error, socket: Duplex) => {
      this.#fail(socket, error)
    })
  }

  /** Returns a stream for requests to an origin, one after the other. */
  open(origin: string): StreamSocket {
    const [client, server] = duplexPair()
    this.#origins.set(server, origin)
    this.#clients.set(server, client)
    client.on('close', () => server.destroy())
    server.on('close', () => client.destroy())
    // Errors are those of the client.
    server.on('error', () => undefined)
    this.#server.emit('connection', server)
    return asSocket(client)
  }

  #fail(server: Duplex, error: Error): void {
    this.#clients.get(server)?.destroy(error)
    server.destroy()
  }

  #forward(request: IncomingMessage, response: ServerResponse): void {
    const hasBody =
      request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined
    // A response may end before its request. The stream must stay open, and the rest must not block it.
    const body = hasBody ? request.iterator({ destroyOnReturn: false }) : null
    response.on('finish', () => {
      if (!request.complete) request.removeAllListeners('readable').resume()
    })
    this.#dispatch(request, body, this.#answer(request, response))
  }

  /** Returns a handler that writes the response. */
  #answer({ socket }: IncomingMessage, response: ServerResponse): ClassicHandler {
    response.sendDate = false
    let abort: ((reason?: Error) => void) | undefined
    let isGone = false
    response.on('close', () => {
      isGone = !response.writableFinished
      if (isGone) abort?.()
    })
    let resume: () => void = () => undefined
    return {
      onConnect: (given) => {
        abort = given
        if (isGone) abort()
      },
      onHeaders: (status, headers, given, statusText) => {
        if (status < 200) return true
        resume = given
        // undici decodes UTF-8, and Node.js writes Latin-1.
        response.writeHead(status, Buffer.from(statusText).toString('latin1'), endToEndLines(headers))
        // Sends the head. `flushHeaders` would write it in UTF-8.
        response.write(NOTHING)
        // Such a response has no body, whatever its `content-length`; undici expects one.
        if (status === 204 || status === 304) response.end()
        return true
      },
      onData: (chunk) => {
        if (response.writableEnded || response.write(chunk)) return true
        response.once('drain', () => {
          resume()
        })
        return false
      },
      onComplete: (trailers) => {
        if (response.writableEnded) return
        if (trailers !== null && trailers.length > 0) response.addTrailers(pairsOf(endToEndLines(trailers)))
        response.end()
      },
      onError: (error) => {
        if (!isGone && !response.writableEnded)
          this.#fail(
            socket,
            isCut(error) ? Object.assign(resetError(error.message), { cause: error }) : error,
          )
      },
    }
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    // For a server that refuses. Node.js no longer handles the stream.
    const response = new ServerResponse(request)
    response.shouldKeepAlive = false
    response.assignSocket(socket as unknown as Socket)
    const onDrain = (): boolean => response.emit('drain')
    socket.on('drain', onDrain)
    response.on('finish', () => {
      response.detachSocket(socket as unknown as Socket)
      // The end of the client must be read.
      socket.resume().end()
    })
    const onUpgrade = (status: number, headers: RawHeaders, upstream: Duplex): void => {
      socket.off('drain', onDrain)
      response.detachSocket(socket as unknown as Socket)
      const lines = endToEndLines(headers, ['connection', 'upgrade'])
      socket.write(`HTTP/1.1 ${status} Switching Protocols\r\n${textOf(lines)}\r\n`, 'latin1')
      if (head.length > 0) upstream.write(head)
      upstream.on('error', (error: Error) => {
        this.#fail(socket, error)
      })
      upstream.on('close', () => {
        // What came before an end may still be on its way to the client.
        if (upstream.readableEnded) socket.resume()
        else socket.destroy()
      })
      socket.on('close', () => upstream.destroy())
      socket.pipe(upstream).pipe(socket)
    }
    const options = { upgrade: request.headers.upgrade ?? '' }
    this.#dispatch(request, null, { ...this.#answer(request, response), onUpgrade }, options)
  }

  #dispatch(
    request: IncomingMessage,
    body: ReturnType<Readable['iterator']> | null,
    handler: ClassicHandler,
    more: { readonly upgrade?: string } = {},
  ): void {
    const { method = 'GET', url = '/', socket } = request
    const options = {
      origin: this.#origins.get(socket) ?? '',
      method,
      path: url,
      headers: withoutConnection(request.rawHeaders),
      body: body as unknown as Readable | null,
      ...more,
    }
    try {
      this.#dispatcher.dispatch(options, toUndici(handler))
    } catch (error) {
      this.#fail(socket, toError(error))
    }
  }
}

/** Whether the connection ended before the response. Clients of `node:http` know such an error as ECONNRESET. */
function isCut(error: Error): boolean {
  return (error as NodeJS.ErrnoException).code === 'UND_ERR_SOCKET'
}

/** Gives a stream the methods of a socket. */
function asSocket(stream: Duplex): StreamSocket {
  let timeoutMs = 0
  let cancelTimer = (): void => undefined
  const arm = (): void => {
    cancelTimer()
    if (timeoutMs > 0) cancelTimer = systemClock.after(timeoutMs, () => stream.emit('timeout'))
  }
  const write = stream.write.bind(stream) as (...args: unknown[]) => boolean
  const itself = (): StreamSocket => socket
  const socket = Object.assign(stream, {
    write: (...args: unknown[]) => {
      arm()
      return write(...args)
    },
    setTimeout: (ms: number) => {
      timeoutMs = ms
      arm()
      return socket
    },
    setNoDelay: itself,
    setKeepAlive: itself,
    ref: itself,
    unref: itself,
  }) as unknown as StreamSocket
  stream.on('data', arm).on('close', () => {
    cancelTimer()
  })
  return socket
}

/** Converts header lines from bytes, and removes those of the connection. */
function endToEndLines(headers: RawHeaders, kept: readonly string[] = []): string[] {
  return withoutConnection(linesOf(headers), kept)
}

/** Removes the headers of one connection, among them those that its `connection` header names. */
function withoutConnection(lines: readonly string[], kept: readonly string[] = []): string[] {
  const all = pairsOf(lines).map(([name, value]) => ({ name, key: name.toLowerCase(), value }))
  const named = all.filter(({ key }) => key === 'connection').flatMap(({ value }) => value.split(','))
  const removed = new Set([...CONNECTION_HEADERS, ...named.map((name) => name.trim().toLowerCase())])
  for (const key of kept) removed.delete(key)
  return all.flatMap(({ name, key, value }) => (removed.has(key) ? [] : [name, value]))
}

function textOf(lines: readonly string[]): string {
  return pairsOf(lines)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')
}
