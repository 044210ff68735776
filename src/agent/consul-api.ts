import { expectKeys, expectObject, expectSecret, optional } from '../base/validate.js'
import { expectApiPath } from './api-path.js'
import { AgentClient, type AgentExchange, type AgentRequest } from './client.js'
import type { AgentOptions } from './options.js'
import { agentSettings } from './settings.js'

const KEYS = ['method', 'path', 'query', 'body', 'token', 'signal', 'timeoutMs']

/**
 * The HTTP API of one agent, reached with the same options, bounds and errors as a service reaches it: for programs that
 * register others, or make tokens for them.
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

  /** The agent's address, as in messages. */
  get address(): string {
    return this.#client.address
  }

  /**
   * One request, and the JSON of its answer, unchecked; undefined where the answer is empty.
   * @throws AgentError (also for every status but 2xx), AbortError, OptionError
   * @example
   * ```ts
   * await using consul = connect.consul()
   * await consul.request({ path: '/v1/health/service/api', query: { passing: true } })
   * ```
   */
  async request(request: AgentRequest): Promise<unknown> {
    const { value } = await this.#client.request(checked(request), (body) => body)
    return value
  }

  /**
   * One request, and its answer as it comes, whatever the status.
   * @throws AgentError (when there is no answer), AbortError, OptionError
   * @example
   * ```ts
   * await using consul = connect.consul()
   * const { status, text } = await consul.exchange({ method: 'PUT', path: '/v1/agent/service/deregister/nobody' })
   * console.log(status, text)
   * ```
   */
  async exchange(request: AgentRequest): Promise<AgentExchange> {
    return this.#client.exchange(checked(request))
  }

  /** Ends every request under way and every connection. Idempotent. */
  async close(): Promise<void> {
    await this.#client.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Rejects a request that could reach another resource than its path names. */
function checked(request: AgentRequest): AgentRequest {
  expectKeys('request', expectObject('request', request), KEYS)
  expectApiPath('request.path', request.path)
  optional(expectSecret)('request.token', request.token)
  return request
}
