import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import { type Candidate, pick } from '../../src/resolve/balancing/load-balancing.js'
import { scripted, seeded } from '../fixtures/random.js'

interface Loaded extends Candidate {
  readonly load: number
}

/** Candidates with these weights, and loads or none. */
function candidatesOf(weights: (number | undefined)[], loads: number[] = []): Loaded[] {
  return weights.map((weight, i) => ({ endpoint: { weight }, load: loads[i] ?? 0, credit: 0 }))
}

function policyOf(policy: string, choiceCount?: number): LoadBalancer {
  return { policy, choiceCount, ringSize: { least: undefined, greatest: undefined }, hashPolicies: [] }
}

function pickFrom(
  candidates: readonly Loaded[],
  loadBalancer: LoadBalancer | undefined,
  random: () => number,
): Loaded | undefined {
  return pick(candidates, { loadBalancer, random, countOf: ({ load }) => load })
}

/** The share of each candidate in many choices, in percent. */
function shares(candidates: readonly Loaded[], loadBalancer: LoadBalancer | undefined): number[] {
  const random = seeded(1)
  const counts = candidates.map(() => 0)
  for (let i = 0; i < 10_000; i += 1) {
    const index = candidates.indexOf(pickFrom(candidates, loadBalancer, random)!)
    counts[index] = counts[index]! + 1
  }
  return counts.map((count) => Math.round(count / 100))
}

describe('pick', () => {
  const proportional = [10, 30, 60]
  const uniform = [33, 33, 33]
  const cases: [policy: string | undefined, expected: number[]][] = [
    [undefined, proportional],
    ['least_request', proportional],
    ['round_robin', proportional],
    ['random', uniform],
    ['ring_hash', proportional],
    ['maglev', proportional],
    ['from_the_future', proportional],
  ]
  for (const [policy, expected] of cases) {
    it(`chooses ${expected === uniform ? 'uniformly' : 'by weight'} with the policy ${policy}`, () => {
      const loadBalancer = policy === undefined ? undefined : policyOf(policy)
      // The candidate without a weight is used if there is no other.
      const found = shares(candidatesOf([1, 3, 6, 0]), loadBalancer)
      assert.equal(found[3], 0)
      for (const [i, share] of expected.entries()) assert.ok(Math.abs(found[i]! - share) <= 1, String(found))
      for (const share of shares(candidatesOf([0, 0, 0]), loadBalancer)) assert.ok(Math.abs(share - 33) <= 1)
      assert.equal(
        pickFrom([], loadBalancer, () => 0),
        undefined,
      )
    })
  }

  it('interleaves the turns of round_robin, as nginx does', () => {
    const candidates = candidatesOf([5, 1, undefined])
    const order = Array.from({ length: 7 }, () =>
      candidates.indexOf(pickFrom(candidates, policyOf('round_robin'), Math.random)!),
    )
    assert.deepEqual(order, [0, 0, 1, 0, 2, 0, 0])
  })

  const loads: [rule: string, loadBalancer: LoadBalancer | undefined, index: number][] = [
    ['2 candidates by default', undefined, 1],
    ['2 candidates with least_request by default', policyOf('least_request'), 1],
    ['as many candidates as the operator says', policyOf('least_request', 3), 2],
    ['one candidate, which is a random choice', policyOf('least_request', 1), 0],
    ['one candidate at least', policyOf('least_request', -1), 0],
    ['all candidates at most', policyOf('least_request', 2 ** 40), 3],
  ]
  for (const [rule, loadBalancer, index] of loads) {
    it(`compares the loads of ${rule}`, () => {
      const candidates = candidatesOf([1, 1, 1, 1], [40, 30, 20, 10])
      // With this random source, the candidates are drawn in order.
      assert.equal(pickFrom(candidates, loadBalancer, scripted(0)), candidates[index])
    })
  }

  it('compares the loads per weight', () => {
    for (const [load, index] of [
      [5, 1],
      [6, 0],
    ] as const) {
      const candidates = candidatesOf([1, 3], [2, load])
      assert.equal(pickFrom(candidates, undefined, scripted(0)), candidates[index])
    }
  })

  it('counts by the given function', () => {
    const candidates = candidatesOf([1, 1], [0, 9])
    const requests = new Map([
      [candidates[0], 5],
      [candidates[1], 1],
    ])
    const countOf = (candidate: Loaded): number => requests.get(candidate) ?? 0
    assert.equal(pick(candidates, { loadBalancer: undefined, random: scripted(0), countOf }), candidates[1])
  })

  it('does not count for policies that ignore the load', () => {
    const countOf = (): number => assert.fail('counted')
    for (const policy of ['round_robin', 'random', 'ring_hash', 'maglev']) {
      const candidates = candidatesOf([1, 1])
      const loadBalancer = policyOf(policy)
      assert.ok(candidates.includes(pick(candidates, { loadBalancer, random: scripted(0.7), countOf })!))
    }
  })
})
