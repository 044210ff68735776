import { Client, type Dispatcher, type buildConnector, type errors } from 'undici'
import { toError } from '../base/errors.js'
import { classicHandler } from './routes/classic-handler.js'
import type { Endpoint } from '../resolve/resolver.js'
import { resetError } from '../sockets/network-errors.js'

export interface OriginPoolSettings {
  /** Upper bound on the connections. */
  readonly connections: number
  readonly options: Omit<Client.Options, 'connect'>
  /** Connects a client. @param onPlace - to be called with the endpoint of the connection */
  readonly connect: (
    options: buildConnector.Options,
    callback: buildConnector.Callback,
    onPlace: (endpoint: Endpoint) => void,
  ) => void
  /** Called when the pool can send another request at once. */
  readonly onDrain: (url: URL) => void
  readonly onConnect: (url: URL, targets: readonly Dispatcher[]) => void
  readonly onDisconnect: (url: URL, targets: readonly Dispatcher[], error: errors.UndiciError) => void
  readonly onConnectionError: (url: URL, targets: readonly Dispatcher[], error: errors.UndiciError) => void
}

interface Waiting {
  readonly options: Dispatcher.DispatchOptions
  readonly handler: Dispatcher.DispatchHandler
  readonly stopListening: () => void
}

/**
 * A bounded pool of undici clients for one origin. undici's `Pool` keeps using an HTTP/2 client after its session has
 * ended, and the client reconnects while events of the old session still arrive: an uncaught TypeError or
 * AssertionError (undici 7.30). Here an HTTP/2 client has one connection, and is closed with it.
 */
export class OriginPool {
  readonly #origin: string
  readonly #settings: OriginPoolSettings
  /** Clients that accept requests. */
  readonly #clients = new Set<Client>()
  readonly #busy = new WeakSet<Client>()
  /** Clients that complete their pending requests. */
  readonly #ending = new Set<Client>()
  /** The endpoints of connections. */
  readonly #places = new WeakMap<Client, Endpoint>()
  readonly #queue = new Set<Waiting>()
  #isClosing = false
  /** Whether a client has begun to connect; its events tell when the pool is idle. */
  #hasConnected = false
  #onEmptyQueue: (() => void) | undefined

  constructor(origin: string, settings: OriginPoolSettings) {
    this.#origin = origin
    this.#settings = settings
  }

  /** Whether there are no connections and no requests. */
  get isIdle(): boolean {
    if (this.#queue.size > 0) return false
    return [...this.#clients].every(
      ({ stats: { connected, pending, running } }) => !connected && pending + running === 0,
    )
  }

  /** Whether no request has made it connect. */
  get isUnused(): boolean {
    return !this.#hasConnected && this.isIdle
  }

  /** Whether a connection leads to an endpoint of a failover. */
  get hasFailover(): boolean {
    for (const client of this.#clients) if ((this.#places.get(client)?.priority ?? 0) > 0) return true
    return false
  }

  /** Stops the use of connections to other endpoints. Their pending requests complete. */
  retireUnless(mayUse: (endpoint: Endpoint) => boolean): void {
    for (const client of [...this.#clients]) {
      const endpoint = this.#places.get(client)
      if (endpoint !== undefined && !mayUse(endpoint)) this.#retire(client)
    }
  }

  /** @returns whether the pool can send another request at once */
  dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const client = this.#freeClient()
    if (client === undefined) this.#wait(options, handler)
    else this.#dispatchTo(client, options, handler)
    return this.#hasRoom()
  }

  /** Waits for all requests. */
  async close(): Promise<void> {
    this.#isClosing = true
    if (this.#queue.size > 0) await new Promise<void>((resolve) => (this.#onEmptyQueue = resolve))
    await Promise.allSettled([...this.#clients, ...this.#ending].map((client) => client.close()))
  }

  /** Fails all requests. */
  async destroy(error: Error): Promise<void> {
    this.#isClosing = true
    this.#failQueue(error)
    await Promise.allSettled([...this.#clients, ...this.#ending].map((client) => client.destroy(error)))
  }

  #hasRoom(): boolean {
    if (this.#clients.size < this.#settings.connections) return true
    return [...this.#clients].some((client) => !this.#busy.has(client))
  }

  #freeClient(): Client | undefined {
    for (const client of this.#clients) if (!this.#busy.has(client)) return client
    return this.#clients.size < this.#settings.connections ? this.#newClient() : undefined
  }

  #dispatchTo(
    client: Client,
    options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): void {
    if (!client.dispatch(options, handler)) this.#busy.add(client)
  }

  #newClient(): Client {
    const { options, connect, onConnect, onDisconnect, onConnectionError } = this.#settings
    let isHttp2 = false
    const client: Client = new Client(this.#origin, {
      ...options,
      connect: (to, callback) => {
        // Fails the requests of the session: they may have been processed.
        this.#hasConnected = true
        if (isHttp2) callback(resetError('the HTTP/2 session ended before the response'), null)
        else {
          const onConnected: buildConnector.Callback = (...result) => {
            isHttp2 = (result[1] as { alpnProtocol?: unknown } | null)?.alpnProtocol === 'h2'
            callback(...result)
          }
          connect(to, onConnected, (endpoint) => this.#places.set(client, endpoint))
        }
      },
    })
    this.#clients.add(client)
    client.on('connect', (url, targets) => {
      onConnect(url, targets)
    })
    client.on('drain', () => {
      this.#busy.delete(client)
      this.#dispatchWaiting()
    })
    client.on('disconnect', (url, targets, error) => {
      if (isHttp2) this.#retire(client)
      onDisconnect(url, targets, error)
    })
    client.on('connectionError', (url, targets, error) => {
      // undici also emits this at the end of an HTTP/2 session.
      if (!this.#retire(client)) return
      const isConnected = [...this.#clients].some(({ stats }) => stats.connected)
      if (!isConnected) this.#failQueue(error)
      onConnectionError(url, targets, error)
    })
    return client
  }

  /** @returns whether the client accepted requests before */
  #retire(client: Client): boolean {
    if (!this.#clients.delete(client)) return false
    this.#ending.add(client)
    const forget = (): boolean => this.#ending.delete(client)
    // undici calls this while it changes the state of the client.
    queueMicrotask(() => {
      client.close().then(forget, forget)
      this.#dispatchWaiting()
    })
    return true
  }

  #wait(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    const { signal } = options as { readonly signal?: unknown }
    const isSignal = signal instanceof AbortSignal
    const onAbort = (): void => {
      this.#take(waiting)
      classicHandler(handler).onError(toError((signal as AbortSignal).reason))
    }
    const waiting: Waiting = {
      options,
      handler,
      stopListening: () => {
        if (isSignal) signal.removeEventListener('abort', onAbort)
      },
    }
    this.#queue.add(waiting)
    if (!isSignal) return
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
  }

  #take(waiting: Waiting): void {
    this.#queue.delete(waiting)
    waiting.stopListening()
    if (this.#queue.size === 0) this.#onEmptyQueue?.()
  }

  #dispatchWaiting(): void {
    for (const waiting of this.#queue) {
      const client = this.#freeClient()
      if (client === undefined) return
      this.#take(waiting)
      this.#dispatchTo(client, waiting.options, waiting.handler)
    }
    if (!this.#isClosing && this.#hasRoom()) this.#settings.onDrain(new URL(this.#origin))
  }

  #failQueue(error: Error): void {
    for (const waiting of [...this.#queue]) {
      this.#take(waiting)
      classicHandler(waiting.handler).onError(error)
    }
  }
}
