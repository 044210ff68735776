import type { AgentClient, AgentResponse } from '../client.js'
import { right } from '../agent-errors.js'
import { type Permission, parsePermissions } from './permissions.js'
import { type JsonObject, array, maybe, nonEmpty, object, string } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** The parts of an intention that decide a connection. `*` matches any name or namespace. */
export interface Intention {
  readonly source: IntentionSource
  readonly destination: { readonly namespace: string; readonly name: string }
  /** `allow`, `deny`, or a value of a later version; empty if permissions decide. */
  readonly action: string
  /** The permissions that decide each HTTP request; an empty list if the action decides. */
  readonly permissions: readonly Permission[]
  /** Why this version cannot tell what the intention allows; undefined if it can. */
  readonly problem: string | undefined
}

export interface IntentionSource {
  readonly partition: string
  readonly namespace: string
  readonly name: string
  /** `consul` for a service of the mesh. */
  readonly type: string
  /** The cluster peer of the source; undefined for our own cluster. */
  readonly peer: string | undefined
  /** A group of partitions and peers that the source may be in. */
  readonly samenessGroup: string | undefined
}

/** Reads the intentions for one destination, also as a blocking query. */
export type IntentionsReader = (query: BlockingQuery) => Promise<AgentResponse<readonly Intention[]>>

/**
 * Returns a reader of the intentions whose destination is `service`: `GET /v1/connect/intentions/match`. Needs
 * `intentions:read` on the service, which `service:read` implies.
 *
 * Agents before 1.9 accept an index there but return none. For these agents, the reader waits for a change of the list
 * of all intentions. It does not use the contents of the list, since an agent silently filters a list by ACLs, and a
 * missing deny intention would allow the connection.
 */
export function intentionsReader(agent: AgentClient, service: string): IntentionsReader {
  let isByList = false
  return async (query) => {
    // The agent may have been upgraded.
    if (query.index === undefined) isByList = false
    if (!isByList) {
      const answer = await matchIntentions(agent, service, query)
      if (answer.index !== undefined || query.index !== undefined) return answer
      isByList = true
    }
    // Read the index first, so that the intentions are at least as new as the index.
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

/** Waits for a change of any intention. The index ignores the filter, which keeps the response empty. */
function listIndex(agent: AgentClient, query: BlockingQuery): Promise<AgentResponse<unknown>> {
  const { query: parameters, ...bounds } = blocking(query)
  const path = '/v1/connect/intentions'
  return agent.request(
    { path, query: { ...parameters, filter: 'DestinationName == ""' }, ...bounds },
    (body) => array(body, '').length,
  )
}

/** One malformed intention fails the whole read: without it, the others may have the opposite effect. */
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
    permissions: parsePermissions(given['Permissions'], `${place}.Permissions`),
    problem: problemOf(given),
  }
}

const FIELDS: ReadonlySet<string> = new Set([
  ...[
    'ID',
    'Description',
    'Meta',
    'Precedence',
    'Hash',
    'CreatedAt',
    'UpdatedAt',
    'CreateIndex',
    'ModifyIndex',
  ],
  ...['SourcePartition', 'SourceNS', 'SourceName', 'SourceType', 'SourcePeer', 'SourceSamenessGroup'],
  ...['DestinationPartition', 'DestinationNS', 'DestinationName', 'Action', 'Permissions', 'JWT'],
  // Written by Consul 1.8 and before.
  ...['DefaultAddr', 'DefaultPort'],
])

/** Versions of Consul since 1.9 have added fields that limit what an intention allows. */
function problemOf(given: JsonObject): string | undefined {
  const unknown = Object.keys(given).filter((field) => !FIELDS.has(field) && !isZero(given[field]))
  if (unknown.length > 0)
    return `the unknown field ${unknown.map((field) => JSON.stringify(field)).join(', ')}`
  return isZero(given['JWT']) ? undefined : 'a requirement of JSON Web Tokens, which are not supported'
}

/** Whether Go would write the value for a field that was not set. */
function isZero(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0
  return value === undefined || value === null || value === '' || value === 0 || value === false
}

function optionalText(given: JsonObject, key: string, place: string): string | undefined {
  return maybe(string)(given[key], `${place}.${key}`)
}
