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
import { upstreamOfHost } from './mesh-url.js'
import type { MeshAccess } from './mesh-access.js'
import { readPooled } from './pool-options.js'
import { guardRequest } from './redirect.js'
import { MeshStream } from '../adapters/stream.js'

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
  #isClosed = false

  /** @throws OptionError */
  constructor(access: MeshAccess, given: HttpAgentOptions = {}) {
    const { timeoutMs, pool } = readPooled(given, access.dialTimeoutMs, NODE)
    super({ keepAlive: true, ...pool, maxSockets: pool.maxSockets ?? access.maxConnectionsPerHost })
    this.#access = access
    this.#timeoutMs = timeoutMs
    this.protocol = undefined
    // Before the listener of Node.js, which passes the connection to the next request.
    this.prependListener('free', (stream: MeshStream) => {
      if (this.#retired.has(stream) || (this.#isClosed && !stream.connecting)) stream.destroy()
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
    addRequest.call(this, request, options)
  }

  /**
   * Returns a stream synchronously, which dials. Node.js counts it towards its limits and destroys it with its request;
   * a socket that is passed to a callback later would not be counted, and its failure would leave waiting requests
   * pending.
   */
  override createConnection({ host, hostname, port, socketPath }: ConnectionOptions): MeshStream {
    const { dial, lifetimes, hosts } = this.#access
    const name = socketPath ?? host ?? hostname ?? ''
    const stream: MeshStream = new MeshStream(false, async (signal) => {
      if (this.#isClosed) throw new ClosedError(`connect ${name}`)
      const upstream = upstreamOfHost(name, port, hosts)
      const bounds = { signal, timeoutMs: this.#timeoutMs }
      const socket = await dial(upstream, { ...bounds, allowHalfOpen: true, alpnProtocols: ['http/1.1'] })
      lifetimes.hold(socket, () => {
        this.#retired.add(stream)
        if (this.#free().includes(stream)) drop(stream)
      })
      return socket
    })
    // Node.js treats a response without a length or chunks as complete when its connection breaks.
    stream.once('error', (error) => responseOn(stream)?.destroy(error))
    return stream.connect()
  }

  /** Closes idle connections, and the others after their request. Accepts no new requests. */
  close(): void {
    this.#isClosed = true
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
