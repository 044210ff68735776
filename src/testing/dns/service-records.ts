import { isIP } from 'node:net'
import type { Instance } from '../node.js'
import {
  addressName,
  addressRecord,
  aliasRecord,
  metaRecords,
  nodeName,
  serviceRecord,
  type DnsRecord,
  type Records,
  type Zone,
} from './records.js'

export interface Question {
  name: string
  type: string
}

interface Surroundings {
  zone: Zone
  /** Where another name leads, as far as that is known here. */
  follow: (name: string) => DnsRecord[]
  /** Whether to add the metadata of nodes. */
  withMeta: boolean
}

/** A and AAAA of each host once, or where there is none the first name that leads to one. */
export function hostRecords(
  question: Question,
  instances: Instance[],
  { zone, follow }: Surroundings,
): Records {
  const hosts = new Map<string, DnsRecord>()
  let alias: DnsRecord[] = []
  for (const { node, service } of instances) {
    const host = service.address === '' ? node.address : service.address
    const address = isOwnName(host, question) ? node.address : host
    if (isIP(address) !== 0) {
      const record = addressRecord(question.name, address, question.type, zone.ttl)
      if (record) hosts.set(address, record)
    } else if (alias.length === 0) {
      alias = [aliasRecord(question.name, address, zone.ttl), ...follow(address)]
    }
  }
  return { answers: hosts.size > 0 ? [...hosts.values()] : alias, additionals: [] }
}

/** Where to connect to: one SRV for each place, and in the additional section the addresses. */
export function serviceRecords(
  question: Question,
  instances: Instance[],
  surroundings: Surroundings,
): Records {
  const { zone, withMeta } = surroundings
  const records: Records = { answers: [], additionals: [] }
  const seen = new Set<string>()
  for (const instance of instances) {
    const { node, service } = instance
    const place = `${node.name}:${service.address}:${service.port}`
    if (seen.has(place)) continue
    seen.add(place)
    const { target, additionals } = targetOf(question, instance, surroundings)
    records.answers.push(serviceRecord(question.name, instance, target, zone.ttl))
    records.additionals.push(...additionals)
    if (withMeta) records.additionals.push(...metaRecords(nodeName(node.name, zone), node, zone.ttl))
  }
  return records
}

/** A node's own address goes by the node's name, any other address by one that says it. */
function targetOf(
  question: Question,
  { node, service }: Instance,
  { zone, follow }: Surroundings,
): { target: string; additionals: DnsRecord[] } {
  const onNode = service.address === '' || isOwnName(service.address, question)
  const host = onNode ? node.address : service.address
  if (isIP(host) === 0) return { target: host, additionals: follow(host) }
  const target = onNode ? nodeName(node.name, zone) : addressName(host, zone)
  const record = addressRecord(target, host, 'SRV', zone.ttl)
  return { target, additionals: record ? [record] : [] }
}

/** An address that is the very name in question would lead nowhere. */
function isOwnName(host: string, question: Question): boolean {
  return host.replace(/\.$/, '') === question.name
}
