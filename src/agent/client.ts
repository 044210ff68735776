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
import { withShortMessage } from '../base/openssl-error.js'
import { formatAddress } from './address.js'
import {
  ADVICE,
  TOO_MANY_CONNECTIONS,
  adviceFor,
  errorCodeOf,
  isClosedAtOnce,
  RESTRICTED,
  lackedPermission,
} from './agent-errors.js'
import { BlockingSlots } from './blocking-slots.js'
import { type AgentRequestMessage, agentRequests } from './diagnostics.js'
import { warnOfInsecureAgent } from './insecure-agent.js'
import type { AgentSettings } from './settings.js'

/** Upper bound on a response body: far above what Connect endpoints return. */
const MAX_BODY_BYTES = 64 * 1024 * 1024

/** Share of the blocking queries for upstreams; the rest is reserved for certificates, roots, and intentions. */
const UPSTREAM_SHARE = 0.75
/**
 * Connections for requests that do not block. Heartbeats have their own, so that they never wait for a free one: an
 * agent at its connection limit still answers on open connections.
 */
const PLAIN_CONNECTIONS = 8
const HEARTBEAT_CONNECTIONS = 1
/** Connections for requests about other datacenters, so that one that does not answer delays no request about our own. */
const REMOTE_CONNECTIONS = 4
/** Longer than the interval between heartbeats. */
const HEARTBEAT_KEEP_ALIVE_MS = 60_000
/** An agent over its connection limit closes a new connection at once (1.8) or answers 429 (1.9 and later). */
const REFUSED_WITHIN_MS = 1_000

/** Query parameters. Undefined values are left out; a list is sent as one parameter for each item. */
export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>

/** A request to the HTTP API of the agent. */
export interface AgentRequest {
  /** @default GET */
  readonly method?: 'GET' | 'PUT' | 'POST' | 'DELETE'
  /** The path; variable segments must be encoded. */
  readonly path: string
  readonly query?: Query
  /** The body, sent as JSON. */
  readonly body?: unknown
  /** An ACL token for this request. @default the token of the client */
  readonly token?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** @default the `timeoutMs` of the agent's options */
  readonly timeoutMs?: number | undefined
}

/** A request that the library makes itself. */
export interface OwnRequest extends AgentRequest {
  /** The required permission, such as `service:write on "web"`, for the message of a 403. */
  readonly needs?: string | undefined
  /** Whether to use the connection that is reserved for heartbeats. */
  readonly isHeartbeat?: boolean
}

/** A parsed response, with the headers that watches need. */
export interface AgentResponse<T> {
  readonly value: T
  /** `X-Consul-Index`; undefined when the endpoint or its version sends none. */
  readonly index: number | undefined
  /** `X-Consul-ContentHash` */
  readonly hash: string | undefined
  /** `Age`, in milliseconds: how long the agent has been unable to refresh its cached copy. @default 0 */
  readonly ageMs?: number
  /** `X-Consul-LastContact`: how far the answering server may lag behind the leader, in milliseconds; 0 for the leader. */
  readonly lastContactMs?: number | undefined
  /** Whether the agent filtered the result by ACLs; reported by Consul 1.11 and later. @default false */
  readonly isFiltered?: boolean
}

/** A response with any status, unparsed. */
export interface AgentExchange {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

/**
 * Sends requests to the HTTP API of one agent. Each request has a timeout, and each failure is an AgentError with a
 * code.
 */
export class AgentClient {
  /** The address of the agent, for logs and errors. */
  readonly address: string
  readonly settings: AgentSettings
  /** Slots for watches of certificates, roots, and intentions. */
  readonly blockingSlots: BlockingSlots
  /** Slots for watches of upstreams. */
  readonly upstreamSlots: BlockingSlots
  readonly #blocking: Pool
  readonly #plain: Pool
  readonly #heartbeats: Pool
  readonly #remote: Pool

  constructor(settings: AgentSettings) {
    const { maxBlockingQueries } = settings
    this.settings = settings
    this.address = formatAddress(settings.address)
    warnOfInsecureAgent(settings)
    this.blockingSlots = BlockingSlots.create(maxBlockingQueries)
    this.upstreamSlots = this.blockingSlots.forUpstreams(UPSTREAM_SHARE)
    this.#blocking = openPool(settings, { connections: maxBlockingQueries })
    this.#plain = openPool(settings, { connections: PLAIN_CONNECTIONS })
    this.#remote = openPool(settings, { connections: REMOTE_CONNECTIONS })
    this.#heartbeats = openPool(settings, {
      connections: HEARTBEAT_CONNECTIONS,
      keepAliveTimeout: HEARTBEAT_KEEP_ALIVE_MS,
      keepAliveMaxTimeout: HEARTBEAT_KEEP_ALIVE_MS,
    })
  }

  /**
   * Sends a request and parses the response.
   * @param parse - converts the JSON body into the value; throws an error that says what it expected
   * @throws AgentError, AbortError
   */
  async request<T>(request: OwnRequest, parse: (body: unknown) => T): Promise<AgentResponse<T>> {
    const what = describe(request)
    const { status, headers, text } = await this.exchange(request)
    if (status < 200 || status > 299) throw this.#statusError(request, status, text)
    return {
      value: this.#parse(what, status, text, parse),
      index: parseIndex(headers['x-consul-index']),
      hash: single(headers['x-consul-contenthash']),
      ageMs: (parseIndex(headers['age']) ?? 0) * 1_000,
      lastContactMs: parseIndex(headers['x-consul-lastcontact']),
      isFiltered: headers['x-consul-results-filtered-by-acls'] === 'true',
    }
  }

  /**
   * Sends a request and returns the response, whatever its status.
   * @throws AgentError when there is no response, AbortError
   */
  async exchange(request: OwnRequest): Promise<AgentExchange> {
    const { method = 'GET', path, body, signal, timeoutMs = this.settings.timeoutMs } = request
    const what = describe(request)
    const begin = performance.now()
    const publish = (outcome: Pick<AgentRequestMessage, 'status' | 'error'>): void => {
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
      publish({ status: answer.status, error: undefined })
      return answer
    } catch (cause) {
      const error =
        cause instanceof AbortError || cause instanceof OptionError
          ? cause
          : this.#networkError(what, timeoutMs, cause, performance.now() - begin)
      publish({ status: undefined, error })
      throw error
    }
  }

  /** Aborts all requests and closes all connections. */
  async destroy(): Promise<void> {
    await Promise.all(
      [this.#blocking, this.#plain, this.#heartbeats, this.#remote].map((pool) => pool.destroy()),
    )
  }

  #poolFor(request: OwnRequest): Pool {
    if (request.isHeartbeat === true) return this.#heartbeats
    if (isBlocking(request)) return this.#blocking
    return request.query?.['dc'] === undefined ? this.#plain : this.#remote
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
      new AgentError(code, `${what}: the agent at ${this.address} returned ${problem}`, {
        address: this.address,
        request: what,
        status,
        cause,
      })
    let body: unknown
    try {
      body = text === '' ? undefined : JSON.parse(text)
    } catch {
      // Without a cause: JSON.parse quotes the text in its message, and the text may contain a private key.
      throw fail(
        'ERR_CONNECT_AGENT_NOT_JSON',
        `${text.length} characters that are not JSON; is it a Consul agent?`,
        undefined,
      )
    }
    try {
      return parse(body)
    } catch (cause) {
      throw fail('ERR_CONNECT_AGENT_SHAPE', `unexpected JSON${withCause(cause)}`, cause)
    }
  }

  #networkError(what: string, timeoutMs: number, cause: unknown, lastedMs: number): AgentError {
    const details = { address: this.address, request: what, cause }
    if (cause instanceof TimeoutError || cause instanceof undiciErrors.ConnectTimeoutError) {
      const message = `${what}: the agent at ${this.address} did not answer within ${timeoutMs} ms`
      return new AgentError('ERR_CONNECT_AGENT_TIMEOUT', message, details)
    }
    const isClosed = lastedMs < REFUSED_WITHIN_MS && isClosedAtOnce(cause)
    if (isClosed) this.blockingSlots.shrink()
    const shown = cause instanceof Error ? withShortMessage(cause) : cause
    const message = `${what}: no answer from the agent at ${this.address}${withCause(shown)}; ${adviceFor(cause, isClosed)}`
    return new AgentError('ERR_CONNECT_AGENT_UNREACHABLE', message, details)
  }

  #statusError(request: OwnRequest, status: number, text: string): AgentError {
    const what = describe(request)
    const code = errorCodeOf(status, text)
    // Errors of Consul are short; a longer text is a page of another server.
    const excerpt = text.trim().replace(/\s+/g, ' ').slice(0, 300)
    const advice =
      code === 'ERR_CONNECT_AGENT_FORBIDDEN' ? this.#missingPermission(request, excerpt) : ADVICE[code]
    const message = `${what}: the agent at ${this.address} answered ${status}${excerpt === '' ? '' : ` "${excerpt}"`}${advice === undefined ? '' : `; ${advice}`}`
    log.watch('%s', message)
    return new AgentError(code, message, { address: this.address, request: what, status })
  }

  #missingPermission({ needs, token }: OwnRequest, answer: string): string {
    if (RESTRICTED.test(answer))
      return 'add the address of this process to http_config.allow_write_http_from of the agent'
    const { settings } = this
    const isSent = (token ?? settings.token ?? settings.tokenFile) !== undefined
    const permission = lackedPermission(answer) ?? needs ?? 'the permission that this request needs'
    return isSent
      ? `grant ${permission} to the token`
      : `no token was sent; set agent.token to a token with ${permission}`
  }
}

/** Creates a pool of connections to an agent. The first request opens the first connection. */
function openPool({ address, tls, timeoutMs }: AgentSettings, options: Pool.Options): Pool {
  const { scheme, host, socketPath } = address
  const { ca, cert, key, serverName, verify } = tls
  return new Pool(`${scheme}://${host}`, {
    // Blocking queries are silent for minutes. Each request has a timer of our own.
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
      // A resumed session would skip the verification of the server name.
      maxCachedSessions: 0,
    },
  })
}

function describe({ method = 'GET', path }: AgentRequest): string {
  return `${method} ${path}`
}

/** Whether a request is a blocking query, which the agent holds until the result changes. */
export function isBlocking({ query }: AgentRequest): boolean {
  return query?.['index'] !== undefined || query?.['hash'] !== undefined
}

/** Builds a path from a template; each value is encoded as one segment. */
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
