import type { LoadBalancer } from '../agent/endpoints/chain.js'
import type { Endpoint } from './resolver.js'

/** What load balancing reads of an instance, and the state of `round_robin`. */
export interface Candidate {
  readonly endpoint: Pick<Endpoint, 'weight'>
  /** The number of open and pending connections. */
  readonly load: number
  /** What `round_robin` owes the instance. */
  credit: number
}

/** The number of instances that Envoy compares by default. */
const DEFAULT_CHOICE_COUNT = 2
/** Enough for any group: comparing all instances finds the one with the least load. */
const MAX_CHOICE_COUNT = 100

/**
 * Picks an instance by the policy of the operator. The default, `least_request`, and a policy that this version does not
 * know compare instances by load per weight. `random` ignores the weights, as at Envoy. `ring_hash` and `maglev` pick at
 * random by weight: a connection has no header or cookie to hash.
 * @param random - returns a number from 0 to below 1
 * @returns undefined for an empty list
 */
export function pick<C extends Candidate>(
  candidates: readonly C[],
  loadBalancer: LoadBalancer | undefined,
  random: () => number,
): C | undefined {
  const weighty = candidates.filter((candidate) => weightOf(candidate) > 0)
  const among = weighty.length > 0 ? weighty : candidates
  switch (loadBalancer?.policy) {
    case 'round_robin':
      return nextInTurn(among)
    case 'random':
      return among[Math.floor(random() * among.length)]
    case 'ring_hash':
    case 'maglev':
      return draw(among, random)
    case undefined:
    default:
      return lightest(among, Math.max(1, loadBalancer?.choiceCount ?? DEFAULT_CHOICE_COUNT), random)
  }
}

/**
 * Picks several instances by weight and returns the one with the least load per weight ("power of two choices",
 * Mitzenmacher 2001). A later one must have no more load per weight with the new connection than the best one without
 * it. Otherwise, one open connection would send most traffic to the instance with the lower weight.
 */
function lightest<C extends Candidate>(
  candidates: readonly C[],
  choiceCount: number,
  random: () => number,
): C | undefined {
  const left = [...candidates]
  let best: C | undefined
  for (let i = 0; i < Math.min(choiceCount, MAX_CHOICE_COUNT) && left.length > 0; i += 1) {
    const drawn = draw(left, random)
    if (drawn === undefined) break
    left.splice(left.indexOf(drawn), 1)
    if (best === undefined || isLighter(drawn, best)) best = drawn
  }
  return best
}

function isLighter(candidate: Candidate, best: Candidate): boolean {
  // Multiplied, to avoid a division by a weight of 0.
  const [a, b] = [weightOf(best) || 1, weightOf(candidate) || 1]
  return (candidate.load + 1) * a <= best.load * b
}

/** Picks an instance at random by weight, or uniformly if no instance has a weight. */
function draw<C extends Candidate>(candidates: readonly C[], random: () => number): C | undefined {
  const total = candidates.reduce((sum, candidate) => sum + weightOf(candidate), 0)
  if (total === 0) return candidates[Math.floor(random() * candidates.length)]
  let left = random() * total
  return candidates.find((candidate) => (left -= weightOf(candidate)) < 0) ?? candidates.at(-1)
}

/**
 * Returns the instance whose turn it is, in proportion to the weights ("smooth weighted round-robin" of nginx): each
 * instance earns its weight, and the one that has earned most pays for all.
 */
function nextInTurn<C extends Candidate>(candidates: readonly C[]): C | undefined {
  let next: C | undefined
  let total = 0
  for (const candidate of candidates) {
    const weight = weightOf(candidate) || 1
    total += weight
    candidate.credit += weight
    if (next === undefined || candidate.credit > next.credit) next = candidate
  }
  if (next !== undefined) next.credit -= total
  return next
}

function weightOf({ endpoint }: Candidate): number {
  return endpoint.weight ?? 1
}
