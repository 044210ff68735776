import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http'
import { text } from 'node:stream/consumers'
import { isApiPath } from '../agent/api-path.js'
import { AgentClient, type AgentExchange, type AgentRequest, isBlocking } from '../agent/client.js'
import { CHAIN_KINDS } from '../agent/endpoints/config-entries.js'
import type { AgentOptions } from '../agent/options.js'
import { expectAgent } from '../agent/settings.js'
import { WAIT_MARGIN_MS } from '../agent/watch.js'
import { AgentError } from '../base/errors.js'
import { expectString, readOptions } from '../base/options/validate.js'
import { bindPrivately } from '../sockets/private-socket.js'

/** Options of `relayAgent`. */
export interface RelayOptions {
  /** The unix socket to listen on; only this user can connect to it. */
  readonly path: string
  /** How to reach the Consul agent. @default Consul's client environment */
  readonly agent?: AgentOptions | undefined
}

/** The endpoints that a member of the mesh reads, without `/v1`; `*` is any segment. None changes the agent. */
const READS = endpoints(
  'agent/connect/ca/roots',
  'agent/connect/ca/leaf/*',
  'agent/self',
  'config/mesh',
  'connect/intentions',
  'connect/intentions/match',
  'discovery-chain/*',
  'health/connect/*',
  'health/service/*',
  'internal/federation-states/mesh-gateways',
  'query/*/execute',
  'query/*/explain',
  ...CHAIN_KINDS.map((kind) => `config/${kind}`),
)
/** The endpoints that are read by a POST. */
const QUESTIONS = endpoints('agent/connect/authorize', 'discovery-chain/*')
const MAX_BODY_BYTES = 64 * 1024
/** What an agent answers on a connection over its limit: the reader polls then. */
const BUSY: AgentExchange = {
  status: 429,
  headers: {},
  text: 'the relay has too many concurrent connections to the agent (agent.maxBlockingQueries)',
}
const HEADERS = /^(?:x-consul-|age$|x-cache$|content-type$)/

interface Shared {
  readonly exchange: Promise<AgentExchange>
  readonly abort: AbortController
  users: number
}

/**
 * Gives other processes of the same program access to the agent, under an address that they use as the agent's. Requests
 * carry the token of this process, so that the others need none. Equal reads of several processes are one request at
 * the agent. Only endpoints that a member of the mesh reads are passed on.
 */
export class AgentRelay implements AsyncDisposable {
  /** The address for the agent options of the other processes: `unix://` and the path. */
  readonly address: string
  readonly #agent: AgentClient
  readonly #server: Server
  readonly #closed: Promise<void>
  // Pending reads by path and query; an equal request joins them.
  readonly #reads = new Map<string, Shared>()

  constructor(options: RelayOptions) {
    const { path, agent } = readOptions(options, { path: expectString, agent: expectAgent })
    this.address = `unix://${path}`
    this.#agent = new AgentClient(agent)
    // A blocking query may take minutes.
    this.#server = createServer({ requestTimeout: 0, keepAliveTimeout: 60_000 }, (request, response) => {
      this.#answer(request, response).catch(() => response.destroy())
    })
    this.#closed = new Promise((resolve) => this.#server.once('close', resolve))
  }

  /** @throws ConnectError with ERR_CONNECT_LISTEN */
  async open(): Promise<void> {
    await bindPrivately(this.#server, this.address.slice('unix://'.length), this.#closed)
    // An accept error must not end the server.
    this.#server.on('error', () => undefined)
  }

  /** Ends every request under way. Idempotent. */
  async close(): Promise<void> {
    this.#server.close()
    this.#server.closeAllConnections()
    await this.#closed
    await this.#agent.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    // The URL class would resolve dot segments: the path is passed on as it came, or not at all.
    const [path = '', search = ''] = (incoming.url ?? '').split('?', 2)
    const searchParams = new URLSearchParams(search)
    const isRead = incoming.method === 'GET' && isOneOf(READS, path)
    const isQuestion = incoming.method === 'POST' && isOneOf(QUESTIONS, path)
    if (!isRead && !isQuestion) {
      refuse(response, 403, 'a relay passes on what a member of the mesh reads, and nothing else')
      return
    }
    try {
      const request = { path, query: queryOf(searchParams), timeoutMs: timeoutOf(searchParams) }
      const { status, headers, text } = isRead
        ? await this.#read(request, incoming)
        : await this.#agent.exchange({ ...request, method: 'POST', body: await bodyOf(incoming) })
      for (const [name, value] of Object.entries(headers)) {
        if (value !== undefined && HEADERS.test(name)) response.setHeader(name, value)
      }
      response.writeHead(status).end(text)
    } catch (error) {
      // 502 is a transient error for the reader, which tries again.
      if (!response.destroyed) refuse(response, 502, error instanceof AgentError ? error.message : 'failed')
    }
  }

  /** Sends one request for all equal reads at a time, and aborts it when no reader is left. */
  async #read(request: AgentRequest, incoming: IncomingMessage): Promise<AgentExchange> {
    const key = JSON.stringify([request.path, request.query])
    const known = this.#reads.get(key)
    if (known === undefined && isBlocking(request) && this.#agent.blockingSlots.isFull) return BUSY
    const shared = known ?? this.#begin(key, request)
    shared.users += 1
    const leave = (): void => {
      shared.users -= 1
      if (shared.users === 0) shared.abort.abort(new Error('no reader is left'))
    }
    incoming.socket.once('close', leave)
    try {
      return await shared.exchange
    } finally {
      incoming.socket.off('close', leave)
    }
  }

  #begin(key: string, request: AgentRequest): Shared {
    const abort = new AbortController()
    const release = isBlocking(request)
      ? this.#agent.blockingSlots.take(() => {
          abort.abort(new Error('the agent accepts no more connections'))
        })
      : () => undefined
    const exchange = this.#agent.exchange({ ...request, signal: abort.signal }).finally(() => {
      release()
      if (this.#reads.get(key) === shared) this.#reads.delete(key)
    })
    const shared: Shared = { exchange, abort, users: 0 }
    // Every reader handles the rejection of its own promise.
    exchange.catch(() => undefined)
    abort.signal.addEventListener('abort', () => {
      if (this.#reads.get(key) === shared) this.#reads.delete(key)
    })
    this.#reads.set(key, shared)
    return shared
  }
}

function endpoints(...paths: string[]): readonly string[][] {
  return paths.map((path) => path.split('/'))
}

/** Whether a path names one of the endpoints, also after an agent has decoded it. */
function isOneOf(allowed: readonly string[][], path: string): boolean {
  if (!isApiPath(path)) return false
  const segments = path.split('/').slice(2)
  return allowed.some(
    (endpoint) =>
      endpoint.length === segments.length &&
      endpoint.every((name, i) => name === segments[i] || (name === '*' && isOneSegment(segments[i]))),
  )
}

/** Agents route by the decoded path, where an encoded slash begins another segment. */
function isOneSegment(segment = ''): boolean {
  return segment !== '' && !/[/\\]/.test(decodeURIComponent(segment))
}

function queryOf(parameters: URLSearchParams): Record<string, string | readonly string[]> {
  return Object.fromEntries([...new Set(parameters.keys())].map((name) => [name, parameters.getAll(name)]))
}

/** A bound above the time that the agent may hold a blocking query; undefined for the default of the client. */
function timeoutOf(parameters: URLSearchParams): number | undefined {
  const waitMs = Number(/^(\d{1,9})ms$/.exec(parameters.get('wait') ?? '')?.[1] ?? NaN)
  return Number.isNaN(waitMs) ? undefined : (waitMs * 17) / 16 + WAIT_MARGIN_MS
}

async function bodyOf(incoming: IncomingMessage): Promise<unknown> {
  let size = 0
  incoming.on('data', (chunk: Buffer) => {
    size += chunk.length
    if (size > MAX_BODY_BYTES) incoming.destroy()
  })
  return JSON.parse(await text(incoming)) as unknown
}

function refuse(response: ServerResponse, status: number, problem: string): void {
  response.writeHead(status, { 'content-type': 'text/plain' }).end(`${problem}\n`)
}
