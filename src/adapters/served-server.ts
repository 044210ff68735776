import { Server, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { ConnectError, OptionError } from '../base/errors.js'
import { TCP } from '../sockets/tcp-options.js'
import { connectionOf } from '../transport/connection.js'
import type { AdoptedServer, Listener } from '../transport/inbound/listen.js'
import { type Emit, RequestGate } from './requests/request-gate.js'

const servedServers = new WeakMap<Server, ServedServer>()

/**
 * How a server gets its connections: `served` from listeners with ports of their own, `secured` from one listener that
 * takes over the TCP connections of the port of the server.
 */
export type ServingMode = 'served' | 'secured'

/**
 * A server that receives its connections from mesh listeners. Its methods are replaced by ones that apply to these
 * listeners, so that a framework can shut it down, and no connection reaches it without authorization.
 */
export class ServedServer implements AdoptedServer {
  readonly server: Server
  readonly #close: Server['close']
  readonly #emit: Server['emit']
  /** Decides the requests of an HTTP server; undefined for other servers. */
  readonly gate: RequestGate | undefined
  readonly #listeners = new Set<Listener>()
  #mode: ServingMode | undefined
  /** Receives the TCP connections of a secured server. */
  #accept: ((socket: Socket) => void) | undefined
  /** The number of pending calls of `serve`. */
  #opening = 0
  /** The original properties of the server; undefined while they are not replaced. */
  #replaced: ReadonlyMap<PropertyKey, PropertyDescriptor | undefined> | undefined
  #wasServed = false
  #wasSecured = false
  #closing: Promise<void> | undefined

  static of(server: Server): ServedServer {
    const served = servedServers.get(server) ?? new ServedServer(server)
    servedServers.set(server, served)
    return served
  }

  private constructor(server: Server) {
    this.server = server
    this.#close = server.close.bind(server)
    this.#emit = server.emit.bind(server)
    this.gate = isHttp(server) ? new RequestGate(server, this.#emit as Emit) : undefined
  }

  /**
   * Replaces the methods of the server. A served server cannot listen from now on; a secured one destroys its
   * connections until it has a listener.
   * @throws OptionError if the server is listening, or has a listener that excludes this one
   */
  begin(mode: ServingMode): void {
    if (this.#isBound && (this.#replaced === undefined || mode === 'served')) {
      const expected =
        mode === 'served'
          ? 'a server that does not listen: leave out its own listen()'
          : 'a server that does not listen yet: call its listen() after secure()'
      throw new OptionError('server', expected, 'one that listens already, on a port outside the mesh')
    }
    const isFree = this.#opening === 0 && this.#listeners.size === 0
    if (!isFree && (mode === 'secured' || this.#mode === 'secured')) {
      throw new OptionError('server', 'a server that is not in the mesh yet', `one that is ${this.#mode}`)
    }
    if (isFree) this.#closing = undefined
    this.#opening += 1
    if (this.#mode !== mode) this.#restoreMethods()
    this.#mode = mode
    this.#wasSecured ||= mode === 'secured'
    this.#replaceMethods()
  }

  /**
   * Checks that events of an HTTP server pass the gate: another library may have restored the `emit` that it once replaced.
   * @throws Error
   */
  expectGate(): void {
    if (this.gate === undefined) return
    const probe = { hasArrived: false }
    ;(this.server.emit as Emit).call(this.server, PROBE, probe)
    if (probe.hasArrived) return
    throw new Error(
      'another library has replaced emit of the server, so that its requests would not be decided; load it before serve()',
    )
  }

  /** Rejects a server with connections of an earlier port: they would reach the application without authorization. */
  async expectUnused(): Promise<void> {
    const count = await new Promise<number>((resolve, reject) => {
      this.server.getConnections((error, connections) => {
        if (error === null) resolve(connections)
        else reject(error)
      })
    })
    if (count === 0) return
    throw new OptionError('server', 'a server without connections', `one with ${count} connections`)
  }

  /** Called if the listener could not be opened. A secured server goes on refusing all connections. */
  abandon(): void {
    this.#opening -= 1
    if (this.#opening === 0 && !this.#wasServed && this.#mode === 'served') this.#restoreMethods()
  }

  onConnection(accept: (socket: Socket) => void): void {
    this.#accept = accept
  }

  stopListening(): void {
    if (this.#accept === undefined) return
    this.#accept = undefined
    // Not the method of node:http, which would also end connections that are idle.
    Server.prototype.close.call(this.server)
  }

  /**
   * Called when the listener is open.
   * @throws ConnectError if the server was closed before (ERR_CONNECT_CLOSED), or listens itself (ERR_CONNECT_LISTEN)
   */
  attach(listener: Listener): void {
    if (this.#mode === 'served' && this.#isBound) refuseToListen()
    if (this.#closing !== undefined) {
      throw new ConnectError(
        'ERR_CONNECT_CLOSED',
        'serve: the server was closed before the listener was open',
      )
    }
    this.#wasServed = true
    this.#listeners.add(listener)
    // Frameworks print the address, and node:http starts its header and request timeouts on 'listening'.
    if (this.#mode === 'served') this.#emit('listening')
    this.#opening -= 1
  }

  /** Called when the listener has drained. After the last one, the server stops its timers and emits `close`. */
  detach(listener: Listener): void {
    if (!this.#listeners.delete(listener) || this.#listeners.size > 0 || this.#mode === 'secured') return
    // The error ERR_SERVER_NOT_RUNNING is expected: the server itself never listened.
    this.#close(() => undefined)
  }

  /** Whether the server itself is bound to an address; its own property may be replaced. */
  get #isBound(): boolean {
    return Reflect.get(Server.prototype, 'listening', this.server)
  }

  #shutDown(): Promise<void> {
    this.#closing ??= this.#closeAll().finally(() => {
      // A secured server may listen again.
      if (this.#mode === 'secured' && this.#opening === 0) this.#closing = undefined
    })
    return this.#closing
  }

  async #closeAll(): Promise<void> {
    await Promise.all([...this.#listeners].map((listener) => listener.close()))
    // Without a listener, nothing else has closed the server.
    if (this.#isBound) await new Promise<unknown>((resolve) => this.#close(resolve))
  }

  #address(): ReturnType<Server['address']> {
    const addresses = [...this.#listeners].map((listener) => listener.address())
    return addresses.findLast((address) => address !== null) ?? null
  }

  #replaceMethods(): void {
    if (this.#replaced !== undefined) return
    this.gate?.install()
    const methods = {
      close: (callback?: () => void): Server => {
        const onClosed = (): void => callback?.()
        this.#shutDown().then(onClosed, onClosed)
        return this.server
      },
      [Symbol.asyncDispose]: () => this.#shutDown(),
      ...(this.#mode === 'served' && { listen: refuseToListen, address: () => this.#address() }),
      ...((this.#mode === 'secured' || this.gate !== undefined) && { emit: this.#intercept }),
    }
    const own = new Map<PropertyKey, PropertyDescriptor>()
    if (this.#mode === 'served') own.set('listening', { get: () => this.#address() !== null })
    for (const key of Reflect.ownKeys(methods))
      own.set(key, { value: Reflect.get(methods, key) as unknown, writable: true })
    this.#replaced = new Map(
      [...own.keys()].map((key) => [key, Object.getOwnPropertyDescriptor(this.server, key)]),
    )
    for (const [key, property] of own)
      Object.defineProperty(this.server, key, { ...property, configurable: true })
    for (const event of GUARDED) {
      this.server.off(event, destroyForeign)
      this.server.prependListener(event, destroyForeign)
    }
  }

  /**
   * Replaces `emit` of the server. The requests of an HTTP server pass the gate; the TCP connections of a secured server go to
   * the listener.
   */
  readonly #intercept = (event: string | symbol, ...args: unknown[]): boolean => {
    if (event === PROBE) {
      Object.assign(args[0] as object, { hasArrived: true })
      return true
    }
    const socket = args[0] as Socket
    const isForeign = event === 'connection' && connectionOf(socket) === undefined
    if (this.#mode !== 'secured' || !isForeign) {
      return this.gate === undefined ? this.#emit(event, ...args) : this.gate.deliver(event, args)
    }
    if (this.#accept === undefined || !(socket instanceof Socket)) socket.destroy()
    else {
      // As for a server of the listener; node:http sets allowHalfOpen.
      socket.allowHalfOpen = false
      socket.setNoDelay(TCP.noDelay).setKeepAlive(TCP.keepAlive, TCP.keepAliveInitialDelay)
      this.#accept(socket)
    }
    return true
  }

  #restoreMethods(): void {
    this.gate?.uninstall()
    for (const [key, property] of this.#replaced ?? []) {
      Reflect.deleteProperty(this.server, key)
      if (property !== undefined) Object.defineProperty(this.server, key, property)
    }
    // A server that was secured may be bound: it goes on destroying connections.
    if (!this.#wasSecured) for (const event of GUARDED) this.server.off(event, destroyForeign)
    this.#replaced = undefined
  }
}

/** Whether a server is one of node:http, node:https, or node:http2. */
function isHttp(server: Server): boolean {
  return 'closeIdleConnections' in server || 'updateSettings' in server
}

/** An event that only shows which way events take. */
const PROBE = Symbol('probe')

/** The events with which connections are passed to a server. */
const GUARDED = ['connection', 'secureConnection'] as const

/** Destroys a connection that no listener of the mesh has admitted: another library may have replaced `emit` again. */
function destroyForeign(socket: Duplex): void {
  if (connectionOf(socket) === undefined) socket.destroy()
}

function refuseToListen(): never {
  const message = 'listen: the server is served in the mesh; a port of its own would skip its authorization'
  throw new ConnectError('ERR_CONNECT_LISTEN', message)
}
