import { type AgentClient, type AgentResponse, right } from '../client.js'
import { type JsonObject, array, maybe, nonEmpty, object, string } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** One intention, as far as a connection is decided by it. `*` stands for any name or namespace. */
export interface Intention {
  readonly source: IntentionSource
  readonly destination: { readonly namespace: string; readonly name: string }
  /** As it is written: `allow`, `deny`, or whatever a version to come may know; empty where permissions decide. */
  readonly action: string
  /** Whether it is decided by each HTTP request. */
  readonly hasPermissions: boolean
}

export interface IntentionSource {
  readonly partition: string
  readonly namespace: string
  readonly name: string
  /** `consul` for a service of a mesh. */
  readonly type: string
  /** The cluster of another trust domain that it is in; undefined for our own. */
  readonly peer: string | undefined
  /** A group of partitions and peers in any of which it may be. */
  readonly samenessGroup: string | undefined
}

/** Reads the intentions about one destination, and can wait for a change of them. */
export type IntentionsReader = (query: BlockingQuery) => Promise<AgentResponse<readonly Intention[]>>

/**
 * The intentions whose destination is `service`, from `GET /v1/connect/intentions/match`: needs `intentions:read` on
 * it, which `service:read` implies.
 *
 * Agents before 1.9 block there when they are given an index, and never tell one. Then the list of all intentions is
 * what is waited for. What is in it is not taken: an agent silently leaves out of a list what a token may not read, and
 * a denial that is not seen would be no denial.
 */
export function intentionsReader(agent: AgentClient, service: string): IntentionsReader {
  let isByList = false
  return async (query) => {
    // The agent may be another version by now.
    if (query.index === undefined) isByList = false
    if (!isByList) {
      const answer = await matchIntentions(agent, service, query)
      if (answer.index !== undefined || query.index !== undefined) return answer
      isByList = true
    }
    // The index first, so that what is read is as new as the index or newer.
    const { index } = await listIndex(agent, query)
    const { value } = await matchIntentions(agent, service, { signal: query.signal })
    return { value, index, hash: undefined }
  }
}

function matchIntentions(
  agent: AgentClient,
  service: string,
  query: BlockingQuery,
): Promise<AgentResponse<readonly Intention[]>> {
  const { query: parameters, ...bounds } = blocking(query)
  return agent.request(
    {
      path: '/v1/connect/intentions/match',
      needs: right('intentions:read', service),
      query: { ...parameters, by: 'destination', name: service },
      ...bounds,
    },
    (body) => parseMatch(body, service),
  )
}

/** The index counts all intentions, whatever passes the filter: this one lets none pass. */
function listIndex(agent: AgentClient, query: BlockingQuery): Promise<AgentResponse<unknown>> {
  const { query: parameters, ...bounds } = blocking(query)
  const path = '/v1/connect/intentions'
  return agent.request(
    { path, query: { ...parameters, filter: 'DestinationName == ""' }, ...bounds },
    (body) => array(body, '').length,
  )
}

/** One that cannot be read spoils all: without it, the others may say the opposite of what is meant. */
export function parseMatch(body: unknown, service: string): Intention[] {
  const answer = object(body, '')
  return array(answer[service], service).map((item, i) => parseIntention(item, `${service}[${i}]`))
}

function parseIntention(item: unknown, place: string): Intention {
  const given = object(item, place)
  const name = (key: string): string => nonEmpty(given[key], `${place}.${key}`)
  const or = (key: string, otherwise: string): string => optionalText(given, key, place) ?? otherwise
  return {
    source: {
      partition: or('SourcePartition', 'default'),
      namespace: or('SourceNS', 'default'),
      name: name('SourceName'),
      type: or('SourceType', 'consul'),
      peer: optionalText(given, 'SourcePeer', place),
      samenessGroup: optionalText(given, 'SourceSamenessGroup', place),
    },
    destination: { namespace: or('DestinationNS', 'default'), name: name('DestinationName') },
    action: or('Action', ''),
    hasPermissions: array(given['Permissions'] ?? null, `${place}.Permissions`).length > 0,
  }
}

function optionalText(given: JsonObject, key: string, place: string): string | undefined {
  return maybe(string)(given[key], `${place}.${key}`)
}
