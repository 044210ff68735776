import { expectKeys, expectObject, expectSecret, optional } from '../base/options/validate.js'
import { expectApiPath } from './api-path.js'
import { AgentClient, type AgentExchange, type AgentRequest } from './client.js'
import type { AgentOptions } from './options.js'
import { agentSettings } from './settings.js'

const KEYS = ['method', 'path', 'query', 'body', 'token', 'signal', 'timeoutMs']

/**
 * A client of the HTTP API of one agent, with the options, timeouts, and errors of a service. For programs that
 * register other services or create tokens for them.
 *
 * ```ts
 * await using agent = connect.consul()
 * const services = await agent.request({ path: '/v1/agent/services' })
 * ```
 */
export class ConsulApi implements AsyncDisposable {
  readonly #client: AgentClient

  constructor(options?: AgentOptions) {
    this.#client = new AgentClient(agentSettings(options))
  }

  /** The address of the agent, as in messages. */
  get address(): string {
    return this.#client.address
  }

  /**
   * Sends a request and returns the parsed JSON of the response, which is not validated; undefined for an empty body.
   * @throws AgentError (also for a status other than 2xx), AbortError, OptionError
   * @example
   * ```ts
   * await using consul = connect.consul()
   * await consul.request({ path: '/v1/health/service/api', query: { passing: true } })
   * ```
   */
  async request(request: AgentRequest): Promise<unknown> {
    const { value } = await this.#client.request(validated(request), (body) => body)
    return value
  }

  /**
   * Sends a request and returns the response, whatever its status.
   * @throws AgentError (when there is no response), AbortError, OptionError
   * @example
   * ```ts
   * await using consul = connect.consul()
   * const { status, text } = await consul.exchange({ method: 'PUT', path: '/v1/agent/service/deregister/missing' })
   * console.log(status, text)
   * ```
   */
  async exchange(request: AgentRequest): Promise<AgentExchange> {
    return this.#client.exchange(validated(request))
  }

  /** Aborts all requests and closes all connections. Idempotent. */
  async close(): Promise<void> {
    await this.#client.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Validates a request, so that it cannot reach another resource than its path names. */
function validated(request: AgentRequest): AgentRequest {
  expectKeys('request', expectObject('request', request), KEYS)
  expectApiPath('request.path', request.path)
  optional(expectSecret)('request.token', request.token)
  return request
}
