import { chmod } from 'node:fs/promises'
import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import { toError } from '../errors.js'
import { log } from '../log.js'
import { type ListenAddress, openServer } from '../transport/open-server.js'
import { OpenSockets } from '../transport/open-sockets.js'
import { cut, pump } from '../transport/pump.js'
import type { MeshSocket } from '../transport/socket.js'

export interface ForwardSettings {
  /** For logs: the upstream. */
  readonly name: string
  readonly dial: (signal: AbortSignal) => Promise<MeshSocket>
  readonly idleTimeoutMs: number | undefined
  readonly drainTimeoutMs: number
  /** Called when a connection could not be taken to the upstream; the forward goes on. */
  readonly onFailed: (error: Error) => void
  /** Called when nothing of it is left. */
  readonly onClosed: () => void
}

/** Options of a forward's `close`. */
export interface ForwardCloseOptions {
  /** How long to wait for open connections, in milliseconds. @default the service's drainTimeoutMs */
  readonly timeoutMs?: number
}

/**
 * A local port or unix socket that leads to an upstream. Whoever reaches it speaks as this service: there is no other
 * check on this side.
 */
export class Forward implements AsyncDisposable {
  readonly #settings: ForwardSettings
  readonly #server: Server
  // By a reset: an orderly end would look like all was said.
  readonly #open = new OpenSockets(cut)
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined

  constructor(settings: ForwardSettings) {
    this.#settings = settings
    // Nothing is read before there is somebody to take it.
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
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
      await openServer(this.#server, address, this.#closed)
      if ('path' in address) await chmod(address.path, 0o600)
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

  /** Accepts no more, and waits for the open connections; those still open after `timeoutMs` are cut. Idempotent. */
  async close(options: ForwardCloseOptions = {}): Promise<void> {
    this.#closing ??= this.#drain(options.timeoutMs ?? this.#settings.drainTimeoutMs)
    await this.#closing
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
    const { name, dial, idleTimeoutMs, onFailed } = this.#settings
    this.#open.add(local)
    local.on('error', (error) => {
      log.dial('forward to %s: %s', name, error.message)
    })
    const gone = new AbortController()
    local.once('close', () => {
      gone.abort(new Error('the local connection is gone'))
    })
    try {
      const remote = await dial(gone.signal)
      if (local.destroyed) remote.destroy()
      const { sent, received } = await pump(local, remote, { idleTimeoutMs })
      log.dial('forward to %s: %d bytes sent, %d received', name, sent, received)
    } catch (thrown) {
      const error = toError(thrown)
      const wasGone = local.destroyed
      // By a reset: an orderly end would look like an empty answer.
      cut(local)
      log.dial('forward to %s: %s', name, error.message)
      if (!wasGone) onFailed(error)
    }
  }
}
