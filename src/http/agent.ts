import {
  Agent,
  type AgentOptions as NodeAgentOptions,
  type ClientRequest,
  type ClientRequestArgs,
} from 'node:http'
import type { Agent as HttpsAgent, AgentOptions as HttpsAgentOptions } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { responseOn } from '../base/node-internals.js'
import { ClosedError, toError } from '../base/errors.js'
import type { Endpoint } from '../resolve/resolver.js'
import type { UpstreamLease } from '../resolve/upstream-registry.js'
import { MeshDispatcher } from './dispatcher.js'
import { upstreamOfHost } from './mesh-url.js'
import type { MeshAccess } from './mesh-access.js'
import { readPooled } from './pool-options.js'
import { guardRequest } from './redirect.js'
import { RequestBridge } from './request-bridge.js'
import { MeshStream, type StreamSocket } from '../adapters/stream.js'

const POOL_KEYS = [
  'keepAlive',
  'keepAliveMsecs',
  'maxFreeSockets',
  'maxSockets',
  'maxTotalSockets',
  'scheduling',
  'timeout',
] as const

type PoolOptions = NonNullable<HttpAgentOptions['pool']>

const NODE = {
  owner: 'http.Agent',
  keys: POOL_KEYS,
  tryOut: (pool: PoolOptions): void => {
    new Agent(pool).destroy()
  },
}

/** Options of `httpAgent`. */
export interface HttpAgentOptions {
  /** Timeout of the dial for each connection, in milliseconds. @default the `dialTimeoutMs` of the service */
  readonly dialTimeoutMs?: number | undefined
  /**
   * Options of `http.Agent`, with its names and defaults.
   * @default `{ keepAlive: true, maxSockets }`, with the `maxConnectionsPerHost` of the service
   */
  readonly pool?: Pick<NodeAgentOptions, (typeof POOL_KEYS)[number]> | undefined
}

/** An `http.Agent` that TypeScript accepts as an `https.Agent` too: got and others have separate types. */
export type MeshHttpAgent = Agent & Pick<HttpsAgent, 'getName' | 'options'>

/** The method by which Node.js passes requests to an agent; undocumented, but widely overridden. */
interface RequestTaker {
  readonly addRequest: (this: Agent, request: ClientRequest, options: ConnectionOptions) => void
}

/** Where a connection leads: to an endpoint, or along the routes of the service. */
interface Place {
  readonly lease: UpstreamLease
  readonly to: Endpoint | 'routes'
}

/** An upstream in use. */
interface Host {
  readonly lease: UpstreamLease
  streams: number
}

/** The options that Node.js passes to `createConnection`. */
type ConnectionOptions = ClientRequestArgs & { readonly socketPath?: string | undefined }

/**
 * An `http.Agent` over the mesh: the host of each request is an upstream, and any other host is an error. It works with
 * `http.request` and `https.request`. Connections close to the end of their lifetime are not reused.
 */
export class HttpAgent extends Agent {
  /** No scheme of its own, so that node:http and node:https accept the agent. */
  declare protocol: string | undefined
  declare options: HttpsAgentOptions
  readonly #access: MeshAccess
  readonly #timeoutMs: number
  readonly #retired = new WeakSet<Duplex>()
  readonly #places = new WeakMap<Duplex, Place>()
  readonly #hosts = new Map<string, Host>()
  readonly #closed = new AbortController()
  /** For requests that follow routes, with the open connections to it. */
  #bridge: { readonly dispatcher: MeshDispatcher; readonly requests: RequestBridge } | undefined
  readonly #bridged = new Set<Duplex>()

  /** @throws OptionError */
  constructor(access: MeshAccess, given: HttpAgentOptions = {}) {
    const { timeoutMs, pool } = readPooled(given, access.dialTimeoutMs, NODE)
    super({ keepAlive: true, ...pool, maxSockets: pool.maxSockets ?? access.maxConnectionsPerHost })
    this.#access = access
    this.#timeoutMs = timeoutMs
    this.protocol = undefined
    // Before the listener of Node.js, which passes the connection to the next request.
    this.prependListener('free', (stream: MeshStream) => {
      const isClosed = this.#closed.signal.aborted && !stream.connecting
      if (isClosed || this.#retired.has(stream) || !this.#isCurrent(stream)) stream.destroy()
    })
  }

  /**
   * Called by Node.js for each request, before it looks for a connection.
   * @internal
   */
  addRequest(request: ClientRequest, options: ConnectionOptions): void {
    try {
      guardRequest(request, this.#access)
    } catch (error) {
      // The request receives the error of a failed dial.
      const stream = new MeshStream(false, () => Promise.reject(toError(error)))
      request.onSocket(stream.connect() as unknown as Socket)
      return
    }
    const { addRequest }: RequestTaker = Agent.prototype as Agent & RequestTaker
    const service = this.#hosts.get(hostOf(options))?.lease.service
    if (service === undefined || service.chain() !== undefined) {
      this.#dropOutdated(options)
      addRequest.call(this, request, options)
      return
    }
    // The chain has changed. If it cannot be read soon, the last one stays in use.
    const bounds = { signal: this.#closed.signal, timeoutMs: this.#timeoutMs }
    const reading = this.#access.readChain(service, bounds).catch(() => undefined)
    void reading.then(() => {
      this.#dropOutdated(options)
      addRequest.call(this, request, options)
    })
  }

  /**
   * Returns a stream synchronously, which dials. Node.js counts it towards its limits and destroys it with its request;
   * a socket that is passed to a callback later would not be counted, and its failure would leave waiting requests
   * pending.
   */
  override createConnection(options: ConnectionOptions): MeshStream {
    const stream: MeshStream = new MeshStream(false, (signal) => this.#connect(stream, options, signal))
    // Node.js treats a response without a length or chunks as complete when its connection breaks.
    stream.once('error', (error) => responseOn(stream)?.destroy(error))
    return stream.connect()
  }

  async #connect(stream: MeshStream, options: ConnectionOptions, signal: AbortSignal): Promise<StreamSocket> {
    const host = hostOf(options)
    if (this.#closed.signal.aborted) throw new ClosedError(`connect ${host}`)
    const { lease } = this.#hold(host, options.port, stream)
    const endsAt = performance.now() + this.#timeoutMs
    const bounds = { signal, timeoutMs: this.#timeoutMs }
    const { service } = lease
    const chain = service === undefined ? undefined : await this.#access.readChain(service, bounds)
    if (chain?.routes !== undefined) {
      this.#places.set(stream, { lease, to: 'routes' })
      return this.#openBridge(stream, host)
    }
    const { socket, endpoint } = await this.#access.dial(lease, {
      signal,
      timeoutMs: Math.max(1, endsAt - performance.now()),
      allowHalfOpen: true,
      alpnProtocols: ['http/1.1'],
    })
    this.#places.set(stream, { lease, to: endpoint })
    this.#access.lifetimes.hold(socket, () => {
      this.#retire(stream)
    })
    return socket
  }

  /** Keeps the upstream of a host in use until the stream is closed. */
  #hold(host: string, port: ConnectionOptions['port'], stream: MeshStream): Host {
    const upstream = upstreamOfHost(host, port, this.#access.hosts)
    const held = this.#hosts.get(host) ?? { lease: this.#access.lease(upstream), streams: 0 }
    this.#hosts.set(host, held)
    held.streams += 1
    stream.once('close', () => {
      held.streams -= 1
      if (held.streams > 0) return
      held.lease.release()
      this.#hosts.delete(host)
    })
    return held
  }

  /** Closes idle connections to instances that requests no longer go to. */
  #dropOutdated(options: ConnectionOptions): void {
    for (const stream of this.freeSockets[this.getName(options)] ?? []) {
      if (!this.#isCurrent(stream)) this.#retire(stream)
    }
  }

  /** Whether further requests may use a connection. */
  #isCurrent(stream: Duplex): boolean {
    const place = this.#places.get(stream)
    if (place === undefined) return true
    // An idle stream to the bridge would keep the chain watched.
    if (place.to === 'routes') return false
    const { resolver, balancer, service } = place.lease
    if (service?.chain()?.routes !== undefined) return false
    const endpoints = resolver.known?.()
    return endpoints === undefined || balancer.mayUse(place.to, endpoints)
  }

  #openBridge(stream: MeshStream, host: string): StreamSocket {
    this.#bridge ??= newBridge(this.#access, this.#timeoutMs)
    this.#bridged.add(stream)
    stream.once('close', () => {
      this.#bridged.delete(stream)
      if (this.#closed.signal.aborted) this.#closeBridge()
    })
    return this.#bridge.requests.open(`http://${host}`)
  }

  /** Closes the connections for requests that follow routes, after the last of them. */
  #closeBridge(): void {
    if (this.#bridged.size === 0) void this.#bridge?.dispatcher.close()
  }

  /** Gives a connection no further requests. */
  #retire(stream: Duplex): void {
    this.#retired.add(stream)
    if (this.#free().includes(stream)) drop(stream)
  }

  /** Closes idle connections, and the others after their request. Accepts no new requests. */
  close(): void {
    this.#closed.abort(new ClosedError('request'))
    this.#closeBridge()
    for (const stream of this.#free()) drop(stream)
  }

  #free(): Duplex[] {
    return Object.values(this.freeSockets).flatMap((sockets): Duplex[] => sockets ?? [])
  }
}

/** Ends an idle socket. Until its `close` event, Node.js may still pass a destroyed socket to a request. */
function drop(stream: Duplex): void {
  stream.destroy()
  stream.emit('agentRemove')
}

function hostOf({ socketPath, host, hostname }: ConnectionOptions): string {
  return socketPath ?? host ?? hostname ?? ''
}

function newBridge(
  access: MeshAccess,
  dialTimeoutMs: number,
): { dispatcher: MeshDispatcher; requests: RequestBridge } {
  // The agent limits the connections.
  const dispatcher = new MeshDispatcher(access, { dialTimeoutMs, pool: { connections: 0 } })
  return { dispatcher, requests: new RequestBridge(dispatcher) }
}
