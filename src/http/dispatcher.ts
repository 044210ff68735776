import { EventEmitter } from 'node:events'
import type { TLSSocket } from 'node:tls'
import { Client, Dispatcher, Pool, errors } from 'undici'
import { ClosedError, OptionError, toError } from '../base/errors.js'
import { describe, expectBoolean, optional } from '../base/options/validate.js'
import { mapDestroyError } from '../sockets/destruction.js'
import type { ActiveUpstream } from '../resolve/active-upstream.js'
import { endpointKey } from '../resolve/balancing/balancer.js'
import type { Endpoint } from '../resolve/resolver.js'
import type { Dialed } from '../transport/outbound/dial-race.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { upstreamOfHost } from './mesh-url.js'
import type { MeshAccess } from './mesh-access.js'
import { MeshOrigin } from './mesh-origin.js'
import { OriginPool } from './origin-pool.js'
import { readPooled } from './pool-options.js'
import { guardDispatch, trackRedirects } from './redirect.js'
import { classicHandler } from './routes/classic-handler.js'

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
 * An undici dispatcher over the mesh: the host of each URL is an upstream, and any other host is an error. An upstream
 * has a pool, or one for each instance if its requests follow routes. When a connection reaches the end of its lifetime,
 * its pool completes the pending requests and closes, and the next request creates a new pool.
 */
export class MeshDispatcher extends Dispatcher {
  readonly #access: MeshAccess
  readonly #timeoutMs: number
  readonly #pool: PoolOptions
  readonly #alpnProtocols: readonly string[]
  readonly #origins = new Map<string, MeshOrigin>()
  /** Origins that complete their pending requests. */
  readonly #ending = new Set<MeshOrigin>()
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

  /** The origins with a connection or request. */
  get origins(): string[] {
    return [...this.#origins.keys()]
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  get destroyed(): boolean {
    return this.#destroyed.signal.aborted
  }

  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const url = expectOrigin(options.origin)
    if (!('onError' in handler || 'onResponseError' in handler)) {
      throw new errors.InvalidArgumentError('invalid onError method')
    }
    const guarded = guardDispatch(options, url, handler, this.#access)
    try {
      if (this.#closing !== undefined) throw new ClosedError(`connect ${url}`)
      return this.#originOf(url).dispatch(options, guarded)
    } catch (thrown) {
      const error = toError(thrown)
      queueMicrotask(() => {
        // undici declares the type of its own errors.
        EventEmitter.prototype.emit.call(this, 'connectionError', new URL(url), [this], error)
        classicHandler(guarded).onError(error)
      })
      return true
    }
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
    this.#closing ??= this.#end((origin) => origin.close())
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
    const ended = this.#end((origin) => origin.destroy(error ?? new ClosedError('dispatch')))
    return settle(ended, callback)
  }

  async #end(how: (origin: MeshOrigin) => Promise<void>): Promise<void> {
    const ending = [...this.#origins.values(), ...this.#ending]
    for (const origin of ending) this.#ending.add(origin)
    this.#origins.clear()
    // Rejects if a pool has closed in the meantime.
    await Promise.allSettled(ending.map(how))
  }

  /** @throws HostError, OptionError */
  #originOf(url: string): MeshOrigin {
    const given = this.#origins.get(url)
    if (given !== undefined) return given
    const { hostname, port, origin: key, pathname, search, hash } = new URL(url)
    if (pathname !== '/' || search !== '' || hash !== '')
      throw new OptionError('origin', ORIGIN, describe(url))
    const known = this.#origins.get(key)
    if (known !== undefined) return known
    const lease = this.#access.lease(upstreamOfHost(hostname, port, this.#access.hosts))
    const origin: MeshOrigin = new MeshOrigin(lease, {
      access: this.#access,
      dialTimeoutMs: this.#timeoutMs,
      onIdle: () => {
        this.#letGo(key, origin)
      },
      newPool: (upstream, preferred) => this.#newPool(key, origin, upstream, preferred),
    })
    this.#origins.set(key, origin)
    return origin
  }

  #newPool(url: string, origin: MeshOrigin, upstream: ActiveUpstream, preferred?: Endpoint): OriginPool {
    const { connections, ...options } = this.#pool
    const onEnded = (): void => {
      if (pool.isIdle) origin.retire(pool)
      this.#letGo(url, origin)
    }
    const pool: OriginPool = new OriginPool(url, {
      // As in undici's Pool, 0 means no limit.
      connections:
        connections === 0 || connections === null
          ? Infinity
          : (connections ?? this.#access.maxConnectionsPerHost),
      options,
      connect: (_options, callback, onPlace) => {
        this.#connect(origin, pool, upstream, preferred).then(
          ({ socket, endpoint }) => {
            onPlace(endpoint)
            origin.connected()
            // undici's types require a net.Socket, but it uses only members of MeshSocket.
            callback(null, socket as unknown as TLSSocket)
          },
          (error: unknown) => {
            callback(toError(error), null)
          },
        )
      },
      onDrain: (origin) => this.emit('drain', origin),
      onConnect: (origin, targets) => this.emit('connect', origin, [this, ...targets]),
      onDisconnect: (at, targets, error) => {
        onEnded()
        this.emit('disconnect', at, [this, ...targets], error)
      },
      onConnectionError: (at, targets, error) => {
        onEnded()
        this.emit('connectionError', at, [this, ...targets], error)
      },
    })
    return pool
  }

  /** Removes an origin without connections and requests: hosts may come from untrusted input. */
  #letGo(url: string, origin: MeshOrigin): void {
    if (!origin.isIdle || this.#origins.get(url) !== origin) return
    this.#origins.delete(url)
    this.#ending.add(origin)
    const forget = (): boolean => this.#ending.delete(origin)
    origin.close().then(forget, forget)
  }

  async #connect(
    origin: MeshOrigin,
    pool: OriginPool,
    upstream: ActiveUpstream,
    preferred: Endpoint | undefined,
  ): Promise<Dialed> {
    const { dial, lifetimes } = this.#access
    // A dial after the close; earlier dials may still connect for waiting requests.
    if (this.#closing !== undefined && !origin.mayConnect(pool))
      throw new ClosedError(`connect ${upstream.resolver.name}`)
    const dialed = await dial(upstream, {
      timeoutMs: this.#timeoutMs,
      signal: this.#destroyed.signal,
      allowHalfOpen: false,
      alpnProtocols: this.#alpnProtocols,
      preferred,
    })
    const { socket, endpoint } = dialed
    lifetimes.hold(socket, () => {
      origin.retire(pool)
    })
    // Further requests that choose this instance try it again.
    if (preferred !== undefined && endpointKey(endpoint) !== endpointKey(preferred)) origin.retire(pool)
    if (socket.alpnProtocol !== 'h2') failCutAnswers(socket)
    return dialed
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
  throw new OptionError('origin', ORIGIN, describe(origin))
}

const ORIGIN = 'the origin of a URL, such as https://api.service.consul'

function settle(promise: Promise<void>, callback: (() => void) | undefined): Promise<void> | void {
  if (callback === undefined) return promise
  void promise.then(callback)
}
