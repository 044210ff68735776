import { type ErrorCode, OptionError, SpiffeIdError } from '../base/errors.js'
import { describe } from '../base/options/validate.js'

/** The identity in a Connect certificate, by kind. Intentions apply to services only. */
export type SpiffeIdParts =
  | ServiceId
  | {
      readonly kind: 'agent'
      readonly trustDomain: string
      readonly partition: string
      readonly datacenter: string
      readonly agentId: string
    }
  | { readonly kind: 'server'; readonly trustDomain: string; readonly datacenter: string }
  | {
      readonly kind: 'mesh-gateway'
      readonly trustDomain: string
      readonly partition: string
      readonly datacenter: string
    }
  | { readonly kind: 'signing'; readonly trustDomain: string }

/** The identity of a service. `namespace` and `partition` are `default` without Consul Enterprise. */
export interface ServiceId {
  readonly kind: 'service'
  readonly trustDomain: string
  readonly partition: string
  readonly namespace: string
  readonly datacenter: string
  readonly service: string
}

const SCHEME = 'spiffe://'
// SPIFFE-ID standard, sections 2.1 and 2.3.
const MAX_BYTES = 2048
const MAX_TRUST_DOMAIN_BYTES = 255
const TRUST_DOMAIN_FORM = `a trust domain of 1 to ${MAX_TRUST_DOMAIN_BYTES} characters of [a-z0-9._-]`

/** A SPIFFE ID in a form of Consul Connect. Immutable. */
export class SpiffeId {
  readonly parts: SpiffeIdParts

  private constructor(parts: SpiffeIdParts) {
    this.parts = parts
  }

  /**
   * Parses a URI strictly, without folding case or normalization. Segments may be percent-encoded, as Consul encodes
   * unusual service names; they are decoded once, after the path was matched.
   * @throws SpiffeIdError with a code for each rule; OptionError for a value that is not a string
   * @example
   * ```ts
   * const { parts } = connect.SpiffeId.parse('spiffe://1f0a.consul/ns/default/dc/dc1/svc/web')
   * if (parts.kind === 'service') console.log(parts.service, parts.datacenter)
   * ```
   */
  static parse(uri: string): SpiffeId {
    const fail = (code: ErrorCode, expected: string): SpiffeIdError => new SpiffeIdError(code, uri, expected)
    // Validate at run time: callers may not use TypeScript.
    if (typeof (uri as unknown) !== 'string') throw new OptionError('uri', 'a string', describe(uri))
    if (uri === '' || Buffer.byteLength(uri) > MAX_BYTES) {
      throw fail('ERR_CONNECT_SPIFFE_LENGTH', `1 to ${MAX_BYTES} bytes`)
    }
    if (!uri.startsWith(SCHEME)) throw fail('ERR_CONNECT_SPIFFE_SCHEME', `a URI that starts with ${SCHEME}`)
    const rest = uri.slice(SCHEME.length)
    if (/[?#]/.test(rest)) throw fail('ERR_CONNECT_SPIFFE_COMPONENT', 'no query and no fragment')
    const slash = rest.indexOf('/')
    const trustDomain = slash === -1 ? rest : rest.slice(0, slash)
    if (/[@:]/.test(trustDomain)) throw fail('ERR_CONNECT_SPIFFE_COMPONENT', 'no user info and no port')
    if (!isTrustDomain(trustDomain)) {
      throw fail('ERR_CONNECT_SPIFFE_TRUST_DOMAIN', TRUST_DOMAIN_FORM)
    }
    if (slash === -1) return new SpiffeId({ kind: 'signing', trustDomain })
    const parts = parsePath(trustDomain, rest.slice(slash))
    if (parts === undefined)
      throw fail('ERR_CONNECT_SPIFFE_PATH', 'a path of Consul Connect, such as /ns/default/dc/dc1/svc/web')
    return new SpiffeId(parts)
  }

  /**
   * Creates the SPIFFE ID of a service.
   * @throws SpiffeIdError for a part that is not allowed in a SPIFFE ID
   */
  static service(id: {
    readonly trustDomain: string
    readonly partition?: string
    readonly namespace?: string
    readonly datacenter: string
    readonly service: string
  }): SpiffeId {
    const { trustDomain, partition = DEFAULT, namespace = DEFAULT, datacenter, service } = id
    if (!isTrustDomain(trustDomain)) {
      throw new SpiffeIdError('ERR_CONNECT_SPIFFE_TRUST_DOMAIN', trustDomain, TRUST_DOMAIN_FORM)
    }
    for (const text of [partition, namespace, datacenter, service]) {
      if (!text.isWellFormed())
        throw new SpiffeIdError('ERR_CONNECT_SPIFFE_PATH', text, 'well-formed Unicode')
    }
    // Parsing the result applies the same rules as for foreign IDs.
    return SpiffeId.parse(format({ kind: 'service', trustDomain, partition, namespace, datacenter, service }))
  }

  /** Returns the URI. */
  toString(): string {
    return format(this.parts)
  }

  toJSON(): string {
    return this.toString()
  }

  equals(other: SpiffeId): boolean {
    return this.toString() === other.toString()
  }
}

/** The namespace and partition of a URI without them. */
const DEFAULT = 'default'

export function isTrustDomain(text: string): boolean {
  return text.length <= MAX_TRUST_DOMAIN_BYTES && /^[a-z0-9._-]+$/.test(text)
}

// The forms that Consul generates. They are matched against the raw path, and the groups are decoded afterwards.
const AP = '(?:/ap/(?<partition>[^/]+))?'
const DC = '/dc/(?<datacenter>[^/]+)'
const SERVICE = new RegExp(`^${AP}/ns/(?<namespace>[^/]+)${DC}/svc/(?<service>[^/]+)$`)
const AGENT = new RegExp(`^${AP}/agent/client${DC}/id/(?<agentId>[^/]+)$`)
const SERVER = new RegExp(`^/agent/server${DC}$`)
const MESH_GATEWAY = new RegExp(`^${AP}/gateway/mesh${DC}$`)

/** Returns undefined for a path that Connect does not use. */
function parsePath(trustDomain: string, path: string): SpiffeIdParts | undefined {
  const service = match(SERVICE, path, ['namespace', 'datacenter', 'service'])
  if (service !== undefined) return { kind: 'service', trustDomain, ...service }
  const agent = match(AGENT, path, ['datacenter', 'agentId'])
  if (agent !== undefined) return { kind: 'agent', trustDomain, ...agent }
  const server = match(SERVER, path, ['datacenter'])
  if (server !== undefined) return { kind: 'server', trustDomain, datacenter: server.datacenter }
  const gateway = match(MESH_GATEWAY, path, ['datacenter'])
  if (gateway !== undefined) return { kind: 'mesh-gateway', trustDomain, ...gateway }
  return undefined
}

function match<K extends string>(
  form: RegExp,
  path: string,
  names: readonly K[],
): Record<K | 'partition', string> | undefined {
  const groups = form.exec(path)?.groups
  if (groups === undefined) return undefined
  const decoded: Record<string, string> = { partition: DEFAULT }
  for (const [name, raw] of Object.entries(groups)) {
    // A group that took no part in the match is undefined, whatever its type says.
    if ((raw as string | undefined) === undefined) continue
    const text = decodeSegment(raw)
    if (text === undefined) return undefined
    // The default partition is omitted. With it, one identity would have two spellings.
    if (name === 'partition' && text === DEFAULT) return undefined
    decoded[name] = text
  }
  return names.every((name) => name in decoded) ? decoded : undefined
}

// The characters of a segment: pchar of RFC 3986.
const SEGMENT = /^(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+$/

/** Decodes a segment once; undefined if it is empty, a dot segment, or not decodable to text without controls. */
function decodeSegment(raw: string): string | undefined {
  if (!SEGMENT.test(raw)) return undefined
  let text: string
  try {
    text = decodeURIComponent(raw)
  } catch {
    return undefined
  }
  return text === '.' || text === '..' || /\p{Cc}/u.test(text) ? undefined : text
}

function format(parts: SpiffeIdParts): string {
  const root = SCHEME + parts.trustDomain
  if (parts.kind === 'signing') return root
  const dc = `/dc/${encode(parts.datacenter)}`
  if (parts.kind === 'server') return `${root}/agent/server${dc}`
  const ap = parts.partition === DEFAULT ? '' : `/ap/${encode(parts.partition)}`
  switch (parts.kind) {
    case 'service':
      return `${root}${ap}/ns/${encode(parts.namespace)}${dc}/svc/${encode(parts.service)}`
    case 'agent':
      return `${root}${ap}/agent/client${dc}/id/${encode(parts.agentId)}`
    case 'mesh-gateway':
      return `${root}${ap}/gateway/mesh${dc}`
  }
}

function encode(segment: string): string {
  return encodeURIComponent(segment)
}
