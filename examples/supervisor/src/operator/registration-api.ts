import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type ConsulApi, type AgentExchange, AgentError } from 'consul-connect'
import { LocalServer, type Reply, isLocalHost } from 'consul-connect-proxy/local-server'
import { isUnknownService } from '../agent/registry.js'
import type { ServiceDefinition } from '../configuration/definition.js'
import { expectShallow } from '../configuration/depth.js'
import { ConfigurationError } from '../configuration/error.js'
import { keysOf } from '../configuration/keys.js'
import type { Json } from '../configuration/parse.js'
import { printable } from 'consul-connect-proxy/printable'

export interface RegistrationActions {
  allowsManaged(): boolean
  /**
   * Parses and validates a definition.
   * @throws ConfigurationError
   */
  read(request: Json): ServiceDefinition
  /** @throws ConfigurationError when clients may not use the id */
  expectFree(id: string): void
  add(definition: ServiceDefinition, request: Json): Promise<void>
  remove(id: string): Promise<void>
  /** The token with which a definition was registered; undefined for none and for an unknown id. */
  tokenOf(id: string): string | undefined
  isManagedProxy(id: string): boolean
  /** Resolves at the next registration of a proxy, or when the signal is aborted. */
  nextRegistration(id: string, signal: AbortSignal): Promise<void>
}

/** Maximum size of a request body. A definition takes a few KiB; 64 upstreams with all keys take less than 32 KiB. */
const MAX_BODY_BYTES = 128 * 1024
/** Each managed proxy may hold one connection, to wait for changes. */
const MAX_CONNECTIONS = 1_024
const MAX_TOKEN_LENGTH = 4_096

const REFUSAL =
  'registration of managed proxies by HTTP is disabled, because anyone who can register a service could run commands on this host; set connect { proxy { allow_managed_api_registration = true } } to allow it'

/**
 * Serves the part of the agent's API through which Consul 1.2 to 1.5 registered managed proxies. Requests are
 * forwarded with the token of the client, never with the supervisor's, so that a client gains no rights.
 */
export class RegistrationApi {
  readonly #server: LocalServer
  readonly #agent: ConsulApi
  readonly #actions: RegistrationActions

  /** @param agent - client without a token */
  constructor(agent: ConsulApi, actions: RegistrationActions) {
    this.#agent = agent
    this.#actions = actions
    this.#server = new LocalServer(
      (request) => this.#answer(request),
      (error) => ({ status: statusOf(error), body: `${printable(error.message)}\n` }),
      { maxConnections: MAX_CONNECTIONS },
    )
  }

  /**
   * Starts to listen.
   * @throws the system's error
   */
  open(address: { readonly host: string; readonly port: number }): Promise<AddressInfo> {
    return this.#server.open(address)
  }

  close(): void {
    this.#server.close()
  }

  async #answer(received: IncomingMessage): Promise<Reply> {
    if (!isLocalHost(received.headers.host)) {
      throw new RequestError(403, 'Host header: expected an IP address or localhost')
    }
    const { pathname, searchParams } = urlOf(received)
    const header = received.headers['x-consul-token']
    const token = (typeof header === 'string' ? header : undefined) ?? searchParams.get('token') ?? undefined
    const [, proxy] = /^\/v1\/agent\/connect\/proxy\/([^/]+)$/.exec(pathname) ?? []
    if (proxy !== undefined && received.method === 'GET') {
      return this.#proxy(decoded(proxy), token, searchParams, received)
    }
    const [, encoded] = /^\/v1\/agent\/service\/deregister\/([^/]+)$/.exec(pathname) ?? []
    if (encoded === undefined && pathname !== '/v1/agent/service/register') {
      throw new RequestError(
        404,
        `expected /v1/agent/service/register, /v1/agent/service/deregister/:id or /v1/agent/connect/proxy/:id; for other endpoints, use the agent at ${this.#agent.address}`,
      )
    }
    if (received.method !== 'PUT') throw new RequestError(405, 'expected PUT')
    if (encoded !== undefined) return this.#deregister(decoded(encoded), token)
    return this.#register(await bodyOf(received), token)
  }

  async #register(body: Json, header: string | undefined): Promise<Reply> {
    expectShallow('request', body)
    const { token: inBody, ...rest } = keysOf('request', body)
    const token = header ?? inBody
    // Reject unauthorized requests before the more expensive parsing.
    if (asksForProxy(rest) && !this.#actions.allowsManaged()) throw new RequestError(400, REFUSAL)
    await this.#expectKnownToken(token)
    const request = { ...rest, ...(token !== undefined && { token }) }
    const definition = this.#actions.read(request)
    if (definition.managed !== undefined && !this.#actions.allowsManaged()) {
      throw new RequestError(400, REFUSAL)
    }
    const query = { 'replace-existing-checks': true }
    const passed = { method: 'PUT', path: '/v1/agent/service/register', query } as const
    const sent = { ...passed, body: definition.body, token: definition.sender.token }
    const { status, text } = await this.#agent.exchange(sent)
    if (status === 200) {
      if (definition.managed === undefined) await this.#actions.remove(definition.id)
      else await this.#actions.add(definition, request)
    }
    return { status, body: text }
  }

  async #deregister(id: string, token: string | undefined): Promise<Reply> {
    this.#actions.expectFree(id)
    const path = `/v1/agent/service/deregister/${encodeURIComponent(id)}`
    const answer = await this.#agent.exchange({ method: 'PUT', path, token })
    const isGone = answer.status === 200 || this.#isOwnersLeftover(id, token, answer)
    if (!isGone) return { status: answer.status, body: answer.text }
    await this.#actions.remove(id)
    return { status: 200, body: '' }
  }

  /**
   * Handles `GET /v1/agent/connect/proxy/:id`, which agents served before 1.6, from the registration of the proxy.
   * With `hash`, blocks until a change. The agent decides whether the token may read the proxy.
   */
  async #proxy(
    id: string,
    token: string | undefined,
    query: URLSearchParams,
    { socket }: IncomingMessage,
  ): Promise<Reply> {
    if (!this.#actions.isManagedProxy(id)) throw new RequestError(404, `unknown proxy service ID: ${id}`)
    const hash = query.get('hash')
    if (hash === null || hash === '') return this.#readProxy(id, token)
    const ended = new AbortController()
    const end = (): void => {
      ended.abort()
    }
    socket.once('close', end)
    const timer = setTimeout(end, waitOf(query.get('wait') ?? ''))
    try {
      // Subscribe before the first read, so that no change is missed.
      const changed = this.#actions.nextRegistration(id, ended.signal)
      const reply = await this.#readProxy(id, token)
      if (reply.headers?.[HASH_HEADER] !== hash) return reply
      await changed
      return await this.#readProxy(id, token)
    } finally {
      clearTimeout(timer)
      socket.off('close', end)
      end()
    }
  }

  async #readProxy(id: string, token: string | undefined): Promise<Reply> {
    const path = `/v1/agent/service/${encodeURIComponent(id)}`
    const { status, text } = await this.#agent.exchange({ path, token })
    if (status !== 200) return { status, body: text }
    const body = managedProxyAnswer(objectOf(text, new RequestError(502, 'the agent did not return JSON')))
    return { headers: { [HASH_HEADER]: body.ContentHash }, body }
  }

  /**
   * Whether a deregistration may succeed although the agent no longer has the service. The agent checks no rights on
   * an unknown service, so the client must present the token of the registration.
   */
  #isOwnersLeftover(id: string, token: string | undefined, { status, text }: AgentExchange): boolean {
    const registrant = this.#actions.tokenOf(id)
    if (token === undefined || registrant === undefined || !isSame(token, registrant)) return false
    return isUnknownService(status, text)
  }

  /** Rejects a token that the agent does not know, with one small request. */
  async #expectKnownToken(token: unknown): Promise<void> {
    if (token === undefined || token === '') return
    if (typeof token !== 'string' || token.length > MAX_TOKEN_LENGTH) {
      throw new RequestError(400, `token: expected a string of at most ${MAX_TOKEN_LENGTH} characters`)
    }
    const { status, text } = await this.#agent.exchange({ path: '/v1/acl/token/self', token })
    if (status === 403) throw new RequestError(403, text.trim() || 'unknown ACL token')
  }
}

const HASH_HEADER = 'X-Consul-ContentHash'
const DEFAULT_WAIT_MS = 300_000
const MAX_WAIT_MS = 600_000
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000 }

/** Parses a wait such as `60s`. Returns milliseconds, at most 10 minutes; 5 minutes for an invalid value. */
function waitOf(text: string): number {
  const [, digits, unit] = /^(\d{1,9})(ms|s|m)$/.exec(text) ?? []
  const waitMs = Number(digits) * (UNITS[unit ?? ''] ?? NaN)
  return Number.isNaN(waitMs) ? DEFAULT_WAIT_MS : Math.min(MAX_WAIT_MS, waitMs)
}

/**
 * Converts a registration to the response of Consul 1.2 to 1.5. `Command` is empty, because its arguments must not be
 * visible to every client that may read the service.
 */
function managedProxyAnswer(service: Json): { readonly ContentHash: string } & Json {
  const proxy = (service['Proxy'] ?? {}) as Json
  const listed = Array.isArray(proxy['Upstreams']) ? (proxy['Upstreams'] as readonly Json[]) : []
  // Consul 1.2 to 1.5 did not have this key.
  const upstreams = listed.map(({ MeshGateway: _, ...upstream }) => upstream)
  const hash = service['ContentHash']
  return {
    ProxyServiceID: service['ID'],
    TargetServiceID: proxy['DestinationServiceID'],
    TargetServiceName: proxy['DestinationServiceName'],
    ContentHash: typeof hash === 'string' ? hash : '',
    ExecMode: 'daemon',
    Command: [],
    Config: {
      ...(proxy['Config'] as Json | undefined),
      // Consul 1.2 returned upstreams here; 1.3 returned them in `Upstreams` as well.
      ...(upstreams.length > 0 && { upstreams: upstreams.map((upstream) => keysOf('upstream', upstream)) }),
    },
    Upstreams: upstreams,
  }
}

/** Whether a definition has a `connect.proxy`, without parsing its content. */
function asksForProxy(service: Json): boolean {
  const { connect } = service
  if (typeof connect !== 'object' || connect === null) return false
  const blocks = Array.isArray(connect) ? (connect as readonly unknown[]) : [connect]
  return blocks.some(
    (block) => typeof block === 'object' && block !== null && Boolean(keysOf('connect', block)['proxy']),
  )
}

function isSame(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

function urlOf({ url = '' }: IncomingMessage): URL {
  try {
    return new URL(url, 'http://localhost')
  } catch {
    throw new RequestError(400, 'expected a path')
  }
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    throw new RequestError(400, 'id: invalid percent-encoding')
  }
}

class RequestError extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

function statusOf(error: unknown): number {
  if (error instanceof RequestError) return error.status
  if (error instanceof ConfigurationError) return 400
  return error instanceof AgentError ? 502 : 500
}

async function bodyOf(received: IncomingMessage): Promise<Json> {
  return objectOf(await textOf(received), new RequestError(400, 'expected a JSON object'))
}

function objectOf(text: string, failure: RequestError): Json {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The error of JSON.parse quotes the input, which may hold a token.
    throw failure
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw failure
}

function textOf(received: IncomingMessage): Promise<string> {
  const tooLong = new RequestError(413, `expected at most ${MAX_BODY_BYTES} bytes`)
  if (Number(received.headers['content-length'] ?? 0) > MAX_BODY_BYTES) throw tooLong
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    received.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= MAX_BODY_BYTES) chunks.push(chunk)
      // Do not destroy the request: this would close the connection before the response is sent.
      else reject(tooLong)
    })
    received.once('end', () => {
      resolve(Buffer.concat(chunks).toString())
    })
    received.once('close', () => {
      reject(new RequestError(400, 'request body ended early'))
    })
    received.once('error', reject)
  })
}
