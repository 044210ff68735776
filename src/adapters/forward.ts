import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import { EventEmitter } from 'eventemitter3'
import { confirmEnd } from '../base/node-internals.js'
import { type CloseOptions, drainTimeout } from '../base/options/close-options.js'
import { AbortError, ConnectError, toError } from '../base/errors.js'
import { emitSafely } from '../base/emit-safely.js'
import { log } from '../base/log.js'
import { type ListenAddress, bindServer } from '../sockets/bind-server.js'
import { OpenSockets, withinDrain } from '../sockets/open-sockets.js'
import { bindPrivately } from '../sockets/private-socket.js'
import { cut, pump } from '../sockets/pump.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { TCP } from '../sockets/tcp-options.js'
import { ConnectionRecord, type ForwardConnection } from './forward-connection.js'

export interface ForwardSettings {
  /** The name of the upstream in logs. */
  readonly name: string
  readonly dial: (signal: AbortSignal) => Promise<MeshSocket>
  readonly idleTimeoutMs: number | undefined
  readonly drainTimeoutMs: number
  /** Called at most once per second when the upstream cannot be dialed. The forward keeps running. */
  readonly onFailed: (error: Error) => void
  /** Called when the forward has closed completely. */
  readonly onClosed: () => void
}

/** The events of a forward. Each connection is the same object in all events. */
export interface ForwardEvents {
  /** A connection was accepted, and the upstream is being dialed. */
  accepted: [connection: ForwardConnection]
  /** The upstream was dialed. */
  dialed: [connection: ForwardConnection]
  /** Both sides of the connection are closed. */
  ended: [connection: ForwardConnection]
}

/** The minimum time between warnings: a client may retry often. */
const WARNING_PAUSE_MS = 1_000

/**
 * A local port or Unix socket that is connected to an upstream. Clients are not authenticated, and reach the upstream
 * with the identity of this service.
 */
export class Forward extends EventEmitter<ForwardEvents> implements AsyncDisposable {
  readonly #settings: ForwardSettings
  readonly #server: Server
  // Cut by a reset: an orderly end would look like a complete transfer.
  readonly #open = new OpenSockets(cut)
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined
  #warnedAt = -Infinity

  constructor(settings: ForwardSettings) {
    super()
    this.#settings = settings
    // Paused, because nothing can be read before the upstream is dialed.
    this.#server = createServer({ ...TCP, allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      void this.#take(socket)
    })
    this.#closed = new Promise((resolve) => this.#server.once('close', resolve))
    void this.#closed.then(settings.onClosed)
  }

  /**
   * Starts listening. Only this user can connect to a Unix socket.
   * @throws ConnectError with ERR_CONNECT_LISTEN
   */
  async open(address: ListenAddress): Promise<void> {
    try {
      await ('path' in address
        ? bindPrivately(this.#server, address.path, this.#closed)
        : bindServer(this.#server, address, this.#closed))
    } catch (error) {
      this.destroy()
      throw error
    }
    // An accept error such as EMFILE does not end the forward.
    this.#server.on('error', this.#settings.onFailed)
  }

  /** The address and port, or the path of the Unix socket; null after the forward has stopped accepting. */
  address(): AddressInfo | string | null {
    return this.#server.address()
  }

  /** The number of connections, including those whose upstream is being dialed. */
  get connections(): number {
    return this.#open.size
  }

  /** Stops accepting, and waits for open connections; cuts them after `drainTimeoutMs`. Idempotent. */
  async close(options?: CloseOptions): Promise<void> {
    const timeoutMs = drainTimeout(options, this.#settings.drainTimeoutMs)
    this.#closing ??= this.#drain(timeoutMs)
    await withinDrain(this.#closing, timeoutMs, () => {
      this.destroy()
    })
  }

  /** Cuts all connections. */
  destroy(): void {
    this.#server.close()
    this.#open.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #drain(timeoutMs: number): Promise<void> {
    this.#server.close()
    await this.#open.drain(timeoutMs)
    await this.#closed
  }

  async #take(local: Socket): Promise<void> {
    const { name, dial, idleTimeoutMs } = this.#settings
    const record = new ConnectionRecord(local)
    this.#open.add(local)
    local.on('error', (error) => {
      log.dial('forward to %s: %s', name, error.message)
    })
    const gone = new AbortController()
    local.once('close', () => {
      gone.abort(new Error('the local connection is gone'))
    })
    emitSafely(this, 'accepted', record)
    confirmEnd(local)
    // Read into the buffer of the stream: a reset is only detected by reading.
    local.read(0)
    try {
      const remote = await dial(gone.signal)
      if (local.destroyed) remote.destroy()
      record.dialed(remote)
      emitSafely(this, 'dialed', record)
      const { sent, received } = await pump(local, remote, { idleTimeoutMs })
      log.dial('forward to %s: %d bytes sent, %d received', name, sent, received)
      record.ended(undefined)
    } catch (thrown) {
      const error = toError(thrown)
      record.ended(error)
      // Cut by a reset: an orderly end would look like an empty response.
      cut(local)
      log.dial('forward to %s: %s', name, error.message)
      this.#warn(error)
    }
    emitSafely(this, 'ended', record)
  }

  /** Warns about failed dials, but not about broken connections. */
  #warn(error: Error): void {
    const isDialFailure = error instanceof ConnectError && !(error instanceof AbortError)
    if (!isDialFailure || this.#closing !== undefined || !this.#server.listening) return
    const now = performance.now()
    if (now - this.#warnedAt < WARNING_PAUSE_MS) return
    this.#warnedAt = now
    this.#settings.onFailed(error)
  }
}
