import type { Intention, IntentionSource } from '../agent/endpoints/intentions.js'
import type { Peer } from '../identity/peer.js'
import type { Decision } from './authorizer.js'

/** The parts of an identity that intentions match. They ignore the datacenter. */
export type Source = Pick<Peer, 'partition' | 'namespace' | 'service'>

const ANY = '*'

interface Rule {
  readonly precedence: number
  readonly decision: Decision
}

/**
 * Decides by the intentions for one destination, which the agent selects, and Consul's precedence. The time of a
 * decision does not depend on their number. An intention of an unknown kind can deny, but never allow.
 */
export class IntentionTable {
  readonly size: number
  readonly #rules = new Map<string, Rule>()
  #hasAnyPartition = false

  constructor(intentions: readonly Intention[]) {
    this.size = intentions.length
    for (const intention of intentions) this.#add(intention)
  }

  /** Returns the decision for a source; undefined if no intention matches and the default policy decides. */
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
    // Sources of a cluster peer have another trust domain, which we have no roots for.
    if (source.peer !== undefined) return
    // Consul does not accept a name with a wildcard namespace.
    const isInvalid = source.namespace === ANY && source.name !== ANY
    const isUnknown = source.type !== 'consul' || source.samenessGroup !== undefined
    const isDoubtful = isUnknown || isInvalid || source.partition === ANY
    const decision = decisionOf(intention)
    if (isDoubtful && decision.authorized) return
    if (isDoubtful) this.#hasAnyPartition = true
    const partition = isDoubtful ? ANY : source.partition
    const name = isInvalid ? ANY : source.name
    const key = keyOf(partition, source.namespace, name)
    const rule = { precedence: precedence(intention), decision }
    this.#rules.set(key, stronger(this.#rules.get(key), rule) ?? rule)
  }
}

/** Returns the rule with the higher precedence; with equal precedence, a rule that denies. */
function stronger(a: Rule | undefined, b: Rule | undefined): Rule | undefined {
  if (a === undefined || b === undefined) return a ?? b
  if (a.precedence !== b.precedence) return a.precedence > b.precedence ? a : b
  return a.decision.authorized ? b : a
}

/** Returns the precedence, from 1 to 9 (both ends exact). As in Consul, the destination counts before the source. */
export function precedence({ source, destination }: Pick<Intention, 'source' | 'destination'>): number {
  return 3 * exactness(destination) + exactness(source) + 1
}

function exactness({ namespace, name }: { readonly namespace: string; readonly name: string }): 0 | 1 | 2 {
  if (namespace === ANY) return 0
  return name === ANY ? 1 : 2
}

function decisionOf({ source, destination, action, hasPermissions }: Intention): Decision {
  const intention = `intention ${formatEnd(source)} => ${formatEnd(destination)}`
  const basis = 'intention'
  if (hasPermissions) {
    const reason = `${intention} has L7 permissions, which are not supported; denied`
    return { authorized: false, basis: 'permissions', reason }
  }
  if (action === 'allow') return { authorized: true, basis, reason: `allowed by ${intention}` }
  if (action === 'deny') return { authorized: false, basis, reason: `denied by ${intention}` }
  const reason = `${intention} has the unknown action ${JSON.stringify(action.slice(0, 64))}; denied`
  return { authorized: false, basis, reason }
}

function formatEnd(
  end: { readonly namespace: string; readonly name: string } & Partial<IntentionSource>,
): string {
  const { partition = 'default', namespace, name } = end
  return `${partition === 'default' ? '' : `${partition}/`}${namespace}/${name}`
}

// Names contain no control characters: see expectName() and SpiffeId.parse().
function keyOf(partition: string, namespace: string, name: string): string {
  return `${partition}\0${namespace}\0${name}`
}
