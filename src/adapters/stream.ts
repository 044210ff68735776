import { Duplex } from 'node:stream'
import { LONGEST_TIMER_MS, systemClock } from '../base/clock.js'
import { toError } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { attachPeer } from '../transport/verify-peer.js'
import type { MeshSocket } from '../transport/mesh-socket.js'

/** What a stream needs of its socket. */
export type StreamSocket = Duplex &
  Pick<MeshSocket, 'setNoDelay' | 'setKeepAlive' | 'setTimeout' | 'ref' | 'unref'> &
  Partial<
    Pick<
      MeshSocket,
      | 'peer'
      | 'remoteAddress'
      | 'remotePort'
      | 'remoteFamily'
      | 'localAddress'
      | 'localPort'
      | 'bytesRead'
      | 'bytesWritten'
    >
  >

/** An action on the socket, postponed until the stream is connected. */
type Setting = (socket: StreamSocket) => void
type Callback = (error?: Error | null) => void

/**
 * A mesh connection for libraries that need a socket synchronously. The upstream is dialed at the first use: `connect`,
 * a read, or a write. It has the events of a net.Socket (`connect`, `ready`, `timeout`) and those of a Duplex.
 *
 * An error of the dial is emitted as `error`.
 */
export class MeshStream extends Duplex {
  /** The verified peer; undefined before the stream is connected. */
  declare readonly peer: Peer | undefined
  readonly #dial: (signal: AbortSignal) => Promise<StreamSocket>
  readonly #gone = new AbortController()
  /** The latest value of each setting, to be applied to the socket. */
  readonly #settings = new Map<string, Setting>()
  #timeoutMs = 0
  #cancelTimer: (() => void) | undefined
  #socket: StreamSocket | undefined
  #isStarted = false
  /** Whether the last byte was sent to the peer, so that a response may be pending. */
  #awaitsAnswer = false
  /** When the last byte was received, by `performance.now()`. */
  #receivedAt = 0
  /** The pending action of the writable side, of which there is at most one. */
  #onOpen: Setting | undefined
  #onWritten: Callback | undefined

  constructor(allowHalfOpen: boolean, dial: (signal: AbortSignal) => Promise<StreamSocket>) {
    super({ allowHalfOpen })
    this.#dial = dial
  }

  get connecting(): boolean {
    return this.#isStarted && this.#socket === undefined && !this.destroyed
  }

  get pending(): boolean {
    return this.#socket === undefined
  }

  get readyState(): 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.connecting) return 'opening'
    if (this.pending || this.destroyed) return 'closed'
    if (this.readable) return this.writable ? 'open' : 'readOnly'
    return this.writable ? 'writeOnly' : 'closed'
  }

  get remoteAddress(): string | undefined {
    return this.#socket?.remoteAddress
  }

  get remotePort(): number | undefined {
    return this.#socket?.remotePort
  }

  get remoteFamily(): string | undefined {
    return this.#socket?.remoteFamily
  }

  get localAddress(): string | undefined {
    return this.#socket?.localAddress
  }

  get localPort(): number | undefined {
    return this.#socket?.localPort
  }

  get bytesRead(): number {
    return this.#socket?.bytesRead ?? 0
  }

  get bytesWritten(): number {
    return this.#socket?.bytesWritten ?? 0
  }

  /**
   * Dials the upstream, unless it has been dialed. A host and port, which libraries pass, are ignored. A function as
   * the last argument is called on `connect`.
   */
  connect(...args: unknown[]): this {
    const callback = args.at(-1)
    if (typeof callback === 'function') this.once('connect', callback as () => void)
    this.#start()
    return this
  }

  setNoDelay(noDelay?: boolean): this {
    return this.#set('noDelay', (socket) => socket.setNoDelay(noDelay))
  }

  setKeepAlive(enable?: boolean, initialDelay?: number): this {
    return this.#set('keepAlive', (socket) => socket.setKeepAlive(enable, initialDelay))
  }

  /**
   * Emits `timeout` after `timeout` milliseconds without a byte, beginning with the dial; 0 disables it. At most about
   * 25 days, the longest timer of Node.js.
   */
  setTimeout(timeout: number, callback?: () => void): this {
    if (callback !== undefined) {
      if (timeout > 0) this.once('timeout', callback)
      else this.off('timeout', callback)
    }
    this.#timeoutMs = Math.min(timeout, LONGEST_TIMER_MS)
    if (this.#socket === undefined) this.#armTimer()
    else this.#socket.setTimeout(this.#timeoutMs)
    return this
  }

  /**
   * Whether the stream is connected, and its last byte came from the peer at least `ms` ago.
   * @internal
   */
  isIdleFor(ms: number): boolean {
    if (this.#socket === undefined || this.#awaitsAnswer) return false
    return this.readableLength === 0 && performance.now() - this.#receivedAt >= ms
  }

  ref(): this {
    return this.#set('ref', (socket) => socket.ref())
  }

  unref(): this {
    return this.#set('ref', (socket) => socket.unref())
  }

  /** @internal */
  override _read(): void {
    if (this.#socket === undefined) this.#start()
    else this.#socket.resume()
  }

  /** @internal */
  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    this.#awaitsAnswer = true
    this.#whenOpen(callback, (socket) => {
      if (socket.write(chunk)) this.#written()
    })
  }

  /** @internal */
  override _writev(chunks: { readonly chunk: Buffer }[], callback: Callback): void {
    this.#awaitsAnswer = true
    this.#whenOpen(callback, (socket) => {
      socket.cork()
      let goesOn = true
      for (const { chunk } of chunks) goesOn = socket.write(chunk)
      socket.uncork()
      if (goesOn) this.#written()
    })
  }

  /** @internal */
  override _final(callback: Callback): void {
    this.#whenOpen(callback, (socket) => {
      socket.end((error?: Error | null) => {
        // A socket that was cut never finishes. Its own errors arrive by its `error` event.
        if (error) this.destroy()
        else this.#written()
      })
    })
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#cancelTimer?.()
    this.#gone.abort(error ?? new Error('the stream was destroyed'))
    this.#onOpen = undefined
    this.#socket?.destroy()
    this.#written(error ?? new Error('the stream was destroyed'))
    callback(error)
  }

  #start(): void {
    if (this.#isStarted || this.destroyed) return
    this.#isStarted = true
    this.#armTimer()
    this.#dial(this.#gone.signal).then(
      (socket) => {
        this.#open(socket)
      },
      (error: unknown) => this.destroy(toError(error)),
    )
  }

  /** Starts the timer for the time of the dial. Afterwards the socket has its own timer. */
  #armTimer(): void {
    this.#cancelTimer?.()
    if (!this.connecting || this.#timeoutMs === 0) return
    this.#cancelTimer = systemClock.after(this.#timeoutMs, () => {
      this.emit('timeout')
    })
  }

  #open(socket: StreamSocket): void {
    if (this.destroyed) {
      socket.destroy()
      return
    }
    this.#cancelTimer?.()
    this.#socket = socket
    this.#receivedAt = performance.now()
    if (socket.peer !== undefined) attachPeer(this, socket.peer)
    if (this.#timeoutMs > 0) socket.setTimeout(this.#timeoutMs)
    for (const apply of this.#settings.values()) apply(socket)
    this.#settings.clear()
    socket
      .on('data', (chunk: Buffer) => {
        this.#awaitsAnswer = false
        this.#receivedAt = performance.now()
        if (!this.push(chunk)) socket.pause()
      })
      .on('end', () => this.push(null))
      .on('drain', () => {
        this.#written()
      })
      .on('timeout', () => this.emit('timeout'))
      .on('error', (error) => this.destroy(error))
      .on('close', () => {
        // After an end on both sides, the stream closes by itself.
        if (!socket.readableEnded || !socket.writableFinished) this.destroy()
      })
    this.emit('connect')
    this.emit('ready')
    const next = this.#onOpen
    this.#onOpen = undefined
    next?.(socket)
  }

  /** Runs an action when the stream is connected. */
  #whenOpen(callback: Callback, action: Setting): void {
    this.#onWritten = callback
    if (this.#socket !== undefined) {
      action(this.#socket)
      return
    }
    this.#onOpen = action
    this.#start()
  }

  #written(error?: Error): void {
    const callback = this.#onWritten
    this.#onWritten = undefined
    callback?.(error)
  }

  #set(name: string, setting: Setting): this {
    if (this.#socket === undefined) this.#settings.set(name, setting)
    else setting(this.#socket)
    return this
  }
}
