import type { TLSSocket } from 'node:tls'
import { Client, Dispatcher, Pool, type buildConnector, errors } from 'undici'
import { ClosedError, OptionError, toError } from '../base/errors.js'
import { describe, expectBoolean, optional } from '../base/options/validate.js'
import { mapDestroyError } from '../sockets/destruction.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { upstreamOfHost } from './mesh-url.js'
import type { MeshAccess } from './mesh-access.js'
import { OriginPool } from './origin-pool.js'
import { readPooled } from './pool-options.js'
import { guardDispatch, trackRedirects } from './redirect.js'

/** The supported options of undici's `Pool`: all but those of the connection, which the mesh makes. */
const POOL_KEYS = [
  'allowH2',
  'bodyTimeout',
  'connections',
  'headersTimeout',
  'keepAliveMaxTimeout',
  'keepAliveTimeout',
  'keepAliveTimeoutThreshold',
  'maxConcurrentStreams',
  'maxHeaderSize',
  'maxRequestsPerClient',
  'maxResponseSize',
  'pipelining',
  'strictContentLength',
] as const

type PoolOptions = NonNullable<DispatcherOptions['pool']>

const UNDICI = {
  owner: 'undici',
  keys: POOL_KEYS,
  tryOut: (pool: PoolOptions): void => {
    optional(expectBoolean)('pool.allowH2', pool.allowH2)
    // Neither opens a connection before the first request.
    void new Pool('https://pool.invalid', pool).close()
    void new Client('https://pool.invalid', pool).close()
  },
}

/** Options of `dispatcher`. */
export interface DispatcherOptions {
  /** Timeout of the dial for each connection, in milliseconds. @default the `dialTimeoutMs` of the service */
  readonly dialTimeoutMs?: number | undefined
  /**
   * Options of undici's `Pool`, with its names and defaults. Each host has a pool.
   * @default `{ connections }`, with the `maxConnectionsPerHost` of the service
   */
  readonly pool?: Pick<Pool.Options, (typeof POOL_KEYS)[number]> | undefined
}

/**
 * An undici dispatcher over the mesh: the host of each URL is an upstream, and any other host is an error. Each
 * upstream has a pool. When a connection reaches the end of its lifetime, its pool completes the pending requests and
 * closes, and the next request creates a new pool.
 */
export class MeshDispatcher extends Dispatcher {
  readonly #access: MeshAccess
  readonly #timeoutMs: number
  readonly #pool: PoolOptions
  readonly #alpnProtocols: readonly string[]
  readonly #pools = new Map<string, OriginPool>()
  /** Pools that complete their pending requests. */
  readonly #ending = new Set<OriginPool>()
  #closing: Promise<void> | undefined
  readonly #destroyed = new AbortController()

  /** @throws OptionError */
  constructor(access: MeshAccess, given: DispatcherOptions = {}) {
    super()
    const { timeoutMs, pool } = readPooled(given, access.dialTimeoutMs, UNDICI)
    this.#access = access
    this.#timeoutMs = timeoutMs
    this.#pool = pool
    // undici calls the methods of a composed dispatcher on a Proxy, which has no private members.
    this.close = this.close.bind(this)
    this.destroy = this.destroy.bind(this)
    this.#alpnProtocols = pool.allowH2 === true ? ['h2', 'http/1.1'] : ['http/1.1']
  }

  /** The origins with a pool: those with a connection or request. */
  get origins(): string[] {
    return [...this.#pools.keys()]
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  get destroyed(): boolean {
    return this.#destroyed.signal.aborted
  }

  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const origin = expectOrigin(options.origin)
    return this.#poolFor(origin).dispatch(options, guardDispatch(options, origin, handler, this.#access))
  }

  override compose(dispatchers: Dispatcher.DispatcherComposeInterceptor[]): Dispatcher.ComposedDispatcher
  override compose(...dispatchers: Dispatcher.DispatcherComposeInterceptor[]): Dispatcher.ComposedDispatcher
  override compose(
    ...interceptors: (Dispatcher.DispatcherComposeInterceptor | Dispatcher.DispatcherComposeInterceptor[])[]
  ): Dispatcher.ComposedDispatcher {
    return super.compose([...interceptors.flat(), trackRedirects])
  }

  override close(): Promise<void>
  override close(callback: () => void): void
  override close(callback?: () => void): Promise<void> | void {
    this.#closing ??= this.#end((pool) => pool.close())
    return settle(this.#closing, callback)
  }

  override destroy(error?: Error | null): Promise<void>
  override destroy(callback: () => void): void
  override destroy(error: Error | null, callback: () => void): void
  override destroy(first?: Error | null | (() => void), second?: () => void): Promise<void> | void {
    const error = typeof first === 'function' ? null : (first ?? null)
    const callback = typeof first === 'function' ? first : second
    this.#destroyed.abort(error)
    this.#closing ??= Promise.resolve()
    const ended = this.#end((pool) => pool.destroy(error ?? new ClosedError('dispatch')))
    return settle(ended, callback)
  }

  async #end(how: (pool: OriginPool) => Promise<void>): Promise<void> {
    for (const pool of this.#pools.values()) this.#ending.add(pool)
    this.#pools.clear()
    // Rejects if the pool has closed in the meantime.
    await Promise.allSettled([...this.#ending].map(how))
  }

  #poolFor(origin: string): OriginPool {
    const known = this.#pools.get(origin)
    if (known !== undefined) return known
    const { connections, ...options } = this.#pool
    const pool: OriginPool = new OriginPool(origin, {
      // As in undici's Pool, 0 means no limit.
      connections:
        connections === 0 || connections === null
          ? Infinity
          : (connections ?? this.#access.maxConnectionsPerHost),
      options,
      connect: (options, callback) => {
        void this.#connect(pool, origin, options, callback)
      },
      onDrain: (url) => this.emit('drain', url),
      onConnect: (url, targets) => this.emit('connect', url, [this, ...targets]),
      onDisconnect: (url, targets, error) => {
        this.#letGo(origin, pool)
        this.emit('disconnect', url, [this, ...targets], error)
      },
      onConnectionError: (url, targets, error) => {
        this.#letGo(origin, pool)
        this.emit('connectionError', url, [this, ...targets], error)
      },
    })
    this.#pools.set(origin, pool)
    return pool
  }

  /** Removes a pool without connections and requests: hosts may come from untrusted input. */
  #letGo(origin: string, pool: OriginPool): void {
    if (pool.isIdle) this.#retire(origin, pool)
  }

  #retire(origin: string, pool: OriginPool): void {
    if (this.#pools.get(origin) !== pool) return
    this.#pools.delete(origin)
    this.#ending.add(pool)
    const forget = (): boolean => this.#ending.delete(pool)
    pool.close().then(forget, forget)
  }

  async #connect(
    pool: OriginPool,
    origin: string,
    { hostname, port }: buildConnector.Options,
    callback: buildConnector.Callback,
  ): Promise<void> {
    const { dial, lifetimes, hosts } = this.#access
    try {
      // A dial after the close; earlier dials may still connect for waiting requests.
      if (this.#closing !== undefined && !this.#ending.has(pool)) throw new ClosedError(`connect ${origin}`)
      const upstream = upstreamOfHost(hostname, port, hosts)
      const socket = await dial(upstream, {
        timeoutMs: this.#timeoutMs,
        signal: this.#destroyed.signal,
        allowHalfOpen: false,
        alpnProtocols: this.#alpnProtocols,
      })
      lifetimes.hold(socket, () => {
        this.#retire(origin, pool)
      })
      if (socket.alpnProtocol !== 'h2') failCutAnswers(socket)
      // undici's types require a net.Socket, but it uses only members of MeshSocket.
      callback(null, socket as unknown as TLSSocket)
    } catch (error) {
      callback(toError(error), null)
    }
  }
}

/**
 * Makes a cut connection fail the response that it truncates. For a response with `Connection: close`, undici treats a
 * close without an error, and an error with the code ECONNRESET, as the end of the response (`onHttpSocketError` in
 * client-h1.js).
 */
function failCutAnswers(socket: MeshSocket): void {
  mapDestroyError(socket, (error) => {
    const isCut =
      error === null ? !socket.readableEnded : (error as NodeJS.ErrnoException).code === 'ECONNRESET'
    return isCut ? cutError(error) : error
  })
}

function cutError(cause: Error | null): Error {
  const error = new errors.SocketError(cause?.message ?? 'the connection was closed')
  return cause === null ? error : Object.assign(error, { cause })
}

/** @throws OptionError */
function expectOrigin(origin: unknown): string {
  if (typeof origin === 'string' || origin instanceof URL) return String(origin)
  throw new OptionError('origin', 'the origin of a URL, such as https://api.service.consul', describe(origin))
}

function settle(promise: Promise<void>, callback: (() => void) | undefined): Promise<void> | void {
  if (callback === undefined) return promise
  void promise.then(callback)
}
