import { isIP } from 'node:net'
import type { SoaAnswer, SrvAnswer, StringAnswer, TxtAnswer } from 'dns-packet'
import type { Instance, Node } from '../node.js'

/** What a DNS answer is made of here. */
export type DnsRecord = StringAnswer | SrvAnswer | TxtAnswer | SoaAnswer

/** How names are made. */
export interface Zone {
  domain: string
  datacenter: string
  ttl: number
}

/** Records for the answer, and for the additional section. */
export interface Records {
  answers: DnsRecord[]
  additionals: DnsRecord[]
}

const mappedPrefix = Buffer.from('00000000000000000000ffff', 'hex')

/** Questions to which an address of either family is an answer. */
const anyFamily = ['SRV', 'ANY', 'NS', 'TXT']

/** Undefined where an address of this family is no answer to a question of that type. */
export function addressRecord(
  name: string,
  address: string,
  type: string,
  ttl: number,
): StringAnswer | undefined {
  const bytes = addressBytes(address)
  const family = bytes.length === 4 ? 'A' : 'AAAA'
  if (type !== family && !anyFamily.includes(type)) return undefined
  return { type: family, name, ttl, class: 'IN', data: bytes.length === 4 ? bytes.join('.') : address }
}

export function nodeName(node: string, { datacenter, domain }: Zone): string {
  return `${node}.node.${datacenter}.${domain}`
}

/** The name that stands for an address: its bytes in hexadecimal. */
export function addressName(address: string, { datacenter, domain }: Zone): string {
  return `${addressBytes(address).toString('hex')}.addr.${datacenter}.${domain}`
}

export function serviceRecord(name: string, instance: Instance, target: string, ttl: number): SrvAnswer {
  const data = { priority: 1, weight: weightOf(instance), port: instance.service.port, target }
  return { type: 'SRV', name, ttl, class: 'IN', data }
}

export function aliasRecord(name: string, target: string, ttl: number): StringAnswer {
  return { type: 'CNAME', name, ttl, class: 'IN', data: target.replace(/\.$/, '') }
}

/** The node's metadata, one text each (RFC 1464). */
export function metaRecords(name: string, node: Node, ttl: number): TxtAnswer[] {
  return Object.entries(node.definition.meta ?? {}).map(([key, value]) => ({
    type: 'TXT',
    name,
    ttl,
    class: 'IN',
    data: [
      key.toLowerCase().startsWith('rfc1035-') ? value : `${escapeKey(key)}=${value.replaceAll('`', '``')}`,
    ],
  }))
}

export function authorityRecord(domain: string): SoaAnswer {
  return {
    type: 'SOA',
    name: domain,
    ttl: 0,
    class: 'IN',
    data: {
      mname: `ns.${domain}`,
      rname: `hostmaster.${domain}`,
      serial: Math.floor(Date.now() / 1000),
      refresh: 3600,
      retry: 600,
      expire: 86_400,
      minimum: 0,
    },
  }
}

export function sameAddress(a: string, b: string | undefined): boolean {
  return b !== undefined && isIP(a) !== 0 && isIP(b) !== 0 && addressBytes(a).equals(addressBytes(b))
}

function escapeKey(key: string): string {
  const escaped = key.replaceAll('`', '``').replaceAll('=', '`=')
  let [begin, end] = [0, escaped.length]
  while (escaped[begin] === ' ') begin += 1
  while (end > begin && escaped[end - 1] === ' ') end -= 1
  return '` '.repeat(begin) + escaped.slice(begin, end) + '` '.repeat(escaped.length - end)
}

function weightOf({ node, service }: Instance): number {
  const statuses = node.checksFor(service.id).map(({ status }) => status)
  // A status that Consul does not know itself outweighs all others.
  if (statuses.some((status) => !['passing', 'warning', 'critical'].includes(status))) return 1
  if (statuses.includes('critical')) return 0
  return statuses.includes('warning') ? service.weights.Warning : service.weights.Passing
}

/** An address of IPv4 in the clothes of IPv6 is one of IPv4, as Go has it. */
function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number))
  // Two halves around `::`, the last part perhaps in the form of IPv4.
  const hex = address.replace(/%.*$/, '').replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...parts: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = parts.slice(0, 4).map(Number)
    return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`
  })
  const [head = '', tail] = hex.split('::')
  const groups = (half: string): string[] => (half === '' ? [] : half.split(':'))
  const [left, right] = [groups(head), groups(tail ?? '')]
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0')
  const bytes = Buffer.from(
    [...left, ...zeros, ...right].map((group) => group.padStart(4, '0')).join(''),
    'hex',
  )
  return bytes.subarray(0, 12).equals(mappedPrefix) ? bytes.subarray(12) : bytes
}
