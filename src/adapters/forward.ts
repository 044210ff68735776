import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import { EventEmitter } from 'eventemitter3'
import { confirmEnd } from '../base/node-internals.js'
import { type CloseOptions, drainTimeout } from '../base/close-options.js'
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
  /** For logs: the upstream. */
  readonly name: string
  readonly dial: (signal: AbortSignal) => Promise<MeshSocket>
  readonly idleTimeoutMs: number | undefined
  readonly drainTimeoutMs: number
  /** Called when connections cannot be taken to the upstream, once a second at most; the forward goes on. */
  readonly onFailed: (error: Error) => void
  /** Called when nothing of it is left. */
  readonly onClosed: () => void
}

/** What a Forward tells of each of its connections, which is the same object each time. */
export interface ForwardEvents {
  /** It was accepted, and is being dialled. */
  accepted: [connection: ForwardConnection]
  /** The upstream was reached. */
  dialled: [connection: ForwardConnection]
  /** Neither side is open any more. */
  ended: [connection: ForwardConnection]
}

/** A client that tries again and again must not flood whoever listens to warnings. */
const WARNING_PAUSE_MS = 1_000

/**
 * A local port or unix socket that leads to an upstream. Whoever reaches it speaks as this service: there is no other
 * check on this side.
 */
export class Forward extends EventEmitter<ForwardEvents> implements AsyncDisposable {
  readonly #settings: ForwardSettings
  readonly #server: Server
  // By a reset: an orderly end would look like all was said.
  readonly #open = new OpenSockets(cut)
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined
  #warnedAt = -Infinity

  constructor(settings: ForwardSettings) {
    super()
    this.#settings = settings
    // Nothing is read before there is somebody to take it.
    this.#server = createServer({ ...TCP, allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      void this.#take(socket)
    })
    this.#closed = new Promise((resolve) => this.#server.once('close', resolve))
    void this.#closed.then(settings.onClosed)
  }

  /**
   * Starts to listen. A unix socket is for this user alone.
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
    // An accept error (EMFILE, say) never ends it.
    this.#server.on('error', this.#settings.onFailed)
  }

  /** Where it listens: an address and port, or the path of a unix socket; null once closed. */
  address(): AddressInfo | string | null {
    return this.#server.address()
  }

  /** How many connections there are, those included that are still being dialled. */
  get connections(): number {
    return this.#open.size
  }

  /** Accepts no more, and waits for the open connections; those still open after `drainTimeoutMs` are cut. Idempotent. */
  async close(options?: CloseOptions): Promise<void> {
    const timeoutMs = drainTimeout(options, this.#settings.drainTimeoutMs)
    this.#closing ??= this.#drain(timeoutMs)
    await withinDrain(this.#closing, timeoutMs, () => {
      this.destroy()
    })
  }

  /** Cuts everything at once. */
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
    // Into the buffer alone, since a reset is only seen by who reads.
    local.read(0)
    try {
      const remote = await dial(gone.signal)
      if (local.destroyed) remote.destroy()
      record.dialled(remote)
      emitSafely(this, 'dialled', record)
      const { sent, received } = await pump(local, remote, { idleTimeoutMs })
      log.dial('forward to %s: %d bytes sent, %d received', name, sent, received)
      record.ended(undefined)
    } catch (thrown) {
      const error = toError(thrown)
      record.ended(error)
      // By a reset: an orderly end would look like an empty answer.
      cut(local)
      log.dial('forward to %s: %s', name, error.message)
      this.#warn(error)
    }
    emitSafely(this, 'ended', record)
  }

  /** Tells of what the upstream or we are the cause of; a connection that breaks is not news. */
  #warn(error: Error): void {
    const isNews = error instanceof ConnectError && !(error instanceof AbortError)
    if (!isNews || this.#closing !== undefined || !this.#server.listening) return
    const now = performance.now()
    if (now - this.#warnedAt < WARNING_PAUSE_MS) return
    this.#warnedAt = now
    this.#settings.onFailed(error)
  }
}
