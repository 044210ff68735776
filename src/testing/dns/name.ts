/** What a name in Consul's domain asks for. */
export type Lookup =
  | { kind: 'service'; service: string; tag: string; datacenter: string }
  | { kind: 'connect'; service: string; datacenter: string }
  | { kind: 'query'; query: string; datacenter: string }
  | { kind: 'node'; node: string; datacenter: string }
  | { kind: 'addr'; hex: string }

const kinds = ['service', 'connect', 'node', 'query', 'addr']

/**
 * Reads a name in lower case and without the domain. The kind is its last word of that sort; after it a datacenter
 * may stand, empty when it does not. Undefined for a name that means nothing.
 */
export function parseName(name: string, type: string): Lookup | undefined {
  const labels = name === '' ? [] : name.split('.')
  const at = labels.findLastIndex(
    (label) => kinds.includes(label) || (type === 'SRV' && label.startsWith('_')),
  )
  const found = labels[at]
  if (found === undefined) return undefined
  // In `_web._tcp.consul` the kind is left out.
  const kind = kinds.includes(found) ? found : 'service'
  const before = labels.slice(0, kind === found ? at : at + 1)
  const after = labels.slice(at + 1)
  if (before.length === 0) return undefined
  if (kind === 'addr') return before.length === 1 ? { kind, hex: before.join('') } : undefined
  const [datacenter = '', ...more] = after
  if (more.length > 0) return undefined
  const last = before.at(-1) ?? ''
  switch (kind) {
    case 'service':
      return { kind, datacenter, ...parseService(before) }
    case 'connect':
      return { kind, datacenter, service: last }
    case 'query':
      return { kind, datacenter, query: before.join('.') }
    default:
      return { kind: 'node', datacenter, node: before.join('.') }
  }
}

/** `tag.name`, where the tag may have dots, or `_name._tag` as in RFC 2782, where tcp is no tag. */
function parseService(labels: string[]): { service: string; tag: string } {
  const [first = '', second = ''] = labels
  if (labels.length === 2 && first.startsWith('_') && second.startsWith('_')) {
    return { service: first.slice(1), tag: second === '_tcp' ? '' : second.slice(1) }
  }
  return { service: labels.at(-1) ?? '', tag: labels.slice(0, -1).join('.') }
}

/** Whether a word is as long as the bytes of an address in hexadecimal; Consul counts the pairs only. */
export function hasAddressLength(hex: string): boolean {
  return [4, 16].includes(Math.floor(hex.length / 2))
}

export function parseAddress(hex: string): string | undefined {
  if (!/^(?:[\da-f]{8}|[\da-f]{32})$/.test(hex)) return undefined
  const bytes = Buffer.from(hex, 'hex')
  return bytes.length === 4 ? bytes.join('.') : hex.match(/.{4}/g)?.join(':')
}

/** The name without the domain, in lower case; undefined outside of it. */
export function withinDomain(name: string, domain: string): string | undefined {
  const lower = name.toLowerCase()
  if (lower === domain) return ''
  return lower.endsWith(`.${domain}`) ? lower.slice(0, -domain.length - 1) : undefined
}

/** The address of which an `arpa` name is the reverse. */
export function parseReverse(name: string): string | undefined {
  const v4 = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\.in-addr\.arpa$/i.exec(name)
  if (v4) return v4.slice(1).reverse().join('.')
  const v6 = /^((?:[\da-f]\.){32})ip6\.arpa$/i.exec(name)?.[1]
  return v6?.replaceAll('.', '').split('').reverse().join('').match(/.{4}/g)?.join(':')
}
