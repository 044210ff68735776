import { type AgentApi, type AgentExchange, AgentError } from 'consul-connect'
import type { Json } from '../configuration/parse.js'

/** An ACL token of one proxy. */
export interface ProxyToken {
  readonly accessor: string
  readonly secret: string
}

/** Makes tokens that are as narrow as a proxy can live with: those of its service's identity, in this datacenter. */
export class Tokens {
  readonly #api: AgentApi

  constructor(api: AgentApi) {
    this.#api = api
  }

  /**
   * Undefined where ACLs are off.
   * @param accessor chosen beforehand, so that it can be written down before there is a token to lose
   * @throws Error, which says what to grant; AgentError
   */
  async create(accessor: string, service: string, description: string): Promise<ProxyToken | undefined> {
    const body = {
      AccessorID: accessor,
      Description: description,
      Local: true,
      ServiceIdentities: [{ ServiceName: service }],
    }
    const answer = await this.#api.exchange({ method: 'PUT', path: '/v1/acl/token', body })
    if (areAclsOff(answer)) return undefined
    if (answer.status === 403) {
      throw new Error(
        'the supervisor’s token may not create tokens: grant it acl = "write" (and service:write for the services and their proxies)',
      )
    }
    if (answer.status !== 200) throw refusal(`the agent made no token for ${service}`, answer)
    const { SecretID: secret } = JSON.parse(answer.text) as Json
    if (typeof secret === 'string') return { accessor, secret }
    throw new Error(`the agent made a token for ${service} and did not tell it`)
  }

  /**
   * Whether it is known still. Somebody may have deleted it.
   * @throws AgentError
   */
  async exists({ secret }: ProxyToken): Promise<boolean> {
    const answer = await this.#api.exchange({ path: '/v1/acl/token/self', token: secret })
    if (answer.status === 200) return true
    // 1.8: "ACL not found" with status 403; with ACLs off, 401. Anything else tells nothing about the token.
    if (answer.status === 403 || areAclsOff(answer)) return false
    throw refusal('the agent does not tell whether a token exists', answer)
  }

  /**
   * One that is gone already is as good.
   * @throws Error, AgentError
   */
  async revoke(accessor: string): Promise<void> {
    const path = `/v1/acl/token/${encodeURIComponent(accessor)}`
    const answer = await this.#api.exchange({ method: 'DELETE', path })
    const isGone = answer.status === 200 || answer.status === 404 || areAclsOff(answer)
    if (!isGone && !/acl not found/i.test(answer.text)) {
      throw refusal(`the token ${accessor} could not be revoked`, answer)
    }
  }
}

/** 1.8: "ACL support disabled", with status 401. */
function areAclsOff({ status, text }: AgentExchange): boolean {
  return status === 401 && /acl support disabled/i.test(text)
}

function refusal(what: string, { status, text }: AgentExchange): Error {
  const said = text.split('\n', 1)[0]?.slice(0, 200) ?? ''
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
