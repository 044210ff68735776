import { isDeepStrictEqual } from 'node:util'
import type { Dispatcher } from 'undici'
import { ClosedError, DialError, toError } from '../base/errors.js'
import { withoutQuery } from '../matching/target.js'
import type { ActiveUpstream } from '../resolve/active-upstream.js'
import type { ServiceChain } from '../resolve/chain/service-resolver.js'
import type { Routes } from '../resolve/chain/routes.js'
import type { Endpoint } from '../resolve/resolver.js'
import type { UpstreamLease } from '../resolve/upstream-registry.js'
import type { MeshAccess } from './mesh-access.js'
import type { OriginPool } from './origin-pool.js'
import { classicHandler } from './routes/classic-handler.js'
import { RequestHead } from './routes/request-head.js'
import { RequestLeg } from './routes/request-leg.js'
import { RouteTable, unrouted } from './routes/route-table.js'
import { type RequestContext, RoutedRequest, type Destination } from './routes/routed-request.js'

export interface OriginSettings {
  /** Called when there are no connections and no requests. */
  readonly onIdle: () => void
  readonly access: MeshAccess
  readonly dialTimeoutMs: number
  /**
   * Creates a pool for connections to an upstream.
   * @param preferred - the endpoint of its connections, if it can be reached. @default any
   */
  readonly newPool: (upstream: ActiveUpstream, preferred?: Endpoint) => OriginPool
}

interface Routing {
  readonly routes: Routes
  readonly table: RouteTable
}

/**
 * The requests to one origin. If the chain of the service has routes, each request gets a leg and an instance, and each
 * instance has its own pool. Otherwise all requests share one pool.
 */
export class MeshOrigin {
  readonly #settings: OriginSettings
  readonly #lease: UpstreamLease
  readonly #context: RequestContext
  /** The pools that accept requests. */
  readonly #open = new Set<OriginPool>()
  /** The pool for all instances. */
  #shared: OriginPool | undefined
  /** By the keys of their nodes. */
  readonly #legs = new Map<string, RequestLeg>()
  /** Pools that complete their pending requests. */
  readonly #ending = new Set<OriginPool>()
  #routing: Routing | undefined
  readonly #routed = new Set<RoutedRequest>()
  /** The endpoints by which the connections of the shared pool were last checked. */
  #checked: readonly Endpoint[] | undefined
  /** The number of requests that wait until the chain is known. */
  #waiting = 0
  #onSettled: (() => void) | undefined
  readonly #destroyed = new AbortController()

  constructor(lease: UpstreamLease, settings: OriginSettings) {
    this.#lease = lease
    this.#settings = settings
    this.#context = {
      name: lease.resolver.name,
      time: settings.access.time,
      send: (leg, endpoint, ...what) => {
        const pool = leg.poolOf(endpoint)
        pool.dispatch(...what)
        this.#retireUnused(pool)
      },
      reroute: ({ options, destination }) =>
        lease.service?.chain()?.routes === destination.routes ? undefined : this.#destinationLater(options),
      onEnded: (request) => {
        this.#routed.delete(request)
        this.#settled()
      },
    }
  }

  /** Whether there are no connections and no requests. */
  get isIdle(): boolean {
    return this.#pending === 0 && [...this.#open].every((pool) => pool.isIdle)
  }

  get #pending(): number {
    return this.#waiting + this.#routed.size
  }

  /** Whether a pool may still connect for its requests. */
  mayConnect(pool: OriginPool): boolean {
    return this.#ending.has(pool) || this.#open.has(pool)
  }

  /** @returns whether another request can be sent at once */
  dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const chain = this.#lease.service?.chain()
    if (this.#lease.service === undefined || (chain !== undefined && this.#isPrepared(chain))) {
      return this.#dispatchAlong(chain?.routes, options, handler)
    }
    void this.#dispatchLater(options, handler)
    return true
  }

  /** Makes the next request check where the connections lead. Called after each new connection. */
  connected(): void {
    this.#checked = undefined
  }

  /** Removes a pool: it completes its pending requests, and the next request creates a new one. */
  retire(pool: OriginPool): void {
    this.#open.delete(pool)
    if (this.#shared === pool) this.#shared = undefined
    for (const leg of this.#legs.values()) leg.forget(pool)
    if (this.#ending.has(pool)) return
    this.#ending.add(pool)
    const forget = (): boolean => this.#ending.delete(pool)
    pool.close().then(forget, forget)
  }

  /** Waits for all requests. */
  async close(): Promise<void> {
    if (this.#pending > 0) await new Promise<void>((resolve) => (this.#onSettled = resolve))
    await this.#end((pool) => pool.close())
  }

  /** Fails all requests. */
  async destroy(error: Error): Promise<void> {
    this.#destroyed.abort(error)
    for (const request of [...this.#routed]) {
      try {
        request.fail(error)
      } catch (thrown) {
        // An error of the application must not keep the other requests open.
        queueMicrotask(() => {
          throw thrown
        })
      }
    }
    await this.#end((pool) => pool.destroy(error))
  }

  async #end(how: (pool: OriginPool) => Promise<void>): Promise<void> {
    for (const pool of this.#open) this.#ending.add(pool)
    this.#open.clear()
    this.#shared = undefined
    this.#legs.clear()
    // Rejects if the pool has closed in the meantime.
    await Promise.allSettled([...this.#ending].map(how))
    this.#lease.release()
  }

  async #dispatchLater(
    options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): Promise<void> {
    this.#waiting += 1
    try {
      this.#dispatchAlong(await this.#readRoutes(options), options, handler)
    } catch (error) {
      classicHandler(handler).onError(toError(error))
    } finally {
      this.#waiting -= 1
      this.#settled()
    }
  }

  /** Reads the routes of the service, and prepares them. */
  async #readRoutes({
    signal,
  }: Dispatcher.DispatchOptions & { readonly signal?: unknown }): Promise<Routes | undefined> {
    const { access, dialTimeoutMs } = this.#settings
    const { service } = this.#lease
    if (service === undefined) throw new ClosedError('request')
    const signals =
      signal instanceof AbortSignal ? [signal, this.#destroyed.signal] : [this.#destroyed.signal]
    const bounds = { signal: AbortSignal.any(signals), timeoutMs: dialTimeoutMs }
    const chain = await access.readChain(service, bounds)
    // Other requests may have prepared older or newer routes in the meantime.
    while (!this.#isPrepared(chain)) await this.#prepare(chain)
    if (this.#destroyed.signal.aborted) throw toError(this.#destroyed.signal.reason)
    return chain.routes
  }

  #isPrepared({ routes }: ServiceChain): boolean {
    return routes === undefined || this.#routing?.routes === routes
  }

  /** Compiles the routes, unless they are the same as before. Another request may compile others in the meantime. */
  async #prepare({ routes }: ServiceChain): Promise<void> {
    if (routes === undefined) return
    const before = this.#routing
    if (before !== undefined && isDeepStrictEqual(before.routes, routes)) {
      this.#routing = { ...before, routes }
      return
    }
    const table = await RouteTable.compile(routes, (problem) =>
      this.#lease.service?.reportUnsupported(problem),
    )
    if (this.#routing === before) this.#routing = { routes, table }
  }

  /** @param routes - the ones that are prepared; undefined for a service without routes */
  #dispatchAlong(
    routes: Routes | undefined,
    options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): boolean {
    if (routes !== undefined && this.#routing !== undefined) {
      this.#route(this.#routing, options, handler)
      return true
    }
    if (this.#shared !== undefined) this.#retireOutdated(this.#shared)
    const pool = (this.#shared ??= this.#newPool(this.#lease))
    const isFree = pool.dispatch(options, handler)
    this.#retireUnused(pool)
    return isFree
  }

  /** Stops the use of connections to instances that requests no longer go to. */
  #retireOutdated(pool: OriginPool): void {
    const { resolver, balancer } = this.#lease
    const endpoints = resolver.known?.()
    // A failover may become unnecessary without a change of the endpoints.
    if (endpoints === undefined || (endpoints === this.#checked && !pool.hasFailover)) return
    this.#checked = endpoints
    pool.retireUnless((endpoint) => balancer.mayUse(endpoint, endpoints))
  }

  #route(routing: Routing, options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    let request: RoutedRequest | undefined
    const classic = classicHandler(handler)
    try {
      request = new RoutedRequest(this.#context, options, classic, this.#destinationOf(routing, options))
      this.#routed.add(request)
      request.start()
    } catch (error) {
      if (request === undefined) classic.onError(toError(error))
      else request.fail(toError(error))
    }
  }

  /** @throws DialError with ERR_CONNECT_CHAIN */
  #destinationOf({ table, routes }: Routing, options: Dispatcher.DispatchOptions): Destination {
    const head = new RequestHead(options)
    const decision = table.decide(head, this.#settings.access.time.random)
    if (decision !== undefined) return { decision, leg: this.#legOf(decision.legKey), routes }
    const message = `no route of its discovery chain matches ${head.method} ${withoutQuery(head.path)}`
    throw new DialError('ERR_CONNECT_CHAIN', this.#lease.resolver.name, message)
  }

  /** Reads the routes, and decides by them. */
  async #destinationLater(options: Dispatcher.DispatchOptions): Promise<Destination> {
    const routes = await this.#readRoutes(options)
    if (routes !== undefined && this.#routing !== undefined)
      return this.#destinationOf(this.#routing, options)
    const leg = this.#legs.get(UNROUTED) ?? this.#newLeg(this.#lease)
    this.#legs.set(UNROUTED, leg)
    return { decision: unrouted(new RequestHead(options)), leg, routes: undefined }
  }

  /** Returns the leg for a key. Keeps its pools while its upstream is unchanged. */
  #legOf(key: string): RequestLeg {
    const { service } = this.#lease
    if (service === undefined) throw new ClosedError('request')
    const upstream = service.legUpstream(key)
    const known = this.#legs.get(key)
    if (known?.upstream === upstream) return known
    for (const pool of [...(known?.pools ?? [])]) this.retire(pool)
    const leg = this.#newLeg(upstream)
    this.#legs.set(key, leg)
    return leg
  }

  #newLeg(upstream: ActiveUpstream): RequestLeg {
    const { access, dialTimeoutMs } = this.#settings
    const bounds = { signal: this.#destroyed.signal, timeoutMs: dialTimeoutMs }
    return new RequestLeg(upstream, {
      resolve: () => access.resolve(upstream, bounds),
      newPool: (endpoint) => this.#newPool(upstream, endpoint),
    })
  }

  #newPool(upstream: ActiveUpstream, preferred?: Endpoint): OriginPool {
    const pool = this.#settings.newPool(upstream, preferred)
    this.#open.add(pool)
    return pool
  }

  /** Removes a pool whose first request was refused before it connected. */
  #retireUnused(pool: OriginPool): void {
    if (pool.isUnused) this.retire(pool)
  }

  #settled(): void {
    if (this.#pending > 0) return
    this.#onSettled?.()
    // Otherwise the pools report the end of their connections.
    if (this.#open.size === 0) this.#settings.onIdle()
  }
}

/** The key of the leg for requests whose routes have vanished before they were sent. */
const UNROUTED = ''
