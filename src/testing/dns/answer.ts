import { isIP } from 'node:net'
import { HttpError } from '../http.js'
import type { Node } from '../node.js'
import type { State } from '../state.js'
import { findQuery, findService, seconds, stateOf, type Found } from './find.js'
import { hasAddressLength, parseAddress, parseName, parseReverse, withinDomain, type Lookup } from './name.js'
import type { DnsSettings } from './options.js'
import { rcode } from './query.js'
import {
  addressRecord,
  aliasRecord,
  authorityRecord,
  metaRecords,
  nodeName,
  sameAddress,
  type DnsRecord,
  type Records,
} from './records.js'
import { hostRecords, serviceRecords, type Question } from './service-records.js'
import type { Sections } from './trim.js'

export interface DnsAnswer extends Sections {
  code: number
  /** False outside the domain. */
  authoritative: boolean
  recursionAvailable: boolean
}

/** The records of a name, if there are any; or that it has none of this type, or is none. */
type Outcome = Records | 'noData' | 'nxDomain'

/** How often a name may lead to another one in the domain. */
const maxRecursion = 3

const nothing: Records = { answers: [], additionals: [] }

/** What Consul answers to a question. */
export class DnsAnswerer {
  readonly #state: State
  readonly #settings: DnsSettings

  constructor(state: State, settings: DnsSettings) {
    this.#state = state
    this.#settings = settings
  }

  answer(question: Question): DnsAnswer {
    const { domain } = this.#settings
    if (/(?:^|\.)arpa$/i.test(question.name)) return this.#reverse(question)
    if (withinDomain(question.name, domain) === undefined) return failure(rcode.refused)
    const authority = { ...failure(rcode.noError), authoritative: true }
    switch (question.type) {
      case 'NS':
        return { ...authority, ...this.#nameServer() }
      case 'SOA': {
        const { answers: authorities, additionals } = this.#nameServer()
        return { ...authority, answers: [authorityRecord(domain)], authorities, additionals }
      }
      case 'AXFR':
        return { ...authority, code: rcode.notImp }
    }
    try {
      const outcome = this.#lookUp(question, maxRecursion)
      if (typeof outcome === 'object') return { ...authority, ...outcome }
      const code = outcome === 'nxDomain' ? rcode.nxDomain : rcode.noError
      return { ...authority, authorities: [authorityRecord(domain)], code }
    } catch (error) {
      if (!(error instanceof HttpError)) throw error
      return { ...authority, code: rcode.servFail }
    }
  }

  #lookUp(question: Question, depth: number): Outcome {
    const lookup = parseName(withinDomain(question.name, this.#settings.domain) ?? '', question.type)
    if (!lookup) return 'nxDomain'
    switch (lookup.kind) {
      case 'addr':
        return this.#address(question, lookup.hex)
      case 'node':
        return this.#node(question, lookup, depth)
      case 'query':
        return this.#instances(question, findQuery(this.#state, this.#settings, lookup), depth)
      case 'service':
      case 'connect':
        return this.#instances(question, findService(this.#state, this.#settings, lookup), depth)
    }
  }

  #instances(question: Question, { instances, datacenter, ttl }: Found, depth: number): Outcome {
    if (instances.length === 0) return 'nxDomain'
    const records = (question.type === 'SRV' ? serviceRecords : hostRecords)(question, instances, {
      zone: { domain: this.#settings.domain, datacenter, ttl },
      follow: (name) => this.#follow(name, ttl, depth),
      withMeta: this.#settings.nodeMetaTxt,
    })
    return records.answers.length > 0 ? records : 'noData'
  }

  /** Where a name leads that is in the domain itself; beyond it, Consul would need a recursor. */
  #follow(name: string, ttl: number, depth: number): DnsRecord[] {
    if (depth < 1 || withinDomain(name, this.#settings.domain) === undefined) return []
    const outcome = this.#lookUp({ name, type: 'ANY' }, depth - 1)
    return (typeof outcome === 'object' ? outcome.answers : [])
      .filter(({ type }) => type === 'A' || type === 'AAAA' || type === 'CNAME')
      .map((record) => ({ ...record, ttl }))
  }

  /** Unlike a service, a node without such a record has an empty answer that says nothing of the authority. */
  #node({ name, type }: Question, lookup: Lookup & { kind: 'node' }, depth: number): Outcome {
    if (!['ANY', 'A', 'AAAA', 'TXT'].includes(type)) return nothing
    const state = stateOf(this.#state, lookup.datacenter)
    const node = state?.catalog.node(lookup.node)
    if (!state || !node || !state.acl.permissions(this.#settings.token).nodes) return 'nxDomain'
    const answers = type === 'TXT' ? [] : this.#nodeRecords(name, node, type, depth)
    const metas = metaRecords(name, node, seconds(this.#settings.nodeTtlMs))
    if (type === 'TXT' || type === 'ANY') return { answers: [...answers, ...metas], additionals: [] }
    return { answers, additionals: this.#settings.nodeMetaTxt ? metas : [] }
  }

  #nodeRecords(name: string, node: Node, type: string, depth: number): DnsRecord[] {
    const ttl = seconds(this.#settings.nodeTtlMs)
    if (isIP(node.address) === 0) {
      return [aliasRecord(name, node.address, ttl), ...this.#follow(node.address, ttl, depth)]
    }
    const record = addressRecord(name, node.address, type, ttl)
    return record ? [record] : []
  }

  /** Whatever was asked for, the address is the answer. */
  #address({ name }: Question, hex: string): Outcome {
    if (!hasAddressLength(hex)) return nothing
    const address = parseAddress(hex)
    if (address === undefined) return 'nxDomain'
    const record = addressRecord(name.toLowerCase(), address, 'ANY', seconds(this.#settings.nodeTtlMs))
    return { answers: record ? [record] : [], additionals: [] }
  }

  #nameServer(): Records {
    const { own } = this.#state.catalog
    const ttl = seconds(this.#settings.nodeTtlMs)
    const zone = { domain: this.#settings.domain, datacenter: this.#state.datacenter, ttl }
    const name = nodeName(own.name, zone).toLowerCase()
    return {
      answers: [{ type: 'NS', name: zone.domain, ttl, class: 'IN', data: name }],
      additionals: this.#nodeRecords(name, own, 'ANY', maxRecursion),
    }
  }

  #reverse({ name }: Question): DnsAnswer {
    const address = parseReverse(name)
    const { catalog, datacenter } = this.#state
    const { domain } = this.#settings
    const node = catalog.nodes().find((node) => sameAddress(node.address, address))
    const instance = catalog.instances().find(({ service }) => sameAddress(service.address, address))
    // Consul tries a recursor that it does not have.
    if (!node && !instance) return { ...failure(rcode.servFail), recursionAvailable: true }
    const data = node
      ? nodeName(node.name, { domain, datacenter, ttl: 0 })
      : `${instance?.service.name ?? ''}.service.${datacenter}.${domain}`
    const answers: DnsRecord[] = [{ type: 'PTR', name, ttl: 0, class: 'IN', data }]
    return { ...failure(rcode.noError), answers, authoritative: true }
  }
}

/** An answer of nothing but the code. */
export function failure(code: number): DnsAnswer {
  return {
    answers: [],
    authorities: [],
    additionals: [],
    code,
    authoritative: false,
    recursionAvailable: false,
  }
}
