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
  /** Bound on each connection's dial, in milliseconds. @default the service's dialTimeoutMs */
  readonly dialTimeoutMs?: number | undefined
  /**
   * Options of `http.Agent`, with Node's own names and defaults.
   * @default `{ keepAlive: true, maxSockets }` with the service's maxConnectionsPerHost
   */
  readonly pool?: Pick<NodeAgentOptions, (typeof POOL_KEYS)[number]> | undefined
}

/** An agent of node:http that is to TypeScript one of node:https too, which got and others tell apart. */
export type MeshHttpAgent = Agent & Pick<HttpsAgent, 'getName' | 'options'>

/** Node.js gives an agent its requests by a method that is not documented, and that many agents override. */
interface RequestTaker {
  readonly addRequest: (this: Agent, request: ClientRequest, options: ConnectionOptions) => void
}

/** What Node passes to `createConnection`. */
type ConnectionOptions = ClientRequestArgs & { readonly socketPath?: string | undefined }

/**
 * An agent of node:http whose connections are the mesh's: the host of each request names an upstream, and any other host
 * is an error. `http.request` and `https.request` take it alike. A kept connection that has become too old is used for
 * no further request.
 */
export class HttpAgent extends Agent {
  /** The scheme says nothing here: with none of its own, an agent is taken by node:http and node:https. */
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
    // Before Node's own listener, which would give the connection to the next request.
    this.prependListener('free', (stream: MeshStream) => {
      if (this.#retired.has(stream) || (this.#isClosed && !stream.connecting)) stream.destroy()
    })
  }

  /**
   * Node calls this for each request, before it looks for a connection.
   * @internal
   */
  addRequest(request: ClientRequest, options: ConnectionOptions): void {
    try {
      guardRequest(request, this.#access)
    } catch (error) {
      // The request hears of a connection that could not be made.
      const stream = new MeshStream(false, () => Promise.reject(toError(error)))
      request.onSocket(stream.connect() as unknown as Socket)
      return
    }
    const { addRequest }: RequestTaker = Agent.prototype as Agent & RequestTaker
    addRequest.call(this, request, options)
  }

  /**
   * A stream that dials, at once: Node counts it from now on, and ends it with its request. One that were to come later
   * would count for no limit, and its failure would leave those who wait for it waiting.
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
    // An answer with neither a length nor chunks would be whole to Node.js when its connection breaks.
    stream.once('error', (error) => responseOn(stream)?.destroy(error))
    return stream.connect()
  }

  /** Ends the connections that are idle now, and the others with their request; takes no new requests. */
  close(): void {
    this.#isClosed = true
    for (const stream of this.#free()) drop(stream)
  }

  #free(): Duplex[] {
    return Object.values(this.freeSockets).flatMap((sockets): Duplex[] => sockets ?? [])
  }
}

/** Ends an idle socket. Node may give one that is destroyed to a request until its `close`, a turn later. */
function drop(stream: Duplex): void {
  stream.destroy()
  stream.emit('agentRemove')
}
