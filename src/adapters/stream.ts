import { Duplex } from 'node:stream'
import { LONGEST_TIMER_MS, systemClock } from '../base/clock.js'
import { toError } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { attachPeer } from '../transport/verify-peer.js'
import type { MeshSocket } from '../transport/mesh-socket.js'

/** What a stream does once it is connected, or would have done if it had been. */
type Setting = (socket: MeshSocket) => void
type Callback = (error?: Error | null) => void

/**
 * A connection of the mesh for libraries that want their socket at once. It is dialled when it is first used: by
 * `connect`, by a read or by a write. Until then it costs nothing, and afterwards it is as the socket that `dial` gives,
 * with the events of a socket of node:net (`connect`, `ready`, `timeout`, and those of every Duplex).
 *
 * What goes wrong with the dial is its `error` event.
 */
export class MeshStream extends Duplex {
  /** Who is at the other end, once it is connected. */
  declare readonly peer: Peer | undefined
  readonly #dial: (signal: AbortSignal) => Promise<MeshSocket>
  readonly #gone = new AbortController()
  /** The last word on each, for when there is a socket. */
  readonly #settings = new Map<string, Setting>()
  #timeoutMs = 0
  #cancelTimer: (() => void) | undefined
  #socket: MeshSocket | undefined
  #isStarted = false
  /** Whether the last byte went to the peer, so that its answer may still come. */
  #awaitsAnswer = false
  /** When the last byte came from the peer, by performance.now(). */
  #receivedAt = 0
  /** What the stream's writable side waits for; it asks for one thing at a time. */
  #onOpen: Setting | undefined
  #onWritten: Callback | undefined

  constructor(allowHalfOpen: boolean, dial: (signal: AbortSignal) => Promise<MeshSocket>) {
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
   * Dials, if that has not begun yet. A host and port, which libraries pass, are not looked at: where the upstream is is
   * the mesh's to say. A function in the last place is called on `connect`.
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
   * Emits `timeout` after `timeout` milliseconds without a byte, counted from the dial on; 0 switches it off. At most
   * about 25 days, the longest timer of Node.js.
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
        // One that is cut never finishes; an error of its own comes by its event.
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

  /** For the time of the dial; afterwards the socket has its own. */
  #armTimer(): void {
    this.#cancelTimer?.()
    if (!this.connecting || this.#timeoutMs === 0) return
    this.#cancelTimer = systemClock.after(this.#timeoutMs, () => {
      this.emit('timeout')
    })
  }

  #open(socket: MeshSocket): void {
    if (this.destroyed) {
      socket.destroy()
      return
    }
    this.#cancelTimer?.()
    this.#socket = socket
    this.#receivedAt = performance.now()
    attachPeer(this, socket.peer)
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
        // After an end on both sides it goes by itself.
        if (!socket.readableEnded || !socket.writableFinished) this.destroy()
      })
    this.emit('connect')
    this.emit('ready')
    const next = this.#onOpen
    this.#onOpen = undefined
    next?.(socket)
  }

  /** What goes on when the stream is connected, and at the end of which `callback` is to be called. */
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
