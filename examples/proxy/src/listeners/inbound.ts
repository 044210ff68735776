import type { Http2SecureServer } from 'node:http2'
import type { Socket } from 'node:net'
import type { Listener, MeshSocket, Service } from 'consul-connect'
import { type ProxyListener, dialLocal, pump } from 'consul-connect/proxy'
import type { Log } from '../operator/log.js'
import type { ApplicationOptions } from '../requests/application.js'
import { requestServer } from '../requests/request-server.js'
import { NO_DRAIN_LIMIT_MS, RetryingListener } from './retrying-listener.js'
import type { Standby } from '../workers/standby.js'
import { type Connection, type ListenerLabels, type Traffic, closeReason } from './traffic.js'

export interface InboundOptions {
  readonly service: Service
  readonly traffic: Traffic
  readonly log: Log
  readonly isShuttingDown: () => boolean
  readonly standby: Standby | undefined
  /** Called each time the listener opens. */
  readonly onOpen: (config: ProxyListener) => void
}

/** The public listener. Connects authorized peers to the application. */
export class Inbound {
  readonly #options: InboundOptions
  readonly #labels: ListenerLabels
  #config: ProxyListener | undefined
  #listener: RetryingListener<Listener> | undefined

  constructor(options: InboundOptions) {
    this.#options = options
    this.#labels = { direction: 'inbound', name: options.service.name }
  }

  /** Whether the listener is open; undefined if the configuration has none. */
  get isOpen(): boolean | undefined {
    return this.#listener && this.#listener.current !== undefined
  }

  /** Why the listener is not open. */
  get error(): Error | undefined {
    return this.#listener?.error
  }

  /** Applies a configuration. Open connections keep the previous one. */
  apply(config: ProxyListener | undefined): void {
    const previous = this.#config
    this.#config = config
    if (previous !== undefined && config !== undefined && isSameListener(previous, config)) return
    // Not awaited: the new listener must not wait for the connections of the old one.
    void this.#listener?.close(NO_DRAIN_LIMIT_MS)
    this.#listener = config && this.#open(config)
  }

  /** Stops listening, and resolves when all connections have ended. */
  async close(drainTimeoutMs: number): Promise<void> {
    await this.#listener?.close(drainTimeoutMs)
  }

  #open(config: ProxyListener): RetryingListener<Listener> {
    const { service, log, onOpen, standby } = this.#options
    const { host, port, handshakeTimeoutMs, maxConnections, maxHandshakes } = config
    const limits = {
      handshakeTimeoutMs,
      maxHandshakes,
      ...(maxConnections !== undefined && { maxConnections }),
    }
    return new RetryingListener({
      open: (signal) =>
        service.serve(this.#requestServer(config), {
          ...{ host, port, signal, allowHalfOpen: true, ...limits },
          passthrough: (socket) => this.#forward(socket),
        }),
      onFailed: (error, retryInMs) => {
        log.warn(`public listener: ${error.message}`, { retry_in_ms: retryInMs })
      },
      onOpen: () => {
        log.info('public listener is open', { address: `${host}:${port}` })
        onOpen(config)
      },
      standby: standby && { standby, isOptional: false },
    })
  }

  /** Receives the connections whose requests are decided. */
  #requestServer(config: ProxyListener): Http2SecureServer {
    const { idleTimeoutMs } = config
    return requestServer({
      idleTimeoutMs,
      onConnection: (mesh) => this.#beginRequests(mesh, this.#config ?? config),
      onUpgraded: (mesh, local) => {
        // Its end is counted with that of the mesh connection.
        pump(mesh, local, idleTimeoutMs === undefined ? {} : { idleTimeoutMs }).catch(() => undefined)
      },
    })
  }

  #beginRequests(
    mesh: MeshSocket,
    { application: address, connectTimeoutMs }: ProxyListener,
  ): ApplicationOptions {
    const { traffic, log, isShuttingDown } = this.#options
    const connection = new InboundConnection(mesh)
    traffic.opened(this.#labels, connection)
    mesh.once('close', () => {
      const error = mesh.errored
      const reason = error === null ? 'ended' : closeReason(error, isShuttingDown())
      traffic.closed(this.#labels, connection, reason, error ?? undefined)
    })
    return {
      address,
      connectTimeoutMs,
      onConnected: (local) => {
        connection.use(local)
      },
      onUnreachable: (error) => {
        log.warn(error.message)
      },
    }
  }

  /** Connects a peer to the application and copies bytes until both sides have finished. */
  async #forward(mesh: MeshSocket): Promise<void> {
    const config = this.#config
    // The listener was removed from the configuration while this connection was accepted.
    if (config === undefined) {
      mesh.destroy()
      return
    }
    const { traffic, log } = this.#options
    const connection = new InboundConnection(mesh)
    traffic.opened(this.#labels, connection)
    let local: Socket
    try {
      local = await dialLocal(config.application, {
        timeoutMs: config.connectTimeoutMs,
        signal: connection.peerClosed,
      })
    } catch (error) {
      mesh.destroy()
      const dialError = error as Error
      if (!connection.peerClosed.aborted) log.warn(dialError.message)
      traffic.closed(
        this.#labels,
        connection,
        connection.peerClosed.aborted ? 'broken' : 'unreachable',
        dialError,
      )
      return
    }
    connection.use(local)
    try {
      const { idleTimeoutMs } = config
      await pump(mesh, local, idleTimeoutMs === undefined ? {} : { idleTimeoutMs })
      traffic.closed(this.#labels, connection, 'ended')
    } catch (error) {
      traffic.closed(
        this.#labels,
        connection,
        closeReason(error, this.#options.isShuttingDown()),
        error as Error,
      )
    }
  }
}

/** Whether the listener can stay open. The other settings are read for each connection. */
function isSameListener(a: ProxyListener, b: ProxyListener): boolean {
  return (
    a.host === b.host &&
    a.port === b.port &&
    a.handshakeTimeoutMs === b.handshakeTimeoutMs &&
    a.maxConnections === b.maxConnections &&
    a.maxHandshakes === b.maxHandshakes
  )
}

class InboundConnection implements Connection {
  readonly #openedAt = performance.now()
  readonly peer: MeshSocket['peer']
  readonly remote: string | undefined
  /** Aborted when the peer's connection closes. */
  readonly peerClosed: AbortSignal
  /** The open connections to the application. */
  readonly #locals = new Set<Socket>()
  /** Bytes of closed connections to the application. */
  #sent = 0
  #received = 0

  constructor(mesh: MeshSocket) {
    this.peer = mesh.peer
    this.remote = mesh.remoteAddress && `${mesh.remoteAddress}:${mesh.remotePort ?? ''}`
    const closed = new AbortController()
    this.peerClosed = closed.signal
    mesh.once('close', () => {
      closed.abort(new Error('the peer closed the connection'))
    })
  }

  /** Counts a connection to the application. There may be several, one after the other, if requests are decided. */
  use(local: Socket): void {
    this.#locals.add(local)
    local.once('close', () => {
      this.#locals.delete(local)
      this.#sent += local.bytesRead
      this.#received += local.bytesWritten
    })
  }

  get sent(): number {
    return [...this.#locals].reduce((sum, { bytesRead }) => sum + bytesRead, this.#sent)
  }

  get received(): number {
    return [...this.#locals].reduce((sum, { bytesWritten }) => sum + bytesWritten, this.#received)
  }

  get durationMs(): number {
    return performance.now() - this.#openedAt
  }
}
