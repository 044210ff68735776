import type { LoadBalancer } from '../../agent/endpoints/chain-load-balancer.js'
import type { Endpoint } from '../resolver.js'

/** What load balancing reads of an instance, and the state of `round_robin`. */
export interface Candidate {
  readonly endpoint: Pick<Endpoint, 'weight'>
  /** Its credit in the smooth weighted round-robin. */
  credit: number
}

/** The number of instances that Envoy compares by default. */
const DEFAULT_CHOICE_COUNT = 2
/** Enough for any group: comparing all instances finds the one with the least load. */
const MAX_CHOICE_COUNT = 100

/** How to pick. */
export interface Picking<C extends Candidate> {
  readonly loadBalancer: LoadBalancer | undefined
  /** Returns the load of an instance: its connections, or its requests. */
  readonly countOf: (candidate: C) => number
  /** Returns a number from 0 to below 1. */
  readonly random: () => number
}

/**
 * Picks an instance by the policy of the operator. The default, `least_request`, and a policy that this version does not
 * know compare instances by load per weight. `random` ignores the weights, as at Envoy. `ring_hash` and `maglev` pick at
 * random by weight: a connection has no header or cookie to hash.
 * @returns undefined for an empty list
 */
export function pick<C extends Candidate>(
  candidates: readonly C[],
  { loadBalancer, countOf, random }: Picking<C>,
): C | undefined {
  const table = weightsOf(candidates)
  switch (loadBalancer?.policy) {
    case 'round_robin':
      return nextInTurn(table.candidates)
    case 'random':
      return table.candidates[Math.floor(random() * table.candidates.length)]
    case 'ring_hash':
    case 'maglev':
      return table.candidates[drawIndex(table, random, [])]
    case undefined:
    default:
      return lightest(table, Math.max(1, loadBalancer?.choiceCount ?? DEFAULT_CHOICE_COUNT), countOf, random)
  }
}

/** Candidates with their weights, prepared to draw from them. */
interface Weights<C extends Candidate> {
  /** Those with a weight; all of them if none has one. */
  readonly candidates: readonly C[]
  /** The sums of the weights up to each candidate. */
  readonly sums: readonly number[]
}

/** A list of candidates stays the same while nothing changes. */
const known = new WeakMap<readonly Candidate[], Weights<Candidate>>()

function weightsOf<C extends Candidate>(candidates: readonly C[]): Weights<C> {
  const before = known.get(candidates) as Weights<C> | undefined
  if (before !== undefined) return before
  const weighty = candidates.filter((candidate) => weightOf(candidate) > 0)
  const among = weighty.length > 0 ? weighty : candidates
  let sum = 0
  const sums = among.map((candidate) => (sum += weightOf(candidate) || 1))
  const weights = { candidates: among, sums }
  known.set(candidates, weights)
  return weights
}

/**
 * Picks several instances by weight and returns the one with the least load per weight ("power of two choices",
 * Mitzenmacher 2001). A later one must have no more load per weight with the new connection than the best one without
 * it. Otherwise, one open connection would send most traffic to the instance with the lower weight.
 */
function lightest<C extends Candidate>(
  table: Weights<C>,
  choiceCount: number,
  countOf: (candidate: C) => number,
  random: () => number,
): C | undefined {
  const most = Math.min(choiceCount, MAX_CHOICE_COUNT, table.candidates.length)
  const drawn: number[] = []
  let best: C | undefined
  for (let i = 0; i < most; i += 1) {
    const index = drawIndex(table, random, drawn)
    drawn.push(index)
    drawn.sort((a, b) => a - b)
    const candidate = table.candidates[index]
    if (candidate !== undefined && (best === undefined || isLighter(candidate, best, countOf)))
      best = candidate
  }
  return best
}

function isLighter<C extends Candidate>(candidate: C, best: C, countOf: (candidate: C) => number): boolean {
  // Multiplied, to avoid a division by a weight of 0.
  const [a, b] = [weightOf(best) || 1, weightOf(candidate) || 1]
  return (countOf(candidate) + 1) * a <= countOf(best) * b
}

/**
 * Picks an index at random by weight, or uniformly if no instance has a weight.
 * @param without - indexes to leave out, in ascending order
 */
function drawIndex({ sums }: Weights<Candidate>, random: () => number, without: readonly number[]): number {
  const startOf = (index: number): number => sums[index - 1] ?? 0
  const widthOf = (index: number): number => (sums[index] ?? 0) - startOf(index)
  const total = without.reduce((sum, index) => sum - widthOf(index), sums.at(-1) ?? 0)
  let at = random() * total
  for (const index of without) if (at >= startOf(index)) at += widthOf(index)
  let [low, high] = [0, sums.length - 1]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sums[middle] ?? 0) <= at) low = middle + 1
    else high = middle
  }
  return low
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
