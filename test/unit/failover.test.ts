import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ChainNode, ChainTarget, CompiledChain } from '../../src/agent/endpoints/chain.js'
import { followChain, withoutChain } from '../../src/resolve/chain/failover.js'

/** A target without conditions. */
function target(service: string): ChainTarget {
  return {
    service,
    subset: undefined,
    peer: undefined,
    serverName: undefined,
    filter: undefined,
    onlyPassing: false,
    isExternal: false,
    gatewayMode: 'none',
  }
}

/** A chain that starts with the node, and has these targets; the name of each is its ID. */
function chainOf(node: ChainNode, ids: string[]): CompiledChain {
  return {
    service: 'web',
    protocol: 'tcp',
    startNode: 'start',
    nodes: new Map([['start', node]]),
    targets: new Map(ids.map((id) => [id, target(id)])),
  }
}

function resolver(first: string, ...failover: string[]): ChainNode {
  const loadBalancer = { policy: 'random', choiceCount: undefined }
  return { type: 'resolver', target: first, failover, connectTimeoutMs: 7, loadBalancer }
}

const MANY = Array.from({ length: 65 }, (_, i) => `t${i}`)

describe('followChain', () => {
  it('returns the targets in failover order, with the connect timeout and the load balancer', () => {
    assert.deepEqual(followChain(chainOf(resolver('c', 'a', 'b'), ['a', 'b', 'c', 'd'])), {
      targets: ['c', 'a', 'b'].map(target),
      connectTimeoutMs: 7,
      loadBalancer: { policy: 'random', choiceCount: undefined },
    })
  })

  it('returns a duplicate target once, and up to 64 targets', () => {
    const found = followChain(chainOf(resolver('a', 'b', 'a', 'b', 'c'), ['a', 'b', 'c'])).targets
    assert.deepEqual(found, ['a', 'b', 'c'].map(target))
    const [first = '', ...rest] = MANY.slice(0, 64)
    assert.equal(followChain(chainOf(resolver(first, ...rest, first), MANY)).targets.length, 64)
  })

  const refused: [chain: CompiledChain, problem: string][] = [
    [
      { ...chainOf(resolver('a'), ['a']), startNode: 'x"y' },
      'starts with the node "x\\"y", which is missing',
    ],
    [chainOf(resolver('a', 'b'), ['a']), 'leads to the target "b", which is missing'],
    [chainOf(resolver(MANY[0]!, ...MANY.slice(1)), MANY), 'has 65 targets; at most 64 are supported'],
    ...(['router', 'splitter', 'x'] as const).map((name): [CompiledChain, string] => [
      chainOf(name === 'x' ? { type: 'unknown', name } : { type: name }, []),
      `starts with a node of the type "${name}", which a dial cannot follow`,
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
      targets: [{ ...target('web'), gatewayMode: 'remote' }],
      connectTimeoutMs: 5_000,
      loadBalancer: undefined,
    })
    assert.equal(withoutChain('web').targets[0]?.gatewayMode, 'none')
  })
})
