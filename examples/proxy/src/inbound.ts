import type { Socket } from 'node:net'
import { ConnectError, type Listener, type MeshSocket, type Service } from 'consul-connect'
import { type ProxyListener, dialLocal, pump } from 'consul-connect/proxy'
import type { Log } from './log.js'
import { FOREVER_MS, Opening } from './opening.js'
import type { Standby } from './standby.js'
import type { CloseReason, Connection, Door, Traffic } from './traffic.js'

export interface InboundOptions {
  readonly service: Service
  readonly traffic: Traffic
  readonly log: Log
  readonly isEnding: () => boolean
  readonly standby: Standby | undefined
  /** Called each time it listens. */
  readonly onOpen: (config: ProxyListener) => void
}

/** The public listener: from the mesh to the application, once the peer has proved who it is and may connect. */
export class Inbound {
  readonly #options: InboundOptions
  readonly #door: Door
  #config: ProxyListener | undefined
  #opening: Opening<Listener> | undefined

  constructor(options: InboundOptions) {
    this.#options = options
    this.#door = { direction: 'inbound', name: options.service.name }
  }

  /** Whether it listens; undefined when it is not to. */
  get isOpen(): boolean | undefined {
    return this.#opening && this.#opening.current !== undefined
  }

  get error(): Error | undefined {
    return this.#opening?.error
  }

  /** Takes another configuration. Connections that are open keep what they have. */
  apply(config: ProxyListener | undefined): void {
    const before = this.#config
    this.#config = config
    if (before !== undefined && config !== undefined && isSameListener(before, config)) return
    // Not awaited: its connections may last, and the new listener must not wait for them.
    void this.#opening?.close(FOREVER_MS)
    this.#opening = config && this.#open(config)
  }

  /** Stops to listen, and ends with its connections. */
  async close(drainTimeoutMs: number): Promise<void> {
    await this.#opening?.close(drainTimeoutMs)
  }

  #open(config: ProxyListener): Opening<Listener> {
    const { service, log, onOpen, standby } = this.#options
    const { host, port, handshakeTimeoutMs, maxConnections, maxHandshakes } = config
    const bounds = {
      handshakeTimeoutMs,
      maxHandshakes,
      ...(maxConnections !== undefined && { maxConnections }),
    }
    return new Opening(
      (signal) =>
        service.listen({ host, port, signal, allowHalfOpen: true, ...bounds }, (socket) =>
          this.#carry(socket),
        ),
      (error, retryInMs) => {
        log.warn(`public listener: ${error.message}`, { retry_in_ms: retryInMs })
      },
      () => {
        log.info('public listener is open', { address: `${host}:${port}` })
        onOpen(config)
      },
      standby && { of: standby, isOptional: false },
    )
  }

  async #carry(mesh: MeshSocket): Promise<void> {
    const config = this.#config
    // It came through a listener that is being closed.
    if (config === undefined) {
      mesh.destroy()
      return
    }
    const { traffic, log } = this.#options
    const connection = new InboundConnection(mesh)
    traffic.opened(this.#door, connection)
    let local: Socket
    try {
      local = await dialLocal(config.application, {
        timeoutMs: config.connectTimeoutMs,
        signal: connection.gone,
      })
    } catch (error) {
      mesh.destroy()
      const problem = error as Error
      if (!connection.gone.aborted) log.warn(problem.message)
      traffic.closed(this.#door, connection, connection.gone.aborted ? 'broken' : 'unreachable', problem)
      return
    }
    connection.local = local
    try {
      const { idleTimeoutMs } = config
      await pump(mesh, local, idleTimeoutMs === undefined ? {} : { idleTimeoutMs })
      traffic.closed(this.#door, connection, 'ended')
    } catch (error) {
      traffic.closed(this.#door, connection, reasonOf(error, this.#options.isEnding()), error as Error)
    }
  }
}

/** Why a connection that was open ended. */
export function reasonOf(error: unknown, isEnding: boolean): CloseReason {
  if (error instanceof ConnectError && error.code === 'ERR_CONNECT_REVOKED') return 'revoked'
  if (error instanceof ConnectError && error.code === 'ERR_CONNECT_TIMEOUT') return 'idle'
  return isEnding ? 'shutdown' : 'broken'
}

/** Whether what is listening can go on: the rest is looked at for each connection. */
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
  readonly #since = performance.now()
  readonly peer: MeshSocket['peer']
  readonly remote: string | undefined
  /** Aborted when the mesh's end is gone. */
  readonly gone: AbortSignal
  local: Socket | undefined

  constructor(mesh: MeshSocket) {
    this.peer = mesh.peer
    this.remote = mesh.remoteAddress && `${mesh.remoteAddress}:${mesh.remotePort ?? ''}`
    const gone = new AbortController()
    this.gone = gone.signal
    mesh.once('close', () => {
      gone.abort(new Error('the peer closed the connection'))
    })
  }

  get sent(): number {
    return this.local?.bytesRead ?? 0
  }

  get received(): number {
    return this.local?.bytesWritten ?? 0
  }

  get durationMs(): number {
    return performance.now() - this.#since
  }
}
