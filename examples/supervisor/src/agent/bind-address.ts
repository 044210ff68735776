import { isIP } from 'node:net'
import type { ConsulApi } from 'consul-connect'

const TIMEOUT_MS = 5_000

/**
 * Reads the agent's own bind address, on which Consul 1.2 to 1.5 let managed proxies listen.
 * @throws Error, which says what to grant; AgentError
 */
export async function readBindAddress(api: ConsulApi, signal: AbortSignal): Promise<string> {
  const self = await api.request({ path: '/v1/agent/self', signal, timeoutMs: TIMEOUT_MS })
  const address = (self as { DebugConfig?: { BindAddr?: unknown } | null } | null)?.DebugConfig?.BindAddr
  if (typeof address === 'string' && isIP(address) !== 0) return address
  throw new Error('GET /v1/agent/self names no bind address')
}
