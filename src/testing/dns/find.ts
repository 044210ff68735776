import { hasTags, instancesOf } from '../discovery.js'
import { parseDuration } from '../duration.js'
import { isCritical, isPassing, type Instance } from '../node.js'
import { executeQuery } from '../query-execute.js'
import { shuffled } from '../shuffle.js'
import type { State } from '../state.js'
import type { Lookup } from './name.js'
import type { DnsSettings } from './options.js'

/** Who stands behind a name, where that is, and for how many seconds one may rely on it. */
export interface Found {
  instances: Instance[]
  datacenter: string
  ttl: number
}

const nobody: Found = { instances: [], datacenter: '', ttl: 0 }

export function findService(
  own: State,
  settings: DnsSettings,
  lookup: Lookup & { kind: 'service' | 'connect' },
): Found {
  const state = stateOf(own, lookup.datacenter)
  if (!state) return nobody
  const tags = lookup.kind === 'service' && lookup.tag !== '' ? [lookup.tag] : []
  const permissions = state.acl.permissions(settings.token)
  const instances = instancesOf(state, lookup.service, lookup.kind)
    .filter(({ service }) => permissions.service(service.name, 'read') && hasTags(service.tags, tags))
    .filter((instance) => (settings.onlyPassing ? isPassing(instance) : !isCritical(instance)))
  return {
    instances: own.shuffle ? shuffled(instances) : instances,
    datacenter: state.datacenter,
    ttl: seconds(settings.serviceTtlMs),
  }
}

export function findQuery(own: State, settings: DnsSettings, lookup: Lookup & { kind: 'query' }): Found {
  const state = stateOf(own, lookup.datacenter)
  const query = state?.queries.resolve(lookup.query)?.query
  if (!state || !query) return nobody
  const { instances, datacenter } = executeQuery(state, {
    query,
    near: '',
    limit: 0,
    connect: false,
    token: settings.token,
    agentNode: own.catalog.own.name,
  })
  const ttlMs = query.dnsTtl === '' ? settings.serviceTtlMs : (parseDuration(query.dnsTtl) ?? 0)
  return { instances, datacenter, ttl: seconds(ttlMs) }
}

/** A datacenter that is not known has no names. */
export function stateOf(own: State, datacenter: string): State | undefined {
  if (!['', ...own.federation.datacenters()].includes(datacenter)) return undefined
  return own.federation.find(datacenter)
}

export function seconds(ms: number): number {
  return Math.floor(ms / 1000)
}
