const KINDS: ReadonlyMap<string | undefined, 'service' | 'query'> = new Map([
  ['service', 'service'],
  ['connect', 'service'],
  ['query', 'query'],
])

/** Returns what a name of Consul DNS leads to, by the label after its target; undefined for any other label. */
export function dnsNameKind(label: string | undefined): 'service' | 'query' | undefined {
  return KINDS.get(label)
}
