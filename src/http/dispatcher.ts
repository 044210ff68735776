import type { TLSSocket } from 'node:tls'
import { Client, Dispatcher, Pool, type buildConnector, errors } from 'undici'
import { ClosedError, OptionError, toError } from '../base/errors.js'
import { describe, expectBoolean, optional } from '../base/validate.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { upstreamOfHost } from './mesh-url.js'
import type { MeshAccess } from './mesh-access.js'
import { OriginPool } from './origin-pool.js'
import { readPooled } from './pool-options.js'
import { guardDispatch, trackRedirects } from './redirect.js'

/** Those of undici's pool that are not about how a connection is made, which is the mesh's. */
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
    // Neither opens anything before a request.
    void new Pool('https://pool.invalid', pool).close()
    void new Client('https://pool.invalid', pool).close()
  },
}

/** Options of `dispatcher`. */
export interface DispatcherOptions {
  /** Bound on each connection's dial, in milliseconds. @default the service's dialTimeoutMs */
  readonly dialTimeoutMs?: number | undefined
  /**
   * Options of undici's `Pool`, with undici's own names and defaults: one pool for each host.
   * @default `{ connections }` with the service's maxConnectionsPerHost
   */
  readonly pool?: Pick<Pool.Options, (typeof POOL_KEYS)[number]> | undefined
}

/**
 * A dispatcher of undici whose connections are the mesh's: the host of each request's URL names an upstream, and any
 * other host is an error. Every upstream has a pool. When a connection of a pool has become too old, the pool finishes
 * what was asked of it and ends, and the next request begins another.
 */
export class MeshDispatcher extends Dispatcher {
  readonly #access: MeshAccess
  readonly #timeoutMs: number
  readonly #pool: PoolOptions
  readonly #alpnProtocols: readonly string[]
  readonly #pools = new Map<string, OriginPool>()
  /** Those that finish what they have. */
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
    // undici calls the methods of a composed dispatcher on a proxy, which has no private members.
    this.close = this.close.bind(this)
    this.destroy = this.destroy.bind(this)
    this.#alpnProtocols = pool.allowH2 === true ? ['h2', 'http/1.1'] : ['http/1.1']
  }

  /** The origins that have a pool: those with a connection or a request. */
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
    // A pool that has ended by itself meanwhile says so by rejecting.
    await Promise.allSettled([...this.#ending].map(how))
  }

  #poolFor(origin: string): OriginPool {
    const known = this.#pools.get(origin)
    if (known !== undefined) return known
    const { connections, ...options } = this.#pool
    const pool: OriginPool = new OriginPool(origin, {
      // As undici's pool takes it: 0 is no bound.
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

  /** Hosts may come from anywhere: a pool without a connection and without a request is kept no longer. */
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
      // One that began after the end; the others may still connect for those who wait.
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
      // It asks for a socket of node:net, and uses what a MeshSocket has.
      callback(null, socket as unknown as TLSSocket)
    } catch (error) {
      callback(toError(error), null)
    }
  }
}

/**
 * Makes every cut of a connection fail the answer that it cuts short. When an answer says `Connection: close`, undici takes a
 * close without an error for its end, and an error with the code ECONNRESET as well (`onHttpSocketError` in its
 * client-h1.js).
 */
function failCutAnswers(socket: MeshSocket): void {
  const destroy = socket._destroy.bind(socket)
  socket._destroy = (error, callback) => {
    const isCut =
      error === null ? !socket.readableEnded : (error as NodeJS.ErrnoException).code === 'ECONNRESET'
    destroy(isCut ? cutError(error) : error, callback)
  }
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
