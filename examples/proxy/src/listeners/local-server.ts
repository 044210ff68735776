import { once } from 'node:events'
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http'
import { type AddressInfo, type ListenOptions, type Socket, isIP } from 'node:net'

/** A response. An object body is sent as JSON. */
export interface Reply {
  /** @default 200 */
  readonly status?: number
  /** @default `text/plain`, or `application/json` for an object */
  readonly type?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string | object
}

export interface LocalServerOptions {
  /** Maximum number of open connections. @default 64 */
  readonly maxConnections?: number
  /** Timeout for the request headers, in milliseconds. @default 5000 */
  readonly headersTimeoutMs?: number
}

const MAX_CONNECTIONS = 64
const HEADERS_TIMEOUT_MS = 5_000
/** Timeout for a whole request, including its body. */
const REQUEST_TIMEOUT_MS = 10_000
/** Node.js checks the timeouts above every 30 s by default. */
const CHECK_INTERVAL_MS = 500
const MAX_HOST_LENGTH = 255

/** A small HTTP server for operators and monitoring tools. Rejects DNS rebinding and limits connections. */
export class LocalServer {
  readonly #server: Server
  readonly #maxConnections: number
  /** Open connections, oldest first, with their number of pending requests. */
  readonly #pending = new Map<Socket, number>()

  /**
   * @param handle - handles a request
   * @param onError - makes the response when `handle` rejects
   */
  constructor(
    handle: (request: IncomingMessage) => Promise<Reply>,
    onError: (error: Error) => Reply,
    { maxConnections = MAX_CONNECTIONS, headersTimeoutMs = HEADERS_TIMEOUT_MS }: LocalServerOptions = {},
  ) {
    this.#maxConnections = maxConnections
    const options = {
      headersTimeout: headersTimeoutMs,
      requestTimeout: Math.max(headersTimeoutMs, REQUEST_TIMEOUT_MS),
      connectionsCheckingInterval: Math.min(headersTimeoutMs, CHECK_INTERVAL_MS),
    }
    this.#server = createServer(options, (request, response) => {
      this.#count(request.socket, response)
      const { host } = request.headers
      // Health checkers with HTTP/1.0 send no Host header; browsers always send one.
      const isRefused = host !== undefined && isLoopback(request.socket) && !isLocalHost(host)
      const reply = isRefused ? Promise.resolve(FOREIGN_HOST) : handle(request).catch(onError)
      void reply.then((result) => {
        send(response, result)
      })
    })
    this.#server.on('connection', (socket: Socket) => {
      this.#makeRoom()
      this.#pending.set(socket, 0)
      socket.once('close', () => this.#pending.delete(socket))
    })
  }

  /** @throws the system error, such as EADDRINUSE */
  async open(address: ListenOptions): Promise<AddressInfo> {
    this.#server.listen(address)
    await once(this.#server, 'listening')
    // An error on accept, such as EMFILE, must not end the process.
    this.#server.on('error', () => undefined)
    return this.#server.address() as AddressInfo
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  #count(socket: Socket, response: ServerResponse): void {
    this.#pending.set(socket, (this.#pending.get(socket) ?? 0) + 1)
    response.once('close', () => {
      const count = this.#pending.get(socket)
      if (count !== undefined) this.#pending.set(socket, count - 1)
    })
  }

  /**
   * Closes a connection when the limit is reached: the oldest without a pending request, or else the oldest. Idle connections
   * must not lock out a health check.
   */
  #makeRoom(): void {
    if (this.#pending.size < this.#maxConnections) return
    const [oldest] = this.#pending.keys()
    const idle = [...this.#pending].find(([, count]) => count === 0)?.[0]
    const socket = idle ?? oldest
    if (socket === undefined) return
    this.#pending.delete(socket)
    socket.destroy()
  }
}

function send(response: ServerResponse, { status = 200, type, headers, body }: Reply): void {
  const [text, defaultType] =
    typeof body === 'string'
      ? [body, 'text/plain; charset=utf-8']
      : [`${JSON.stringify(body, undefined, 2)}\n`, 'application/json']
  const length = Buffer.byteLength(text)
  response
    .writeHead(status, { ...headers, 'content-type': type ?? defaultType, 'content-length': length })
    .end(text)
}

const FOREIGN_HOST: Reply = {
  status: 403,
  body: 'Host header: expected an IP address or localhost; other names are rejected to prevent DNS rebinding\n',
}

/**
 * Whether a Host header is `localhost` or an IP address, with an optional port. A web page that reaches a loopback server
 * by DNS rebinding sends its own host name.
 */
export function isLocalHost(host = ''): boolean {
  if (host.length > MAX_HOST_LENGTH) return false
  const name = host.replace(/:\d{1,5}$/, '').replace(/^\[(.*)\]$/, '$1')
  return name === 'localhost' || isIP(name) !== 0
}

/** Whether the local address of a connection is a loopback address. False for a Unix socket. */
function isLoopback({ localAddress = '' }: Socket): boolean {
  const address = localAddress.replace(/^::ffff:/, '')
  return address === '::1' || address.startsWith('127.')
}
