import type { IncomingMessage } from 'node:http'
import { type AddressInfo, isIP } from 'node:net'
import { type AgentApi, AgentError } from 'consul-connect'
import { LocalServer, type Reply } from 'consul-connect-proxy/local-server'
import type { ServiceDefinition } from '../configuration/definition.js'
import { ConfigurationError } from '../configuration/error.js'
import { keysOf } from '../configuration/keys.js'
import type { Json } from '../configuration/parse.js'

export interface RegistrationActions {
  allowsManaged(): boolean
  /**
   * What it means, checked as a whole.
   * @throws ConfigurationError
   */
  read(request: Json): ServiceDefinition
  /** @throws ConfigurationError when the id is not for whoever sends requests */
  expectFree(id: string): void
  keep(definition: ServiceDefinition, request: Json): Promise<void>
  forget(id: string): Promise<void>
}

const MAX_BODY_BYTES = 1024 * 1024

const REFUSAL =
  'managed proxies by HTTP are off: whoever can register a service could run a command here; set connect { proxy { allow_managed_api_registration = true } } to allow it'

/**
 * The part of the agent's API in which Consul 1.2 to 1.5 took managed proxies. What comes in is passed on with the token
 * of whoever sent it, and never with ours: what the agent refuses them, they do not get from us.
 */
export class RegistrationApi {
  readonly #server: LocalServer
  readonly #agent: AgentApi
  readonly #actions: RegistrationActions

  /** @param agent a client without a token of its own */
  constructor(agent: AgentApi, actions: RegistrationActions) {
    this.#agent = agent
    this.#actions = actions
    this.#server = new LocalServer(
      (request) => this.#answer(request),
      (error) => ({ status: statusOf(error), body: `${error.message}\n` }),
    )
  }

  /** @throws the system's error */
  open(address: { readonly host: string; readonly port: number }): Promise<AddressInfo> {
    return this.#server.open(address)
  }

  close(): void {
    this.#server.close()
  }

  async #answer(received: IncomingMessage): Promise<Reply> {
    expectLocalName(received.headers.host)
    const { pathname, searchParams } = new URL(received.url ?? '', 'http://localhost')
    const header = received.headers['x-consul-token']
    const token = (typeof header === 'string' ? header : undefined) ?? searchParams.get('token') ?? undefined
    const [, encoded] = /^\/v1\/agent\/service\/deregister\/([^/]+)$/.exec(pathname) ?? []
    if (received.method !== 'PUT') throw new RequestError(405, 'expected PUT')
    if (pathname === '/v1/agent/service/register') return this.#register(await bodyOf(received), token)
    if (encoded !== undefined) return this.#deregister(decoded(encoded), token)
    throw new RequestError(
      404,
      `there are /v1/agent/service/register and /v1/agent/service/deregister/:id; the rest is the agent's, at ${this.#agent.address}`,
    )
  }

  async #register(body: Json, token: string | undefined): Promise<Reply> {
    const { token: ofBody, ...rest } = keysOf('the request', body)
    const own = token ?? ofBody
    const request = { ...rest, ...(own !== undefined && { token: own }) }
    const definition = this.#actions.read(request)
    if (definition.managed !== undefined && !this.#actions.allowsManaged())
      throw new RequestError(400, REFUSAL)
    const query = { 'replace-existing-checks': true }
    const passed = { method: 'PUT', path: '/v1/agent/service/register', query } as const
    const sent = { ...passed, body: definition.body, token: definition.sender.token }
    const { status, text } = await this.#agent.exchange(sent)
    if (status === 200) {
      if (definition.managed === undefined) await this.#actions.forget(definition.id)
      else await this.#actions.keep(definition, request)
    }
    return { status, body: text }
  }

  async #deregister(id: string, token: string | undefined): Promise<Reply> {
    this.#actions.expectFree(id)
    const path = `/v1/agent/service/deregister/${encodeURIComponent(id)}`
    const { status, text } = await this.#agent.exchange({ method: 'PUT', path, token })
    if (status === 200) await this.#actions.forget(id)
    return { status, body: text }
  }
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    throw new RequestError(400, 'expected an id that is encoded as a part of a path')
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

/** A page in a browser of this machine can be made to reach us under its own name. */
function expectLocalName(host = ''): void {
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  if (name !== 'localhost' && isIP(name) === 0)
    throw new RequestError(403, 'expected an IP address as the host')
}

async function bodyOf(received: IncomingMessage): Promise<Json> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of received) {
    size += (chunk as Buffer).length
    if (size > MAX_BODY_BYTES) throw new RequestError(413, `expected at most ${MAX_BODY_BYTES} bytes`)
    chunks.push(chunk as Buffer)
  }
  let body: unknown
  try {
    body = JSON.parse(Buffer.concat(chunks).toString())
  } catch {
    throw new RequestError(400, 'expected JSON')
  }
  if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Json
  throw new RequestError(400, 'expected a JSON object')
}
