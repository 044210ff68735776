import { Agent, type ClientRequest, type RequestOptions, request } from 'node:http'
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionRequestOptions,
  type OutgoingHttpHeaders,
  connect as connectHttp2,
} from 'node:http2'
import { Socket, connect } from 'node:net'
import type { LocalAddress } from 'consul-connect/proxy'

/** The limit of Envoy; a smaller one of the application still holds. */
export const MAX_HEADER_BYTES = 61_440

export interface ApplicationOptions {
  readonly address: LocalAddress
  readonly connectTimeoutMs: number
  /** Called when a connection to the application is open. */
  readonly onConnected: (socket: Socket) => void
  readonly onUnreachable: (error: Error) => void
}

/** One connection to the application at a time, for the requests of one mesh connection. */
export class Application {
  readonly #options: ApplicationOptions
  readonly #onEnded: () => void
  readonly #agent: Agent
  /** The HTTP/1 requests that have not ended. */
  readonly #requests = new Set<ClientRequest>()
  #session: ClientHttp2Session | undefined
  #isClosed = false

  /** @param onEnded - called when the connection to the application has ended */
  constructor(options: ApplicationOptions, onEnded: () => void) {
    this.#options = options
    this.#onEnded = onEnded
    this.#agent = new OneConnection(
      () => this.#connect(),
      () => !this.#isClosed,
    )
  }

  /** Begins an HTTP/1 request. It waits for the end of the one before. */
  request(options: RequestOptions): ClientRequest {
    const begun = request({
      ...options,
      agent: this.#agent,
      setHost: false,
      maxHeaderSize: MAX_HEADER_BYTES,
    })
    begun.maxHeadersCount = 0
    this.#requests.add(begun)
    begun.once('close', () => this.#requests.delete(begun))
    return begun
  }

  /** Begins an HTTP/2 stream. */
  stream(headers: OutgoingHttpHeaders, options: ClientSessionRequestOptions): ClientHttp2Stream {
    if (this.#session === undefined || this.#session.closed || this.#session.destroyed)
      this.#session = this.#openSession()
    return this.#session.request(headers, options)
  }

  close(): void {
    this.#isClosed = true
    for (const each of this.#requests) each.destroy()
    this.#agent.destroy()
    this.#session?.destroy()
  }

  #openSession(): ClientHttp2Session {
    // The URL has no effect: each stream has its own authority.
    const session = connectHttp2('http://application', {
      createConnection: () => this.#connect(),
      settings: { enablePush: false },
    })
    // Its streams emit the error as well.
    session.on('error', () => undefined)
    return session
  }

  #connect(): Socket {
    // node:http asks for a connection for a request that waited, although it has been destroyed.
    if (this.#isClosed) return new Socket().on('error', () => undefined).destroy(new Error('closed'))
    const { address, connectTimeoutMs, onConnected, onUnreachable } = this.#options
    const where = 'path' in address ? address.path : `${address.host}:${address.port}`
    const socket = connect({ ...address, noDelay: true, keepAlive: true })
    let isConnected = false
    const timer = setTimeout(() => {
      socket.destroy(new Error(`no answer within ${connectTimeoutMs} ms`))
    }, connectTimeoutMs)
    const onFailed = ({ message }: Error): void => {
      onUnreachable(new Error(`cannot connect to the application at ${where}: ${message}`))
    }
    // The users of the socket handle its `close`.
    socket.on('error', () => undefined).once('error', onFailed)
    socket.once('connect', () => {
      clearTimeout(timer)
      isConnected = true
      socket.off('error', onFailed)
      onConnected(socket)
    })
    socket.once('close', () => {
      clearTimeout(timer)
      if (isConnected) this.#onEnded()
    })
    return socket
  }
}

/** An agent of node:http for one kept connection. */
class OneConnection extends Agent {
  override readonly createConnection: () => Socket
  readonly #isOpen: () => boolean

  constructor(createConnection: () => Socket, isOpen: () => boolean) {
    super({ keepAlive: true, maxSockets: 1, maxFreeSockets: 1 })
    this.createConnection = createConnection
    this.#isOpen = isOpen
  }

  /** Ignores the hints of `Keep-Alive`: the application closes the connection itself. */
  override keepSocketAlive(): boolean {
    return this.#isOpen()
  }
}
