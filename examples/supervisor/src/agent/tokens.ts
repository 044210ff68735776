import { randomUUID } from 'node:crypto'
import { type ConsulApi, type AgentExchange, AgentError } from 'consul-connect'

/** ACL token of one proxy. The supervisor chooses both ids and saves them before it creates the token. */
export interface ProxyToken {
  readonly accessor: string
  readonly secret: string
  /** Name of the service identity. */
  readonly service: string
  /** Whether the agent confirmed the creation. */
  readonly isCreated: boolean
}

/** Chooses the ids of a new token, which `Tokens.create` creates. */
export function newToken(service: string): ProxyToken {
  return { accessor: randomUUID(), secret: randomUUID(), service, isCreated: false }
}

/** How long to cache the response that ACLs are disabled. */
const OFF_MS = 60_000

/**
 * Creates, checks, and revokes the ACL tokens of proxies. A token is local to the datacenter and carries only the
 * identity of its service.
 */
export class Tokens {
  readonly #api: ConsulApi
  #offSince: number | undefined

  constructor(api: ConsulApi) {
    this.#api = api
  }

  /**
   * Whether ACLs are enabled. A negative response is cached for 1 minute.
   * @throws AgentError
   */
  async areOn(): Promise<boolean> {
    const now = performance.now()
    if (this.#offSince !== undefined && now - this.#offSince < OFF_MS) return false
    const isOff = areAclsOff(await this.#api.exchange({ path: '/v1/acl/token/self' }))
    this.#offSince = isOff ? now : undefined
    return !isOff
  }

  /**
   * Creates a token. Succeeds if an earlier attempt already created it.
   * @throws AgentError, or Error that says which right to grant
   */
  async create(token: ProxyToken, description: string): Promise<void> {
    const body = {
      AccessorID: token.accessor,
      SecretID: token.secret,
      Description: description,
      Local: true,
      ServiceIdentities: [{ ServiceName: token.service }],
    }
    const answer = await this.#api.exchange({ method: 'PUT', path: '/v1/acl/token', body })
    if (answer.status === 200) return
    if (answer.status === 403) {
      throw new Error(
        'the supervisor’s token may not create tokens; grant it acl = "write" (and service:write for the services and their proxies)',
      )
    }
    const isCreated = /already in use/i.test(answer.text) && (await this.state(token)) === 'known'
    if (!isCreated) throw refusal(`cannot create a token for ${token.service}`, answer)
  }

  /**
   * Whether the agent knows a token. A restarting server answers "ACL not found" for every token for a moment, so that
   * answer counts only if the supervisor's own token is known at the same time.
   * @throws Error, AgentError
   */
  async state({ secret }: Pick<ProxyToken, 'secret'>): Promise<'known' | 'unknown' | 'off'> {
    const first = await this.#read(secret)
    if (first !== 'unknown') return first
    const own = await this.#api.exchange({ path: '/v1/acl/token/self' })
    if (own.status !== 200) throw refusal('the agent rejected the supervisor’s own token', own)
    return this.#read(secret)
  }

  async #read(secret: string): Promise<'known' | 'unknown' | 'off'> {
    const answer = await this.#api.exchange({ path: '/v1/acl/token/self', token: secret })
    if (answer.status === 200) return 'known'
    if (areAclsOff(answer)) return 'off'
    // Consul 1.8 returns "ACL not found" with status 403. Other statuses do not say whether the token exists.
    if (answer.status === 403) return 'unknown'
    throw refusal('cannot determine whether a token exists', answer)
  }

  /**
   * Revokes a token.
   * @returns whether the token is gone; false if ACLs are disabled, when the token may still exist
   * @throws Error, AgentError
   */
  async revoke(accessor: string): Promise<boolean> {
    const path = `/v1/acl/token/${encodeURIComponent(accessor)}`
    const answer = await this.#api.exchange({ method: 'DELETE', path })
    // Consul 1.8.7 returns 200 for an unknown token. Status 403 means that the supervisor's token lacks rights.
    if (answer.status === 200 || answer.status === 404) return true
    if (areAclsOff(answer)) return false
    throw refusal(`cannot revoke token ${accessor}`, answer)
  }
}

/** Consul 1.8 returns "ACL support disabled" with status 401. */
function areAclsOff({ status, text }: AgentExchange): boolean {
  return status === 401 && /acl support disabled/i.test(text)
}

const MAX_MESSAGE_LENGTH = 500

function refusal(problem: string, { status, text }: AgentExchange): Error {
  // The agent reports several problems as a list with one line each.
  const message = text.trim().replaceAll(/\s+/g, ' ').slice(0, MAX_MESSAGE_LENGTH)
  return new Error(`${problem}: the agent answered ${status} ${JSON.stringify(message)}`)
}

/** Whether a request failed because the agent was unavailable, so that a retry may succeed soon. */
export function isAway(error: unknown): boolean {
  return (
    error instanceof AgentError &&
    ['ERR_CONNECT_AGENT_UNREACHABLE', 'ERR_CONNECT_AGENT_TIMEOUT', 'ERR_CONNECT_AGENT_FAILED'].includes(
      error.code,
    )
  )
}
