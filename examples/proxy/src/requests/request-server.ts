import type { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import {
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
  createSecureServer,
} from 'node:http2'
import type { Duplex } from 'node:stream'
import type { MeshSocket } from 'consul-connect'
import { Application, type ApplicationOptions, MAX_HEADER_BYTES } from './application.js'
import { isWebSocket } from './headers.js'
import { forwardRequest, forwardUpgrade } from './http1.js'
import { forwardStream } from './http2.js'

/** How many requests of a connection may be open or wait. */
const MAX_PENDING = 100

export interface RequestServerOptions {
  /** Returns how the application is reached for the requests of a new connection. */
  readonly onConnection: (mesh: MeshSocket) => ApplicationOptions
  /** The application has accepted a WebSocket connection. */
  readonly onUpgraded: (mesh: MeshSocket, application: Duplex) => void
  readonly idleTimeoutMs: number | undefined
}

/**
 * Creates the server for connections whose requests are decided, in HTTP/1.1 and HTTP/2. It forwards the allowed requests in
 * the version in which they arrive, as the bytes of other connections are.
 */
export function requestServer(options: RequestServerOptions): Http2SecureServer {
  const { onConnection, onUpgraded, idleTimeoutMs = 0 } = options
  const server = createSecureServer({ allowHTTP1: true, settings: { maxConcurrentStreams: MAX_PENDING } })
  // The application has timeouts of its own.
  Object.assign(server, {
    requestTimeout: 0,
    keepAliveTimeout: 0,
    timeout: idleTimeoutMs,
    maxHeaderSize: MAX_HEADER_BYTES,
    // Node.js would drop the headers above the limit, such as the length of a body.
    maxHeadersCount: 0,
    // Since Node.js 22.21 and 24.9: requests for other upgrades are not treated as such.
    shouldUpgradeCallback: isWebSocket,
  })
  /** By mesh connection, and by HTTP/2 session. */
  const exchanges = new WeakMap<object, Exchange>()
  let latest: Exchange | undefined
  server.prependListener('secureConnection', (mesh: MeshSocket) => {
    latest = new Exchange(mesh, onConnection(mesh))
    exchanges.set(mesh, latest)
  })
  // Emitted during `secureConnection`.
  server.on('session', (session) => {
    if (latest === undefined) return
    exchanges.set(session, latest)
    latest.session = session
  })
  const forward = (
    request: IncomingMessage | Http2ServerRequest,
    response: ServerResponse | Http2ServerResponse,
  ): void => {
    const stream = 'stream' in request ? request.stream : undefined
    const exchange = exchanges.get(stream?.session ?? request.socket)
    if (exchange === undefined) {
      request.destroy()
      return
    }
    exchange.begin(stream ?? (response as ServerResponse))
    if (stream !== undefined) forwardStream(stream, request as Http2ServerRequest, exchange.application)
    else forwardRequest(request as IncomingMessage, response as ServerResponse, exchange.application)
  }
  for (const event of ['request', 'checkContinue', 'checkExpectation']) server.on(event, forward)
  server.on('upgrade', (request: IncomingMessage, mesh: MeshSocket, head: Buffer) => {
    const exchange = exchanges.get(mesh)
    if (exchange === undefined) {
      mesh.destroy()
      return
    }
    // The answer to the upgrade would overtake those of earlier requests.
    if (exchange.pending > 0) {
      mesh.destroy()
      return
    }
    exchange.begin(mesh)
    forwardUpgrade(request, head, exchange.application, (application) => {
      onUpgraded(mesh, application)
    })
  })
  return server
}

/** The requests of one mesh connection. */
class Exchange {
  readonly application: Application
  session: ServerHttp2Session | undefined
  readonly #mesh: MeshSocket
  /** The number of requests whose response is not closed. */
  pending = 0

  constructor(mesh: MeshSocket, options: ApplicationOptions) {
    this.#mesh = mesh
    this.application = new Application(options, () => {
      this.#endIfIdle()
    })
    mesh.once('close', () => {
      this.application.close()
    })
  }

  /** Counts a request until its response is closed. */
  begin(response: EventEmitter): void {
    this.pending += 1
    // Pipelined requests wait in memory.
    if (this.pending > MAX_PENDING && this.session === undefined) this.#mesh.destroy()
    response.once('close', () => {
      this.pending -= 1
    })
  }

  /** The application has ended its connection: as with bytes, the client learns of it, and can open another one. */
  #endIfIdle(): void {
    if (this.pending > 0) return
    if (this.session === undefined) (this.#mesh as MeshSocket & { destroySoon(): void }).destroySoon()
    else if (!this.session.destroyed) this.session.close()
  }
}
