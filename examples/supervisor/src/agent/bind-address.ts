import { isIP } from 'node:net'
import type { ConsulApi } from 'consul-connect'

const TIMEOUT_MS = 5_000

/**
 * Reads the bind address of the agent, on which Consul 1.2 to 1.5 made managed proxies listen. Needs `agent:read`.
 * @throws AgentError, or Error when the response has no address
 */
export async function readBindAddress(api: ConsulApi, signal: AbortSignal): Promise<string> {
  const self = await api.request({ path: '/v1/agent/self', signal, timeoutMs: TIMEOUT_MS })
  const address = (self as { DebugConfig?: { BindAddr?: unknown } | null } | null)?.DebugConfig?.BindAddr
  if (typeof address === 'string' && isIP(address) !== 0) return address
  throw new Error('GET /v1/agent/self returned no bind address')
}
