import { isIP } from 'node:net'
import type { ConsulApi } from 'consul-connect'
import type { Configuration } from '../configuration/configuration.js'

const TIMEOUT_MS = 5_000
/** Delay after a read, successful or not. */
const RETRY_MS = 15_000
/** Bind address if neither the configuration nor the agent provides one. */
const ALL_ADDRESSES = '0.0.0.0'

type BindSettings = Pick<Configuration, 'bindAddress' | 'isBindTemplate'>

/** Determines the address on which proxies listen: `bind_addr` of the configuration, or the bind address of the agent. */
export class BindAddress {
  readonly #api: ConsulApi
  readonly #warn: (message: string) => void
  #agent: { readonly generation: number | undefined; readonly address: string | undefined } | undefined
  #retryAt = 0

  constructor(api: ConsulApi, warn: (message: string) => void) {
    this.#api = api
    this.#warn = warn
  }

  /**
   * Reads the bind address of the agent if the configuration does not set one. Reads it again after a restart of the
   * agent, which may change it.
   * @param generation - generation of the agent; undefined while it is unknown
   * @returns whether the address was read, or an attempt to read it failed
   */
  async update(
    { bindAddress, isBindTemplate }: BindSettings,
    generation: number | undefined,
    signal: AbortSignal,
  ): Promise<boolean> {
    const isKnown = this.#agent?.address !== undefined && this.#agent.generation === generation
    if (bindAddress !== undefined || isKnown || performance.now() < this.#retryAt) return false
    this.#retryAt = performance.now() + RETRY_MS
    try {
      this.#agent = { generation, address: await readBindAddress(this.#api, signal) }
    } catch (error) {
      this.#agent ??= { generation, address: undefined }
      if (this.#agent.address !== undefined) return true
      const effect = isBindTemplate ? 'no proxy is started' : `proxies listen on ${ALL_ADDRESSES}`
      this.#warn(
        `cannot read the agent’s bind address, so ${effect}; grant agent:read, or set bind_addr to an IP address: ${(error as Error).message}`,
      )
    }
    return true
  }

  /** Returns the bind address of the proxies. */
  resolve({ bindAddress }: BindSettings): string {
    return bindAddress ?? this.#agent?.address ?? ALL_ADDRESSES
  }

  /**
   * Checks that a `bind_addr` template has a value. Falling back to all addresses would expose the proxies.
   * @throws Error
   */
  expectKnown({ bindAddress, isBindTemplate }: BindSettings): void {
    if (!isBindTemplate || (bindAddress ?? this.#agent?.address) !== undefined) return
    throw new Error(
      'bind_addr: a template stands for the agent’s bind address, which cannot be read; set bind_addr to an IP address',
    )
  }
}

/**
 * Reads the bind address of the agent, on which Consul 1.2 to 1.5 made managed proxies listen. Needs `agent:read`.
 * @throws AgentError, or Error when the response has no address
 */
async function readBindAddress(api: ConsulApi, signal: AbortSignal): Promise<string> {
  const self = await api.request({ path: '/v1/agent/self', signal, timeoutMs: TIMEOUT_MS })
  const address = (self as { DebugConfig?: { BindAddr?: unknown } | null } | null)?.DebugConfig?.BindAddr
  if (typeof address === 'string' && isIP(address) !== 0) return address
  throw new Error('GET /v1/agent/self returned no bind address')
}
