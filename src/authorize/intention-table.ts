import type { Intention, IntentionSource } from '../agent/endpoints/intentions.js'
import type { Peer } from '../identity/peer.js'
import type { Decision } from './authorizer.js'

/** The parts of an identity that intentions speak of. Datacenters are none of them. */
export type Source = Pick<Peer, 'partition' | 'namespace' | 'service'>

const ANY = '*'

interface Rule {
  readonly precedence: number
  readonly decision: Decision
}

/**
 * The intentions about one destination, arranged so that a decision takes as long with ten thousand of them as with
 * ten. Which intentions are about the destination is the agent's to say; what they mean for a source is decided here,
 * by Consul's precedence. Any doubt is a denial: an intention of an unknown kind can deny and never allow.
 */
export class IntentionTable {
  readonly size: number
  readonly #rules = new Map<string, Rule>()
  #hasAnyPartition = false

  constructor(intentions: readonly Intention[]) {
    this.size = intentions.length
    for (const intention of intentions) this.#add(intention)
  }

  /** Undefined where no intention speaks of the source: the mesh's default decides then. */
  decide({ partition, namespace, service }: Source): Decision | undefined {
    const own = this.#best(partition, namespace, service)
    const rule = this.#hasAnyPartition ? stronger(own, this.#best(ANY, namespace, service)) : own
    return rule?.decision
  }

  #best(partition: string, namespace: string, name: string): Rule | undefined {
    const exact = this.#rules.get(keyOf(partition, namespace, name))
    const anyName = this.#rules.get(keyOf(partition, namespace, ANY))
    return stronger(stronger(exact, anyName), this.#rules.get(keyOf(partition, ANY, ANY)))
  }

  #add(intention: Intention): void {
    const { source } = intention
    // Its sources have another trust domain, and no roots of ours vouch for that.
    if (source.peer !== undefined) return
    // Consul takes no name after a wildcard for its namespace.
    const isOdd = source.namespace === ANY && source.name !== ANY
    const isOfUnknownKind = source.type !== 'consul' || source.samenessGroup !== undefined
    const isDoubtful = isOfUnknownKind || isOdd || source.partition === ANY
    const decision = decisionOf(intention)
    if (isDoubtful && decision.authorized) return
    if (isDoubtful) this.#hasAnyPartition = true
    const partition = isDoubtful ? ANY : source.partition
    const name = isOdd ? ANY : source.name
    const key = keyOf(partition, source.namespace, name)
    const rule = { precedence: precedence(intention), decision }
    this.#rules.set(key, stronger(this.#rules.get(key), rule) ?? rule)
  }
}

/** The one that decides; of two with the same precedence, one that denies. */
function stronger(a: Rule | undefined, b: Rule | undefined): Rule | undefined {
  if (a === undefined || b === undefined) return a ?? b
  if (a.precedence !== b.precedence) return a.precedence > b.precedence ? a : b
  return a.decision.authorized ? b : a
}

/** From 9, where both ends are exact, to 1; the destination counts before the source, as in Consul. */
export function precedence({ source, destination }: Pick<Intention, 'source' | 'destination'>): number {
  return 3 * exactness(destination) + exactness(source) + 1
}

function exactness({ namespace, name }: { readonly namespace: string; readonly name: string }): 0 | 1 | 2 {
  if (namespace === ANY) return 0
  return name === ANY ? 1 : 2
}

function decisionOf({ source, destination, action, hasPermissions }: Intention): Decision {
  const intention = `the intention ${show(source)} => ${show(destination)}`
  const basis = 'intention'
  if (hasPermissions) {
    const reason = `${intention} decides by HTTP request, and a connection is decided here: it denies`
    return { authorized: false, basis: 'permissions', reason }
  }
  if (action === 'allow') return { authorized: true, basis, reason: `${intention} allows it` }
  if (action === 'deny') return { authorized: false, basis, reason: `${intention} denies it` }
  const reason = `${intention} has the action ${JSON.stringify(action.slice(0, 64))}, which is not known: it denies`
  return { authorized: false, basis, reason }
}

function show(end: { readonly namespace: string; readonly name: string } & Partial<IntentionSource>): string {
  const { partition = 'default', namespace, name } = end
  return `${partition === 'default' ? '' : `${partition}/`}${namespace}/${name}`
}

// No name has a control character: see expectName, and the rules for SPIFFE IDs.
function keyOf(partition: string, namespace: string, name: string): string {
  return `${partition}\0${namespace}\0${name}`
}
