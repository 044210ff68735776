import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ChainNode } from '../../src/agent/endpoints/chain-nodes.js'
import type { LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import type { CompiledChain } from '../../src/agent/endpoints/chain.js'
import { followChain, withoutChain } from '../../src/resolve/chain/failover.js'
import { chainTarget } from '../fixtures/chain-target.js'

/** A chain that starts with the node, and has these targets; the name of each is its ID. */
function chainOf(node: ChainNode, ids: string[]): CompiledChain {
  return {
    service: 'web',
    protocol: 'tcp',
    startNode: 'start',
    nodes: new Map([['start', node]]),
    targets: new Map(ids.map((id) => [id, chainTarget(id)])),
    ignored: [],
  }
}

const RANDOM: LoadBalancer = {
  policy: 'random',
  choiceCount: undefined,
  ringSize: { least: undefined, greatest: undefined },
  hashPolicies: [],
}

function resolver(first: string, ...failover: string[]): ChainNode {
  return {
    type: 'resolver',
    target: first,
    failover,
    connectTimeoutMs: 7,
    requestTimeoutMs: 9,
    loadBalancer: RANDOM,
  }
}

const OTHER_NODES: readonly ChainNode[] = [
  { type: 'router', routes: [] },
  { type: 'splitter', splits: [], loadBalancer: undefined },
  { type: 'unknown', name: 'x' },
]

const MANY = Array.from({ length: 65 }, (_, i) => `t${i}`)

describe('followChain', () => {
  it('returns the targets in failover order, with the connect timeout and the load balancer', () => {
    assert.deepEqual(followChain(chainOf(resolver('c', 'a', 'b'), ['a', 'b', 'c', 'd'])), {
      targets: ['c', 'a', 'b'].map(chainTarget),
      connectTimeoutMs: 7,
      loadBalancer: RANDOM,
    })
  })

  it('returns a duplicate target once, and up to 64 targets', () => {
    const found = followChain(chainOf(resolver('a', 'b', 'a', 'b', 'c'), ['a', 'b', 'c'])).targets
    assert.deepEqual(found, ['a', 'b', 'c'].map(chainTarget))
    const [first = '', ...rest] = MANY.slice(0, 64)
    assert.equal(followChain(chainOf(resolver(first, ...rest, first), MANY)).targets.length, 64)
  })

  const refused: [chain: CompiledChain, problem: string][] = [
    [{ ...chainOf(resolver('a'), ['a']), startNode: 'x"y' }, 'leads to the node "x\\"y", which is missing'],
    [chainOf(resolver('a', 'b'), ['a']), 'leads to the target "b", which is missing'],
    [chainOf(resolver(MANY[0]!, ...MANY.slice(1)), MANY), 'has 65 targets; at most 64 are supported'],
    ...OTHER_NODES.map((node): [CompiledChain, string] => [
      chainOf(node, []),
      `leads to a node of the type "${node.type === 'unknown' ? node.name : node.type}", which a connection cannot follow`,
    ]),
  ]
  for (const [chain, problem] of refused) {
    it(`refuses a chain that ${problem}`, () => {
      assert.throws(() => followChain(chain), {
        name: 'DialError',
        code: 'ERR_CONNECT_CHAIN',
        message: `dial web: its discovery chain ${problem}`,
      })
    })
  }
})

describe('withoutChain', () => {
  it('leads to the service itself, with the default of Consul for the connect timeout', () => {
    assert.deepEqual(withoutChain('web', 'remote'), {
      targets: [{ ...chainTarget('web'), gatewayMode: 'remote' }],
      connectTimeoutMs: 5_000,
      loadBalancer: undefined,
    })
    assert.equal(withoutChain('web').targets[0]?.gatewayMode, 'none')
  })
})
