import { createHash } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { type ConsulApi, AgentError } from 'consul-connect'
import type { Sender } from '../configuration/definition.js'
import type { Json } from '../configuration/parse.js'

/** What the agent knows of a service that is registered with it. */
export interface Registered {
  readonly id: string
  /** 0 for none */
  readonly port: number
}

/** The services of one agent. */
export class Registry {
  readonly #api: ConsulApi
  readonly #anonymous: ConsulApi
  readonly #registered = new EventEmitter().setMaxListeners(0)

  /** @param anonymous the same without a token, for what others have asked for */
  constructor(api: ConsulApi, anonymous: ConsulApi) {
    this.#api = api
    this.#anonymous = anonymous
  }

  /** @throws AgentError */
  async list(signal?: AbortSignal): Promise<ReadonlyMap<string, Registered>> {
    const services = await this.#api.request({ path: '/v1/agent/services', ...(signal && { signal }) })
    if (typeof services !== 'object' || services === null) return new Map()
    return new Map(
      Object.entries(services as Json).map(([id, service]) => {
        const port = (service as Json | null)?.['Port']
        return [id, { id, port: typeof port === 'number' ? port : 0 }]
      }),
    )
  }

  /**
   * Whether it is there, for certain: the list leaves out what a token may not see.
   * @throws Error when that cannot be told, AgentError
   */
  async isThere(id: string): Promise<boolean> {
    const { status } = await this.#api.exchange({ path: `/v1/agent/service/${encodeURIComponent(id)}` })
    if (status === 200 || status === 404) return status === 200
    throw new Error(
      `the agent does not tell whether it knows ${id}: it answered ${status}; the supervisor’s token needs service:read`,
    )
  }

  /**
   * Needs `service:write`.
   * @throws AgentError
   */
  async register(body: Json, sender: Sender): Promise<void> {
    // Without this flag a registration would keep the checks of an older one under the same id.
    const query = { 'replace-existing-checks': true }
    const path = '/v1/agent/service/register'
    await this.#as(sender).request({ method: 'PUT', path, query, body, token: sender.token })
    this.#registered.emit(`id ${String(body['ID'])}`)
  }

  /** Resolves at the next registration under this id, or when the signal is aborted. */
  async nextRegistration(id: string, signal: AbortSignal): Promise<void> {
    await once(this.#registered, `id ${id}`, { signal }).catch(() => undefined)
  }

  /**
   * Whether a check is passing. Needs `service:read`.
   * @throws AgentError
   */
  async isPassing(checkId: string, sender: Sender): Promise<boolean> {
    const checks = await this.#as(sender).request({ path: '/v1/agent/checks', token: sender.token })
    const check = (checks as Readonly<Record<string, Json | undefined>> | null)?.[checkId]
    return check?.['Status'] === 'passing'
  }

  /**
   * Replaces a check of a service by one that is passing until the agent runs it. Needs `service:write`.
   *
   * An agent keeps the status of a check that is registered again (seen in 1.8.7), so the check is removed first. The
   * service has its other checks meanwhile.
   * @param check - as in the registration of the service
   * @throws AgentError, after which the check may be missing
   */
  async registerPassing(serviceId: string, check: Json, sender: Sender): Promise<void> {
    const { CheckID: id, ...rest } = check
    const { token } = sender
    const api = this.#as(sender)
    const path = `/v1/agent/check/deregister/${encodeURIComponent(String(id))}`
    await api.request({ method: 'PUT', path, token })
    const body = { ...rest, ID: id, ServiceID: serviceId, Status: 'passing' }
    await api.request({ method: 'PUT', path: '/v1/agent/check/register', body, token })
  }

  /**
   * One that is not there is as good as taken away.
   * @throws AgentError
   */
  async deregister(id: string, sender: Sender): Promise<void> {
    const path = `/v1/agent/service/deregister/${encodeURIComponent(id)}`
    try {
      await this.#as(sender).request({ method: 'PUT', path, token: sender.token })
    } catch (error) {
      if (!(error instanceof AgentError && isUnknown(error))) throw error
    }
  }

  #as({ isForeign }: Sender): ConsulApi {
    return isForeign ? this.#anonymous : this.#api
  }
}

/** By which a registration is known again, after a restart too: what is registered anew loses what others have added. */
export function registrationPrint(body: Json, { token, isForeign }: Sender): string {
  return createHash('sha256')
    .update(JSON.stringify([body, token, isForeign]))
    .digest('base64url')
}

function isUnknown({ code, message }: AgentError): boolean {
  return code === 'ERR_CONNECT_AGENT_NOT_FOUND' || isUnknownService(0, message)
}

/** Whether an agent says that it has no such service. Status 404, or 500 with words up to 1.10 (seen in 1.8.7). */
export function isUnknownService(status: number, text: string): boolean {
  return status === 404 || /unknown service/i.test(text)
}
