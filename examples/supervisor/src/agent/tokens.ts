import { randomUUID } from 'node:crypto'
import { type ConsulApi, type AgentExchange, AgentError } from 'consul-connect'

/** An ACL token of one proxy. Both of its ids are chosen here, and written down before the agent is asked for it. */
export interface ProxyToken {
  readonly accessor: string
  readonly secret: string
  /** The service whose identity it has. */
  readonly service: string
  /** Whether the agent has said that it is made. */
  readonly isMade: boolean
}

export function newToken(service: string): ProxyToken {
  return { accessor: randomUUID(), secret: randomUUID(), service, isMade: false }
}

/** How long the word of the agent counts that it has no ACLs. */
const OFF_MS = 60_000

/** Makes tokens that are as narrow as a proxy can live with: those of its service's identity, in this datacenter. */
export class Tokens {
  readonly #api: ConsulApi
  #offSince: number | undefined

  constructor(api: ConsulApi) {
    this.#api = api
  }

  /** @throws AgentError */
  async areOn(): Promise<boolean> {
    const now = performance.now()
    if (this.#offSince !== undefined && now - this.#offSince < OFF_MS) return false
    const isOff = areAclsOff(await this.#api.exchange({ path: '/v1/acl/token/self' }))
    this.#offSince = isOff ? now : undefined
    return !isOff
  }

  /**
   * Makes it, or finds that an earlier try has made it already.
   * @throws Error, which says what to grant; AgentError
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
        'the supervisor’s token may not create tokens: grant it acl = "write" (and service:write for the services and their proxies)',
      )
    }
    const isMade = /already in use/i.test(answer.text) && (await this.state(token)) === 'known'
    if (!isMade) throw refusal(`the agent made no token for ${token.service}`, answer)
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
    if (own.status !== 200) throw refusal('the agent does not recognize the supervisor’s own token', own)
    return this.#read(secret)
  }

  async #read(secret: string): Promise<'known' | 'unknown' | 'off'> {
    const answer = await this.#api.exchange({ path: '/v1/acl/token/self', token: secret })
    if (answer.status === 200) return 'known'
    if (areAclsOff(answer)) return 'off'
    // 1.8: "ACL not found" with status 403. Other statuses say nothing about the token.
    if (answer.status === 403) return 'unknown'
    throw refusal('the agent does not tell whether a token exists', answer)
  }

  /**
   * @returns whether it is gone; with ACLs off it is there still
   * @throws Error, AgentError
   */
  async revoke(accessor: string): Promise<boolean> {
    const path = `/v1/acl/token/${encodeURIComponent(accessor)}`
    const answer = await this.#api.exchange({ method: 'DELETE', path })
    // 1.8.7 answers 200 for one that it does not know; 403 is about our own token.
    if (answer.status === 200 || answer.status === 404) return true
    if (areAclsOff(answer)) return false
    throw refusal(`the token ${accessor} could not be revoked`, answer)
  }
}

/** 1.8: "ACL support disabled", with status 401. */
function areAclsOff({ status, text }: AgentExchange): boolean {
  return status === 401 && /acl support disabled/i.test(text)
}

const MAX_SAID_LENGTH = 500

function refusal(what: string, { status, text }: AgentExchange): Error {
  // The agent reports several problems as a list with one line each.
  const said = text.trim().replaceAll(/\s+/g, ' ').slice(0, MAX_SAID_LENGTH)
  return new Error(`${what}: it answered ${status} ${JSON.stringify(said)}`)
}

/** Whether it may succeed a moment later although nobody has done anything about it. */
export function isAway(error: unknown): boolean {
  return (
    error instanceof AgentError &&
    ['ERR_CONNECT_AGENT_UNREACHABLE', 'ERR_CONNECT_AGENT_TIMEOUT', 'ERR_CONNECT_AGENT_FAILED'].includes(
      error.code,
    )
  )
}
