import type { AgentClient, AgentResponse } from '../client.js'
import { array, maybe, object, string, wholeNumber } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** The kinds of config entries that Consul compiles discovery chains from. */
export const CHAIN_KINDS = [
  'service-resolver',
  'service-splitter',
  'service-router',
  'service-defaults',
  'proxy-defaults',
] as const

export type ChainKind = (typeof CHAIN_KINDS)[number]

/** The config entries of one kind, reduced to what shows a change. */
export interface EntryVersions {
  readonly entries: readonly EntryVersion[]
  /** Whether the agent left out entries that the token may not read; reported by Consul 1.11 and later. */
  readonly isFiltered: boolean
}

/** The name of an entry and the index of its last change. */
type EntryVersion = readonly [name: string, modifyIndex: number]

/**
 * Reads the versions of the config entries of one kind: `GET /v1/config/:kind`. The agent leaves out entries of services
 * for which the token lacks `service:read`.
 */
export async function fetchEntryVersions(
  agent: AgentClient,
  kind: ChainKind,
  query: BlockingQuery,
): Promise<AgentResponse<EntryVersions>> {
  const { query: parameters, ...bounds } = blocking(query)
  const request = { path: `/v1/config/${kind}`, query: { stale: true, ...parameters }, ...bounds }
  const response = await agent.request(request, parseEntryVersions)
  return { ...response, value: { entries: response.value, isFiltered: response.isFiltered === true } }
}

export function parseEntryVersions(body: unknown): readonly EntryVersion[] {
  return array(body, '').map((item, i) => {
    const { Name, ModifyIndex } = object(item, `[${i}]`)
    return [string(Name, `[${i}].Name`), maybe(wholeNumber)(ModifyIndex, `[${i}].ModifyIndex`) ?? 0]
  })
}
