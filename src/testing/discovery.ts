import type { JsonObject } from './json.js'
import { checkJson, type Instance } from './node.js'
import { healthServiceJson } from './service.js'
import type { State } from './state.js'

/** Who serves under that name, in any case, or for `connect` who proves to be that service. */
export function instancesOf(state: State, name: string, topic: 'service' | 'connect'): Instance[] {
  const wanted = name.toLowerCase()
  return state.catalog
    .instances()
    .filter(
      ({ service }) => (topic === 'service' ? service.name : service.connectName)?.toLowerCase() === wanted,
    )
}

/** Whether all that is wanted is there, in any case. */
export function hasTags(tags: readonly string[], wanted: readonly string[]): boolean {
  const lower = tags.map((tag) => tag.toLowerCase())
  return wanted.every((tag) => lower.includes(tag.toLowerCase()))
}

/** An instance with its node and its checks, as health answers show it. */
export function entryJson(instance: Instance, datacenter: string): JsonObject {
  const { node, service, createIndex, modifyIndex } = instance
  return {
    Node: node.entryJson(datacenter),
    Service: healthServiceJson(service, createIndex, modifyIndex),
    Checks: node.checksFor(service.id).map((check) => checkJson(check, node)),
  }
}
