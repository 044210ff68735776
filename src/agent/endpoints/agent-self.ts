import type { AgentClient, AgentResponse } from '../client.js'
import { boolean, maybe, object, string } from '../json.js'

/**
 * Reads the default policy for intentions from the settings of the agent: `GET /v1/agent/self`. Needs `agent:read`.
 * @returns `allow`, `deny`, or a value of a later version
 */
export function fetchDefaultPolicy(agent: AgentClient): Promise<AgentResponse<string>> {
  return agent.request({ path: '/v1/agent/self', needs: 'agent:read' }, parseDefaultPolicy)
}

/** Consul 1.18 and later has a setting for intentions; without it, the default policy of ACLs counts, if they are on. */
export function parseDefaultPolicy(body: unknown): string {
  const config = object(object(body, '')['DebugConfig'], 'DebugConfig')
  const text = (value: unknown, field: string): string | undefined =>
    maybe(string)(value, `DebugConfig.${field}`)
  const own = text(config['DefaultIntentionPolicy'], 'DefaultIntentionPolicy')
  if (own !== undefined) return own
  if (!boolean(config['ACLsEnabled'], 'DebugConfig.ACLsEnabled')) return 'allow'
  const resolver = maybe(object)(config['ACLResolverSettings'], 'DebugConfig.ACLResolverSettings')
  const policy =
    text(resolver?.['ACLDefaultPolicy'], 'ACLResolverSettings.ACLDefaultPolicy') ??
    // Consul 1.9.
    text(config['ACLDefaultPolicy'], 'ACLDefaultPolicy')
  return policy ?? 'deny'
}
