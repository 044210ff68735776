import type { Intention, IntentionSource } from '../agent/endpoints/intentions.js'
import type { Permission } from '../agent/endpoints/permissions.js'
import type { Peer } from '../identity/peer.js'
import type { Decision } from './decision.js'
import { PermissionRules } from './requests/permission-rules.js'

/** The parts of an identity that intentions match. They ignore the datacenter. */
export type Source = Pick<Peer, 'partition' | 'namespace' | 'service'>

const ANY = '*'

/** What an intention says about its source. */
export interface Ruling {
  /** The decision about connections; those of a source with permissions are denied. */
  readonly decision: Required<Decision>
  /** Decide each request of the source; undefined if the decision covers everything. */
  readonly permissions: IntentionPermissions | undefined
}

/** The permissions of an intention, which are compiled once. */
export class IntentionPermissions {
  /** The name of the intention, such as `default/web => default/api`. */
  readonly intention: string
  readonly #permissions: readonly Permission[]
  #rules: Promise<PermissionRules> | undefined

  constructor(intention: string, permissions: readonly Permission[]) {
    this.intention = intention
    this.#permissions = permissions
  }

  /** Never rejects. */
  compile(): Promise<PermissionRules> {
    this.#rules ??= PermissionRules.compile(this.#permissions)
    return this.#rules
  }
}

interface Rule extends Ruling {
  readonly precedence: number
}

/**
 * Decides by the intentions for one destination, which the agent selects, and Consul's precedence. The time of a
 * decision does not depend on their number. An intention of an unknown kind can deny, but never allow.
 */
export class IntentionTable {
  readonly size: number
  /** The permissions of all intentions. */
  readonly permissions: readonly IntentionPermissions[]
  /** What this version does not understand, by the name of the intention. */
  readonly problems: ReadonlyMap<string, string>
  readonly #rules = new Map<string, Rule>()
  #hasAnyPartition = false

  constructor(intentions: readonly Intention[]) {
    this.size = intentions.length
    for (const intention of intentions) this.#add(intention)
    this.permissions = [...this.#rules.values()].flatMap(({ permissions }) => permissions ?? [])
    this.problems = new Map(
      intentions.flatMap((each) => (each.problem === undefined ? [] : [[nameOf(each), each.problem]])),
    )
  }

  /** Returns the ruling for a source; undefined if no intention matches and the default policy decides. */
  find({ partition, namespace, service }: Source): Ruling | undefined {
    const own = this.#best(partition, namespace, service)
    return this.#hasAnyPartition ? stronger(own, this.#best(ANY, namespace, service)) : own
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
    const ruling = rulingOf(intention)
    const { decision } = ruling
    if (isDoubtful && decision.authorized) return
    if (isDoubtful) this.#hasAnyPartition = true
    const partition = isDoubtful ? ANY : source.partition
    const name = isInvalid ? ANY : source.name
    const key = keyOf(partition, source.namespace, name)
    const permissions = isDoubtful ? undefined : ruling.permissions
    const rule = { precedence: precedence(intention), decision, permissions }
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

function rulingOf(intention: Intention): Ruling {
  const { action, permissions, problem } = intention
  const name = nameOf(intention)
  const ruling = (authorized: boolean, reason: string): Ruling => ({
    decision: { authorized, basis: 'intention', reason },
    permissions: undefined,
  })
  if (problem !== undefined && action !== 'deny')
    return ruling(false, `denied by intention ${name}: it has ${problem}`)
  if (permissions.length > 0) {
    const reason = `intention ${name} has permissions, which decide HTTP requests and no connections`
    const decision = { authorized: false, basis: 'permissions', reason } as const
    // Consul allows only one of the two.
    const isDecided = action !== ''
    return { decision, permissions: isDecided ? undefined : new IntentionPermissions(name, permissions) }
  }
  if (action === 'allow') return ruling(true, `allowed by intention ${name}`)
  if (action === 'deny') return ruling(false, `denied by intention ${name}`)
  return ruling(
    false,
    `intention ${name} has the unknown action ${JSON.stringify(action.slice(0, 64))}; denied`,
  )
}

function nameOf({ source, destination }: Pick<Intention, 'source' | 'destination'>): string {
  return `${formatEnd(source)} => ${formatEnd(destination)}`
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
