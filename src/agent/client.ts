import { readFile } from 'node:fs/promises'
import { Pool, errors as undiciErrors } from 'undici'
import { withDeadline } from '../base/deadline.js'
import {
  AbortError,
  AgentError,
  type ErrorCode,
  OptionError,
  TimeoutError,
  withCause,
} from '../base/errors.js'
import { log } from '../base/log.js'
import { formatAddress } from './address.js'
import { BlockingSlots } from './blocking-slots.js'
import { type AgentRequestMessage, agentRequests } from './diagnostics.js'
import { warnOfInsecureAgent } from './insecure-agent.js'
import type { AgentSettings } from './settings.js'

/** Far above any answer that Connect needs, and far below what would hurt the process. */
const MAX_BODY_BYTES = 64 * 1024 * 1024

/** The share of the blocking queries that upstreams may use; the rest is for certificates, roots, and intentions. */
const UPSTREAM_SHARE = 0.75
/**
 * Connections besides those that blocking queries hold. Heartbeats have one of their own: they must not wait for a
 * place, and an agent that accepts no more connections goes on answering on one that is open.
 */
const PLAIN_CONNECTIONS = 8
const HEARTBEAT_CONNECTIONS = 1
/** Longer than the pause between two heartbeats. */
const HEARTBEAT_KEEP_ALIVE_MS = 60_000
/** An agent over its limit of connections closes a new one at once (1.8), or answers 429 on it (1.9 and later). */
const REFUSED_WITHIN_MS = 1_000

/** A query parameter that is undefined is left out; a list is sent as one parameter for each. */
export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>

/** One request to the HTTP API. */
export interface AgentRequest {
  /** @default GET */
  readonly method?: 'GET' | 'PUT' | 'POST' | 'DELETE'
  /** The path with every variable segment already encoded. */
  readonly path: string
  readonly query?: Query
  /** Sent as JSON. */
  readonly body?: unknown
  /** An ACL token for this request alone. @default the client's */
  readonly token?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** @default the `timeoutMs` of the agent's options */
  readonly timeoutMs?: number | undefined
}

/** A request of this library's own. */
export interface OwnRequest extends AgentRequest {
  /** The right that it needs, such as `service:write on "web"`, for the message of a 403. */
  readonly needs?: string | undefined
  /** Keeps a registration alive: sent on the connection that is kept for this. */
  readonly isHeartbeat?: boolean
}

/** An answer: the parsed body, and the headers of Consul that a watch needs. */
export interface AgentResponse<T> {
  readonly value: T
  /** `X-Consul-Index`; undefined when the endpoint or its version sends none. */
  readonly index: number | undefined
  /** `X-Consul-ContentHash` */
  readonly hash: string | undefined
  /** `Age`, in milliseconds: for how long the agent has not been able to refresh its own copy. @default 0 */
  readonly ageMs?: number
  /** Whether the agent left out what the token may not read; Consul 1.11 and later say so. @default false */
  readonly isFiltered?: boolean
}

/** An answer as it came, whatever its status. */
export interface AgentExchange {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

/**
 * The Consul HTTP API of one agent. Every request has a bound; every failure is an AgentError whose code
 * tells the cause.
 */
export class AgentClient {
  /** The agent's address, for logs and errors. */
  readonly address: string
  readonly settings: AgentSettings
  /** For watches of what a service is and may do. */
  readonly blockingSlots: BlockingSlots
  /** For watches whose number grows with the application's upstreams. */
  readonly upstreamSlots: BlockingSlots
  readonly #blocking: Pool
  readonly #plain: Pool
  readonly #heartbeats: Pool

  constructor(settings: AgentSettings) {
    const { maxBlockingQueries } = settings
    this.settings = settings
    this.address = formatAddress(settings.address)
    warnOfInsecureAgent(settings)
    this.blockingSlots = BlockingSlots.create(maxBlockingQueries)
    this.upstreamSlots = this.blockingSlots.forUpstreams(UPSTREAM_SHARE)
    this.#blocking = openPool(settings, { connections: maxBlockingQueries })
    this.#plain = openPool(settings, { connections: PLAIN_CONNECTIONS })
    this.#heartbeats = openPool(settings, {
      connections: HEARTBEAT_CONNECTIONS,
      keepAliveTimeout: HEARTBEAT_KEEP_ALIVE_MS,
      keepAliveMaxTimeout: HEARTBEAT_KEEP_ALIVE_MS,
    })
  }

  /**
   * One request. `parse` turns the JSON body into the value, or throws what it expected.
   * @throws AgentError, AbortError
   */
  async request<T>(request: OwnRequest, parse: (body: unknown) => T): Promise<AgentResponse<T>> {
    const what = describe(request)
    const { status, headers, text } = await this.exchange(request)
    if (status < 200 || status > 299) throw this.#refusal(request, status, text)
    return {
      value: this.#parse(what, status, text, parse),
      index: parseIndex(headers['x-consul-index']),
      hash: single(headers['x-consul-contenthash']),
      ageMs: (parseIndex(headers['age']) ?? 0) * 1_000,
      isFiltered: headers['x-consul-results-filtered-by-acls'] === 'true',
    }
  }

  /**
   * One request, and its answer as it comes.
   * @throws AgentError when there is none, AbortError
   */
  async exchange(request: OwnRequest): Promise<AgentExchange> {
    const { method = 'GET', path, body, signal, timeoutMs = this.settings.timeoutMs } = request
    const what = describe(request)
    const begin = performance.now()
    const tell = (outcome: Pick<AgentRequestMessage, 'status' | 'error'>): void => {
      const message = { address: this.address, method, path, isBlocking: isBlocking(request) }
      agentRequests.publish({ ...message, durationMs: performance.now() - begin, ...outcome })
    }
    const exchange = withDeadline(what, { signal, timeoutMs }, async (within) => {
      const response = await this.#poolFor(request).request({
        method,
        path: this.#target(path, request.query),
        headers: await this.#headers(request),
        body: body === undefined ? null : JSON.stringify(body),
        signal: within,
      })
      return { status: response.statusCode, headers: response.headers, text: await response.body.text() }
    })
    try {
      const answer = await exchange
      if (answer.status === 429 && TOO_MANY_CONNECTIONS.test(answer.text)) this.blockingSlots.shrink()
      tell({ status: answer.status, error: undefined })
      return answer
    } catch (cause) {
      const error =
        cause instanceof AbortError || cause instanceof OptionError
          ? cause
          : this.#failure(what, timeoutMs, cause, performance.now() - begin)
      tell({ status: undefined, error })
      throw error
    }
  }

  /** Ends every request under way and every connection. */
  async destroy(): Promise<void> {
    await Promise.all([this.#blocking, this.#plain, this.#heartbeats].map((pool) => pool.destroy()))
  }

  #poolFor(request: OwnRequest): Pool {
    if (request.isHeartbeat === true) return this.#heartbeats
    return isBlocking(request) ? this.#blocking : this.#plain
  }

  #target(path: string, query: Query = {}): string {
    const { namespace, partition, address } = this.settings
    const parameters = new URLSearchParams()
    const all: Query = { ns: namespace, partition, ...query }
    for (const [name, value] of Object.entries(all)) {
      if (value === undefined) continue
      for (const each of Array.isArray(value) ? value : [value]) parameters.append(name, String(each))
    }
    const search = parameters.size === 0 ? '' : `?${parameters.toString()}`
    return `${address.prefix}${path}${search}`
  }

  async #headers(request: AgentRequest): Promise<Record<string, string>> {
    const { auth, token, tokenFile } = this.settings
    const headers: Record<string, string> = { accept: 'application/json' }
    if (request.body !== undefined) headers['content-type'] = 'application/json'
    if (auth !== undefined) {
      headers['authorization'] =
        `Basic ${Buffer.from(`${auth.username}:${auth.password}`).toString('base64')}`
    }
    const secret = request.token ?? (tokenFile === undefined ? token : await readToken(tokenFile))
    if (secret !== undefined) headers['x-consul-token'] = secret
    return headers
  }

  #parse<T>(what: string, status: number, text: string, parse: (body: unknown) => T): T {
    const fail = (code: ErrorCode, problem: string, cause: unknown): AgentError =>
      new AgentError(code, `${what}: the agent at ${this.address} answered ${problem}`, {
        address: this.address,
        request: what,
        status,
        cause,
      })
    let body: unknown
    try {
      body = text === '' ? undefined : JSON.parse(text)
    } catch {
      // JSON.parse quotes the text in its message, and the text may hold a private key: no cause.
      throw fail(
        'ERR_CONNECT_AGENT_NOT_JSON',
        `${text.length} characters that are not JSON: is it a Consul agent?`,
        undefined,
      )
    }
    try {
      return parse(body)
    } catch (cause) {
      throw fail('ERR_CONNECT_AGENT_SHAPE', `JSON of another shape${withCause(cause)}`, cause)
    }
  }

  #failure(what: string, timeoutMs: number, cause: unknown, lastedMs: number): AgentError {
    const details = { address: this.address, request: what, cause }
    if (cause instanceof TimeoutError || cause instanceof undiciErrors.ConnectTimeoutError) {
      const message = `${what}: the agent at ${this.address} did not answer within ${timeoutMs} ms`
      return new AgentError('ERR_CONNECT_AGENT_TIMEOUT', message, details)
    }
    const isClosed = lastedMs < REFUSED_WITHIN_MS && isClosedAtOnce(cause)
    if (isClosed) this.blockingSlots.shrink()
    const advice = isClosed
      ? 'it closed the connection at once: it is stopping, or accepts no more connections (limits.http_max_conns_per_client)'
      : 'is it running, and is the address right?'
    const message = `${what}: no answer from the agent at ${this.address}${withCause(cause)}; ${advice}`
    return new AgentError('ERR_CONNECT_AGENT_UNREACHABLE', message, details)
  }

  #refusal(request: OwnRequest, status: number, text: string): AgentError {
    const what = describe(request)
    const code = refusalCode(status, text)
    // An error of Consul is a few short lines; more than this is another server's page.
    const said = text.trim().replace(/\s+/g, ' ').slice(0, 300)
    const advice = code === 'ERR_CONNECT_AGENT_FORBIDDEN' ? this.#missingRight(request) : ADVICE[code]
    const message = `${what}: the agent at ${this.address} answered ${status}${said === '' ? '' : ` "${said}"`}${advice === undefined ? '' : `; ${advice}`}`
    log.watch('%s', message)
    return new AgentError(code, message, { address: this.address, request: what, status })
  }

  #missingRight({ needs, token }: OwnRequest): string {
    const { settings } = this
    const isSent = (token ?? settings.token ?? settings.tokenFile) !== undefined
    const right = needs ?? 'the right that this request needs'
    return isSent
      ? `grant ${right} to the token`
      : `no token was sent; set agent.token to a token with ${right}`
  }
}

/** A pool of connections to one agent. It opens none before the first request. */
function openPool({ address, tls, timeoutMs }: AgentSettings, options: Pool.Options): Pool {
  const { scheme, host, socketPath } = address
  const { ca, cert, key, serverName, verify } = tls
  return new Pool(`${scheme}://${host}`, {
    // Blocking queries stay silent for minutes; the bound is our own timer around each request.
    headersTimeout: 0,
    bodyTimeout: 0,
    maxResponseSize: MAX_BODY_BYTES,
    ...options,
    connect: {
      ...(socketPath !== undefined && { socketPath }),
      ...(ca !== undefined && { ca: typeof ca === 'string' ? ca : [...ca] }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
      ...(serverName !== undefined && { servername: serverName }),
      rejectUnauthorized: verify !== false,
      timeout: timeoutMs,
      // A resumed session would skip the check of the agent's name.
      maxCachedSessions: 0,
    },
  })
}

/** The body of the 429 that an agent sends on a connection over its limit. */
const TOO_MANY_CONNECTIONS = /too many concurrent connections/i

/** Whether the agent closed a connection before it had sent anything on it. */
function isClosedAtOnce(cause: unknown): boolean {
  if (cause instanceof undiciErrors.SocketError) return cause.socket?.bytesRead === 0
  if (!(cause instanceof Error)) return false
  const { code, syscall } = cause as NodeJS.ErrnoException
  return (code === 'ECONNRESET' || code === 'EPIPE') && syscall !== 'connect'
}

function describe({ method = 'GET', path }: AgentRequest): string {
  return `${method} ${path}`
}

/** Whether the agent may hold the request until there is something new. */
export function isBlocking({ query }: AgentRequest): boolean {
  return query?.['index'] !== undefined || query?.['hash'] !== undefined
}

const ADVICE: Partial<Record<ErrorCode, string>> = {
  ERR_CONNECT_AGENT_TOKEN_UNKNOWN:
    'the token does not exist, or the servers cannot be asked for it at the moment',
  ERR_CONNECT_AGENT_CONNECTIONS:
    'raise limits.http_max_conns_per_client of the agent (200 by default), or lower agent.maxBlockingQueries',
  ERR_CONNECT_AGENT_DATACENTER: 'check its name, and that the datacenters are joined',
  ERR_CONNECT_AGENT_RATE_LIMITED:
    'the agent or its servers are over a limit of requests or of signed certificates; it is tried again later',
  ERR_CONNECT_DISABLED: 'set connect { enabled = true } on the servers',
}

function refusalCode(status: number, text: string): ErrorCode {
  // 1.8.7: "Connect must be enabled in order to use this endpoint", with status 500.
  if (/connect must be enabled|connect is not enabled/i.test(text)) return 'ERR_CONNECT_DISABLED'
  if (status === 429 && TOO_MANY_CONNECTIONS.test(text)) return 'ERR_CONNECT_AGENT_CONNECTIONS'
  // A server that restarts says so of every token for a moment: it is no answer about the token's rights.
  if (/acl not found/i.test(text)) return 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'
  // Agents pass on a server's answer as a 500 that carries the status in its text.
  const relayed = /^(?:rpc error.*?|Unexpected response code: )?(429|403)\b/.exec(text)?.[1]
  if (status === 403 || relayed === '403' || /permission denied/i.test(text))
    return 'ERR_CONNECT_AGENT_FORBIDDEN'
  // 1.8.7 to 1.22: "No path to datacenter", with status 500.
  if (/no path to datacenter/i.test(text)) return 'ERR_CONNECT_AGENT_DATACENTER'
  // A malformed filter comes as a 500 too, and would for ever.
  if (/failed to create boolean expression evaluator/i.test(text)) return 'ERR_CONNECT_AGENT_REFUSED'
  if (status === 404) return 'ERR_CONNECT_AGENT_NOT_FOUND'
  if (status === 429 || relayed === '429') return 'ERR_CONNECT_AGENT_RATE_LIMITED'
  return status >= 500 || status < 400 ? 'ERR_CONNECT_AGENT_FAILED' : 'ERR_CONNECT_AGENT_REFUSED'
}

const TRANSIENT: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_CONNECT_AGENT_UNREACHABLE',
  'ERR_CONNECT_AGENT_TIMEOUT',
  'ERR_CONNECT_AGENT_RATE_LIMITED',
  'ERR_CONNECT_AGENT_CONNECTIONS',
  // A cluster that elects its leader answers 500, for some seconds.
  'ERR_CONNECT_AGENT_FAILED',
])

/** Whether the same request may succeed a moment later by itself. */
export function isTransient(error: unknown): boolean {
  return error instanceof AgentError && TRANSIENT.has(error.code)
}

/** Whether an error says nothing about what was asked: what was known before stays valid for a while. */
export function isNoAnswer(error: unknown): boolean {
  return (
    isTransient(error) || (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
  )
}

/** A right as messages name it, such as `service:write on "web"`. */
export function right(rule: string, name: string): string {
  return `${rule} on ${JSON.stringify(name)}`
}

/** Builds a path; every value becomes one segment, whatever characters it has. */
export function path(strings: TemplateStringsArray, ...segments: string[]): string {
  return strings.reduce((built, part, i) => built + encodeURIComponent(segments[i - 1] ?? '') + part)
}

async function readToken(file: string): Promise<string> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new OptionError('agent.tokenFile', 'the path of a readable file', JSON.stringify(file), { cause })
  }
  const token = text.trim()
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new OptionError(
      'agent.tokenFile',
      'a file with one token',
      token === '' ? 'an empty file' : 'other characters',
    )
  }
  return token
}

function single(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' && header !== '' ? header : undefined
}

function parseIndex(header: string | string[] | undefined): number | undefined {
  const text = single(header)
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined
  return Number(text)
}
