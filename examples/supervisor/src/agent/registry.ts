import { createHash } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { type ConsulApi, AgentError } from 'consul-connect'
import type { Sender } from '../configuration/definition.js'
import type { Json } from '../configuration/parse.js'

/** A service registered with the agent. */
export interface Registered {
  readonly id: string
  /** 0 if the service has no port. */
  readonly port: number
}

/** Reads and changes the registrations of the local agent. */
export class Registry {
  readonly #api: ConsulApi
  readonly #anonymous: ConsulApi
  readonly #registered = new EventEmitter().setMaxListeners(0)

  /** @param anonymous - client without a token, for services registered by HTTP */
  constructor(api: ConsulApi, anonymous: ConsulApi) {
    this.#api = api
    this.#anonymous = anonymous
  }

  /**
   * Lists the services of the agent, by id. Services that the token may not read are left out.
   * @throws AgentError
   */
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
   * Whether a service is registered. Unlike `list`, distinguishes a missing service from a missing right to read it.
   * @throws Error when the token lacks `service:read`, AgentError
   */
  async isRegistered(id: string): Promise<boolean> {
    const { status } = await this.#api.exchange({ path: `/v1/agent/service/${encodeURIComponent(id)}` })
    if (status === 200 || status === 404) return status === 200
    throw new Error(
      `cannot determine whether ${id} is registered: the agent answered ${status}; grant service:read to the supervisor’s token`,
    )
  }

  /**
   * Registers a service. Needs `service:write`.
   * @throws AgentError
   */
  async register(body: Json, sender: Sender): Promise<void> {
    // Without this flag the agent keeps checks of an older registration with the same id.
    const query = { 'replace-existing-checks': true }
    const path = '/v1/agent/service/register'
    await this.#as(sender).request({ method: 'PUT', path, query, body, token: sender.token })
    this.#registered.emit(`id ${String(body['ID'])}`)
  }

  /** Resolves at the next registration of this id, or when the signal is aborted. */
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
   * Replaces a check of a service by one that is passing until its first run. Needs `service:write`.
   *
   * An agent keeps the status of a check that is registered again (seen in 1.8.7), so the check is removed first. The
   * other checks of the service stay.
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
   * Deregisters a service. Does nothing if it is not registered.
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

/**
 * Fingerprint of a registration, which tells after a restart whether it has changed. Repeating an unchanged
 * registration would remove checks and maintenance that others have set.
 */
export function registrationFingerprint(body: Json, { token, isForeign }: Sender): string {
  return createHash('sha256')
    .update(JSON.stringify([body, token, isForeign]))
    .digest('base64url')
}

function isUnknown({ code, message }: AgentError): boolean {
  return code === 'ERR_CONNECT_AGENT_NOT_FOUND' || isUnknownService(0, message)
}

/**
 * Whether a response means that the service is unknown. Agents return status 404, or 500 with a message up to 1.10
 * (seen in 1.8.7).
 */
export function isUnknownService(status: number, text: string): boolean {
  return status === 404 || /unknown service/i.test(text)
}
