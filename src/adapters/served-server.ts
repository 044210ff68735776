import type { Server } from 'node:net'
import { ConnectError, OptionError } from '../base/errors.js'
import type { Listener } from '../transport/listen.js'

const servedServers = new WeakMap<Server, ServedServer>()

/**
 * A server that receives its connections from mesh listeners. Its methods are replaced by ones that apply to these
 * listeners, so that a framework can shut it down, and no port is opened outside the mesh.
 */
export class ServedServer {
  readonly #server: Server
  readonly #close: Server['close']
  readonly #listeners = new Set<Listener>()
  /** The number of pending calls of `serve`. */
  #opening = 0
  /** The original properties of the server; undefined while they are not replaced. */
  #replaced: ReadonlyMap<PropertyKey, PropertyDescriptor | undefined> | undefined
  #wasServed = false
  #closing: Promise<void> | undefined

  static of(server: Server): ServedServer {
    const served = servedServers.get(server) ?? new ServedServer(server)
    servedServers.set(server, served)
    return served
  }

  private constructor(server: Server) {
    this.#server = server
    this.#close = server.close.bind(server)
  }

  /**
   * Replaces the methods of the server, which cannot listen itself from now on.
   * @throws OptionError if the server is listening
   */
  begin(): void {
    if (this.#replaced === undefined && this.#server.listening) {
      const found = 'one that listens already, on a port outside the mesh'
      throw new OptionError('server', 'a server that does not listen: leave out its own listen()', found)
    }
    if (this.#opening === 0 && this.#listeners.size === 0) this.#closing = undefined
    this.#opening += 1
    this.#replaceMethods()
  }

  /** Called if the listener could not be opened. */
  abandon(): void {
    this.#opening -= 1
    if (this.#opening === 0 && !this.#wasServed) this.#restoreMethods()
  }

  /**
   * Called when the listener is open.
   * @throws ConnectError (ERR_CONNECT_CLOSED) if the server was closed before
   */
  attach(listener: Listener): void {
    if (this.#closing !== undefined) {
      throw new ConnectError(
        'ERR_CONNECT_CLOSED',
        'serve: the server was closed before the listener was open',
      )
    }
    this.#wasServed = true
    this.#listeners.add(listener)
    // Frameworks print the address, and node:http starts its header and request timeouts on 'listening'.
    this.#server.emit('listening')
    this.#opening -= 1
  }

  /** Called when the listener has drained. After the last one, the server stops its timers and emits `close`. */
  detach(listener: Listener): void {
    if (!this.#listeners.delete(listener) || this.#listeners.size > 0) return
    // The error ERR_SERVER_NOT_RUNNING is expected: the server itself never listened.
    this.#close(() => undefined)
  }

  #shutDown(): Promise<void> {
    this.#closing ??= Promise.all([...this.#listeners].map((listener) => listener.close())).then(
      () => undefined,
    )
    return this.#closing
  }

  #address(): ReturnType<Server['address']> {
    const addresses = [...this.#listeners].map((listener) => listener.address())
    return addresses.findLast((address) => address !== null) ?? null
  }

  #replaceMethods(): void {
    if (this.#replaced !== undefined) return
    const methods = {
      listen: (): never => {
        const message =
          'listen: the server is served in the mesh; a port of its own would skip its authorization'
        throw new ConnectError('ERR_CONNECT_LISTEN', message)
      },
      close: (callback?: () => void): Server => {
        const onClosed = (): void => callback?.()
        this.#shutDown().then(onClosed, onClosed)
        return this.#server
      },
      address: () => this.#address(),
      [Symbol.asyncDispose]: () => this.#shutDown(),
    }
    const listening = { get: (): boolean => this.#address() !== null }
    const own = new Map<PropertyKey, PropertyDescriptor>([['listening', listening]])
    for (const key of Reflect.ownKeys(methods))
      own.set(key, { value: Reflect.get(methods, key) as unknown, writable: true })
    this.#replaced = new Map(
      [...own.keys()].map((key) => [key, Object.getOwnPropertyDescriptor(this.#server, key)]),
    )
    for (const [key, property] of own)
      Object.defineProperty(this.#server, key, { ...property, configurable: true })
  }

  #restoreMethods(): void {
    for (const [key, property] of this.#replaced ?? []) {
      Reflect.deleteProperty(this.#server, key)
      if (property !== undefined) Object.defineProperty(this.#server, key, property)
    }
    this.#replaced = undefined
  }
}
