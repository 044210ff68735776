import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import { xxHash64 } from '../../src/base/xxhash64.js'
import { Balancer, type Choice } from '../../src/resolve/balancing/balancer.js'
import { type Endpoint, endpointList } from '../../src/resolve/resolver.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { scripted, seeded } from '../fixtures/random.js'

const identity = { service: 'web' }

/** The instance `host`, with a weight or the default one. */
function at(host: string, weight?: number): Endpoint {
  return weight === undefined ? { host, port: 80, identity } : { host, port: 80, identity, weight }
}

const [A, B, C, D, E, F] = [at('a'), at('b'), at('c'), at('d'), at('e'), at('f')]

function start(random: () => number = () => 0) {
  const clock = new FakeClock()
  const balancer = new Balancer({ clock, random })
  const chooser =
    (isSorted: boolean) =>
    (list: readonly Endpoint[], tried = new Set<object>()): Choice => {
      const choice = balancer.choose(list, isSorted, tried)
      assert.ok(choice !== undefined, 'no instance was chosen')
      return choice
    }
  const pass = (ms: number): void => {
    clock.set(clock.now() + ms)
  }
  const choose = chooser(false)
  const first = chooser(true)
  /** Whether `endpoint` is preferred to a healthy instance. */
  const isReady = (endpoint: Endpoint, list: readonly Endpoint[]): boolean => {
    // A new instance is healthy.
    const choice = first([endpoint, ...list.filter((item) => item !== endpoint), at('new')])
    choice.abandoned()
    // Remove the new instance.
    first(list).abandoned()
    return choice.endpoint === endpoint
  }
  return {
    clock,
    balancer,
    choose,
    first,
    /** Two choices from a sorted list. The second one shows whether the first one was a trial. */
    firstTwo: (list: readonly Endpoint[]) => [first(list).endpoint, first(list).endpoint],
    isReady,
    pass,
    /** Requires that the ejection of `endpoint` ends in `ms`, and moves the clock there. */
    expectEjected: (endpoint: Endpoint, list: readonly Endpoint[], ms: number): void => {
      pass(ms - 1)
      assert.equal(isReady(endpoint, list), false, `before ${ms} ms`)
      pass(1)
      assert.equal(isReady(endpoint, list), true, `after ${ms} ms`)
    },
    /** Chooses `endpoint` from the list, even if it is ejected. */
    take: (endpoint: Endpoint, list: readonly Endpoint[]): Choice => {
      const tried = new Set<object>()
      const skipped: Choice[] = []
      for (;;) {
        const choice = first(list, tried)
        if (choice.endpoint === endpoint) {
          for (const each of skipped) each.abandoned()
          return choice
        }
        skipped.push(choice)
      }
    },
    /** The number of connections of each instance, if each connection is closed before the next one is made. */
    countChoices: (list: readonly Endpoint[], count: number): number[] => {
      const found = new Map(list.map((endpoint) => [endpoint, 0]))
      for (let i = 0; i < count; i += 1) {
        const choice = choose(list)
        found.set(choice.endpoint, found.get(choice.endpoint)! + 1)
        choice.connected()()
      }
      return [...found.values()]
    },
  }
}

/** The choices of one dial, which tries each instance once. */
function startDial(balancer: Balancer) {
  const tried = new Set<object>()
  return (list: readonly Endpoint[], isSorted: boolean) => balancer.choose(list, isSorted, tried)
}

function policyOf(policy: string): LoadBalancer {
  const ringSize = { least: undefined, greatest: undefined }
  return { policy, choiceCount: undefined, ringSize, hashPolicies: [] }
}

/** Pearson's chi-square statistic. */
function chiSquare(counts: readonly number[], expected: readonly number[]): number {
  return counts.reduce((sum, count, i) => sum + (count - expected[i]!) ** 2 / expected[i]!, 0)
}

/** The 99.9th percentile of the chi-square distribution, by degrees of freedom. */
const CHI_SQUARE_LIMIT = [0, 10.83, 13.82]

describe('Balancer: the shares of the instances', () => {
  const lists: (number | undefined)[][] = [
    [1, 2, 3],
    [undefined, 2],
    [0.25, 0.75],
    [1, 100],
    [65535, 65535],
  ]
  for (const weights of lists) {
    it(`are proportional to the weights ${weights.map((weight) => weight ?? 'none').join(', ')}`, () => {
      const list = weights.map((weight, i) => at(`h${i}`, weight))
      const total = weights.reduce<number>((sum, weight) => sum + (weight ?? 1), 0)
      const counts = start(seeded(1)).countChoices(list, 20_000)
      const found = chiSquare(
        counts,
        weights.map((weight) => ((weight ?? 1) / total) * 20_000),
      )
      assert.ok(found < CHI_SQUARE_LIMIT[list.length - 1]!, `chi-square ${found} of ${counts.join(', ')}`)
    })
  }

  it('are equal if all weights are 0', () => {
    const list = [at('a', 0), at('b', 0), at('c', 0)]
    const counts = start(seeded(2)).countChoices(list, 9_000)
    assert.ok(chiSquare(counts, [3000, 3000, 3000]) < CHI_SQUARE_LIMIT[2]!, counts.join(', '))
  })

  it('are proportional to the weights at any time if connections stay open', () => {
    const weights = [1, 2, 3, 4]
    const list = weights.map((weight, i) => at(`h${i}`, weight))
    const { choose } = start(seeded(3))
    const loads = new Map(list.map((endpoint) => [endpoint, 0]))
    for (let i = 0; i < 1000; i += 1) {
      const choice = choose(list)
      choice.connected()
      loads.set(choice.endpoint, loads.get(choice.endpoint)! + 1)
      const perWeight = [...loads].map(([endpoint, load]) => load / endpoint.weight!)
      assert.ok(Math.max(...perWeight) - Math.min(...perWeight) <= 4, perWeight.join(', '))
    }
    assert.deepEqual(
      [...loads.values()].map((load) => Math.round(load / 10)),
      [10, 20, 30, 40],
    )
  })

  it('exclude an instance that keeps its connection open while another instance is idle', () => {
    const { choose } = start(seeded(4))
    const counts = { a: 0, b: 0 }
    for (let i = 0; i < 500; i += 1) {
      const choice = choose([A, B])
      const end = choice.connected()
      counts[choice.endpoint.host as 'a' | 'b'] += 1
      if (choice.endpoint === B) end()
    }
    assert.deepEqual(counts, { a: 1, b: 499 })
  })

  it('count pending connections like open ones', () => {
    const { choose } = start(seeded(5))
    const chosen = [choose([A, B]), choose([A, B])].map(({ endpoint }) => endpoint.host)
    assert.deepEqual(chosen.sort(), ['a', 'b'])
  })

  // A single instance is never ejected.
  for (const outcome of ['closed', 'abandoned', 'failed'] as const) {
    it(`do not count a connection that was ${outcome}`, () => {
      const { choose, balancer } = start(seeded(6))
      for (let i = 0; i < 5; i += 1) {
        const choice = choose([A])
        if (outcome === 'closed') choice.connected()()
        else choice[outcome]()
      }
      assert.equal(balancer.isIdle, true)
      // Without load, the choice is random.
      const hosts = new Set<string>()
      for (let i = 0; i < 50; i += 1) {
        const choice = choose([A, B])
        hosts.add(choice.endpoint.host)
        choice.abandoned()
      }
      assert.deepEqual([...hosts].sort(), ['a', 'b'])
    })
  }
})

describe('Balancer: the random choice', () => {
  // The random numbers determine which two instances are drawn, and the loads which of the two is chosen.
  const cases: [rule: string, weights: number[], loads: number[], numbers: number[], host: string][] = [
    ['draws the first instance with the lowest number', [1, 1, 1], [0, 0, 0], [0, 0], 'a'],
    ['draws the last instance with the highest number', [1, 1, 1], [0, 0, 0], [0.999, 0], 'c'],
    ['draws the first instance below its share', [1, 3], [0, 0], [0.2499, 0], 'a'],
    ['draws the second instance at the edge of the first share', [1, 3], [0, 0], [0.25, 0], 'b'],
    ['takes the first drawn of two equally loaded instances', [1, 1], [2, 2], [0.5, 0], 'b'],
    ['takes the second drawn if it has less load', [1, 1], [1, 0], [0, 0], 'b'],
    ['takes the first drawn if it has less load', [1, 1], [0, 1], [0, 0], 'a'],
    ['draws two different instances', [1, 1, 1], [5, 1, 9], [0, 0], 'b'],
    ['does not consider an instance that was not drawn', [1, 1, 1], [5, 9, 0], [0, 0], 'a'],
    ['considers the third instance if it is drawn', [1, 1, 1], [5, 9, 0], [0, 0.5], 'c'],
    ['draws the second by weight', [1, 1, 3], [5, 0, 0], [0, 0.24], 'b'],
    ['draws the second by weight, at the edge', [1, 1, 3], [5, 0, 0], [0, 0.25], 'c'],
    ['treats equal loads per weight as equal', [1, 3], [1, 3], [0, 0], 'a'],
    ['takes the second drawn if it has less load per weight', [1, 3], [1, 2], [0, 0], 'b'],
    ['takes the first drawn if the second has more load per weight', [1, 3], [1, 4], [0, 0], 'a'],
    ['takes the first drawn if it has less load per weight', [3, 1], [2, 1], [0, 0], 'a'],
    // With one more connection, the second would have a load per weight of 2, and the first has 4/3.
    ['counts the new connection in the load of the second', [3, 1], [4, 1], [0, 0], 'a'],
    [
      'takes the second drawn if it has less load per weight with the new connection',
      [3, 1],
      [6, 1],
      [0, 0],
      'b',
    ],
    [
      'draws the last instance if rounding exceeds the total weight',
      [3.8, 8.8],
      [0, 0],
      [1 - 2 ** -53, 0],
      'b',
    ],
    ['draws uniformly if all weights are 0, upper half', [0, 0], [0, 0], [0.5, 0], 'b'],
    ['draws uniformly if all weights are 0, lower half', [0, 0], [0, 0], [0.49, 0], 'a'],
  ]
  for (const [rule, weights, loads, numbers, host] of cases) {
    it(rule, () => {
      const list = weights.map((weight, i) => at('abc'[i]!, weight))
      const { choose, take } = start(scripted(...numbers))
      // Sorted choices do not use random numbers.
      loads.forEach((load, i) => {
        for (let n = 0; n < load; n += 1) take(list[i]!, list).connected()
      })
      assert.equal(choose(list).endpoint.host, host)
    })
  }
})

describe('Balancer: an instance with weight 0', () => {
  const [weightless, weighted] = [at('weightless', 0), at('weighted', 1)]

  it('is not chosen while another instance is available, regardless of load', () => {
    const { choose } = start(seeded(7))
    for (let i = 0; i < 500; i += 1) {
      const choice = choose([weightless, weighted])
      assert.equal(choice.endpoint, weighted)
      choice.connected()
    }
  })

  it('is chosen after all other instances were tried', () => {
    const { balancer } = start()
    const next = startDial(balancer)
    assert.equal(next([weightless, weighted], false)?.endpoint, weighted)
    assert.equal(next([weightless, weighted], false)?.endpoint, weightless)
  })

  it('is preferred to an ejected instance', () => {
    const { choose } = start()
    choose([weightless, weighted]).failed()
    assert.equal(choose([weightless, weighted]).endpoint, weightless)
  })
})

describe('Balancer: a sorted list', () => {
  it('yields its first instance, regardless of weights, loads, and random numbers', () => {
    const { first } = start(seeded(8))
    const list = [at('near', 1), at('far', 100)]
    for (let i = 0; i < 100; i += 1) {
      const choice = first(list)
      assert.equal(choice.endpoint.host, 'near')
      choice.connected()
    }
  })

  it('yields the remaining instances in order, and ejected instances last', () => {
    const { first, balancer, take } = start()
    const list = [A, B, C, D]
    take(B, list).failed()
    const next = startDial(balancer)
    const order = list.map(() => next(list, true)?.endpoint.host)
    assert.deepEqual(order, ['a', 'c', 'd', 'b'])
    assert.equal(first([D, C, B, A]).endpoint, D)
  })
})

describe('Balancer: the choices of a dial', () => {
  it('continue with new instances of a later list', () => {
    const { balancer } = start()
    const next = startDial(balancer)
    next([A], false)!.failed()
    assert.equal(next([A], false), undefined)
    const again = at('a')
    assert.equal(next([again, B], false)?.endpoint, B)
    assert.equal(next([again, B], false), undefined)
  })

  it('are undefined for an empty list', () => {
    const { balancer } = start()
    for (const isSorted of [false, true]) assert.equal(balancer.choose([], isSorted, new Set()), undefined)
  })
})

describe('Balancer: the identity of an instance', () => {
  const base = { host: 'a', port: 80, identity: { service: 'web' } }
  const endpoints: [rule: string, endpoint: Endpoint, isSame: boolean][] = [
    ['is the same for an equal endpoint', { ...base, identity: { ...base.identity } }, true],
    ['does not depend on the weight', { ...base, weight: 7 }, true],
    [
      'is the same for an undefined datacenter',
      { ...base, identity: { service: 'web', datacenter: undefined } },
      true,
    ],
    ['depends on the host', { ...base, host: 'b' }, false],
    ['depends on the port', { ...base, port: 81 }, false],
    ['depends on the service', { ...base, identity: { service: 'db' } }, false],
    ['depends on the namespace', { ...base, identity: { service: 'web', namespace: 'n' } }, false],
    ['depends on the partition', { ...base, identity: { service: 'web', partition: 'n' } }, false],
    ['depends on the datacenter', { ...base, identity: { service: 'web', datacenter: 'n' } }, false],
  ]
  for (const [rule, endpoint, isSame] of endpoints) {
    it(rule, () => {
      const { balancer } = start()
      const next = startDial(balancer)
      assert.equal(next([base, endpoint], true)?.endpoint, base)
      assert.equal(next([base, endpoint], true)?.endpoint, isSame ? undefined : endpoint)
    })
  }

  it('distinguishes a namespace, a partition, and a datacenter with the same name', () => {
    const { balancer } = start()
    const list = ['namespace', 'partition', 'datacenter'].map((place) => ({
      ...base,
      identity: { service: 'web', [place]: 'n' },
    }))
    const next = startDial(balancer)
    const found = list.map(() => next(list, true)?.endpoint)
    assert.deepEqual(found, list)
  })

  it('is shared by duplicates; the first one determines the weight', () => {
    const { choose } = start(seeded(10))
    const list = [at('a', 1), at('a', 1000), at('b', 1)]
    const counts = { a: 0, b: 0 }
    for (let i = 0; i < 2000; i += 1) {
      const choice = choose(list)
      assert.notEqual(choice.endpoint, list[1])
      counts[choice.endpoint.host as 'a' | 'b'] += 1
      choice.connected()()
    }
    assert.ok(chiSquare([counts.a, counts.b], [1000, 1000]) < CHI_SQUARE_LIMIT[1]!, JSON.stringify(counts))
  })

  it('counts once for duplicates in the limit of ejections', () => {
    const { take, isReady } = start()
    // There are two instances, and one may be ejected.
    const list = [A, at('a'), B, at('b')]
    take(A, list).failed()
    assert.equal(isReady(A, list), false)
    take(B, list).failed()
    assert.equal(isReady(B, list), true)
  })
})

describe('Balancer: ejection', () => {
  it('starts with the first failure', () => {
    const { choose, take } = start(seeded(11))
    take(A, [A, B, C]).failed()
    for (let i = 0; i < 200; i += 1) {
      const choice = choose([A, B, C])
      assert.notEqual(choice.endpoint, A)
      choice.connected()()
    }
  })

  for (const [random, factor] of [
    [0, 1],
    [0.5, 1.25],
    [0.999, 1.4995],
  ] as const) {
    it(`doubles from 1 s to 60 s, times ${factor} with the random number ${random}`, () => {
      const { take, expectEjected } = start(() => random)
      const list = [A, B]
      for (const ms of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]) {
        take(A, list).failed()
        expectEjected(A, list, Math.ceil(ms * factor))
      }
    })
  }

  it('stays at 60 s after 1100 failures', () => {
    const { take, pass, expectEjected } = start()
    const list = [A, B]
    for (let i = 0; i < 1100; i += 1) {
      take(A, list).failed()
      pass(60_000)
    }
    take(A, list).failed()
    expectEjected(A, list, 60_000)
  })

  it('counts concurrent failures once', () => {
    const { first, pass, expectEjected } = start()
    const list = [A, B]
    const choices = Array.from({ length: 5 }, () => first(list))
    assert.ok(choices.every(({ endpoint }) => endpoint === A))
    choices[0]!.failed()
    pass(500)
    // These failures neither prolong nor restart the ejection.
    for (const choice of choices.slice(1)) choice.failed()
    expectEjected(A, list, 500)
    first(list).failed()
    expectEjected(A, list, 2_000)
  })

  it('ends when an earlier attempt succeeds', () => {
    const { first, isReady } = start()
    const list = [A, B]
    const [pending, failing] = [first(list), first(list)]
    failing.failed()
    assert.equal(isReady(A, list), false)
    pending.connected()
    assert.equal(isReady(A, list), true)
  })

  it('starts at 1 s again after a success', () => {
    const { take, pass, expectEjected } = start()
    const list = [A, B]
    for (const ms of [1_000, 2_000, 4_000]) {
      take(A, list).failed()
      pass(ms)
    }
    take(A, list).connected()()
    take(A, list).failed()
    expectEjected(A, list, 1_000)
  })

  for (const [size, most] of [
    [1, 0],
    [2, 1],
    [3, 1],
    [6, 3],
  ] as const) {
    it(`is limited to half of the instances: ${most} of ${size}`, () => {
      const { take, balancer, isReady } = start()
      const list = [A, B, C, D, E, F].slice(0, size)
      for (const endpoint of list) take(endpoint, list).failed()
      const ready = list.map((endpoint) => isReady(endpoint, list))
      assert.deepEqual(
        ready,
        list.map((_, i) => i >= most),
      )
      assert.equal(balancer.isIdle, most === 0)
    })
  }

  it('does not count an instance that waits for its trial in the limit', () => {
    const { take, isReady, pass } = start()
    const list = [A, B, C]
    take(A, list).failed()
    pass(999)
    take(B, list).failed()
    assert.equal(isReady(B, list), true)
    pass(1)
    take(B, list).failed()
    assert.equal(isReady(B, list), false)
    assert.equal(isReady(A, list), true)
  })

  it('counts an instance on trial in the limit', () => {
    const { take, first, isReady, pass } = start()
    const list = [A, B, C]
    take(A, list).failed()
    pass(1_000)
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    take(B, list).failed()
    assert.equal(isReady(B, list), true)
    // The end of the trial allows another ejection.
    trial.connected()()
    take(B, list).failed()
    assert.equal(isReady(B, list), false)
  })

  it('ends when the clock is set back', () => {
    const { take, isReady, clock } = start()
    const list = [A, B]
    take(A, list).failed()
    assert.equal(isReady(A, list), false)
    clock.set(clock.now() - 1)
    assert.equal(isReady(A, list), true)
    clock.set(clock.now() - 3_600_000)
    assert.equal(isReady(A, list), true)
  })
})

describe('Balancer: the trial after an ejection', () => {
  const list = [A, B]

  /** The ejection of A is over. */
  function afterEjection() {
    const started = start()
    started.take(A, list).failed()
    started.pass(1_000)
    return started
  }

  it('is a single connection', () => {
    const { first, firstTwo } = afterEjection()
    assert.equal(first(list).endpoint, A)
    assert.deepEqual(firstTwo(list), [B, B])
  })

  it('readmits the instance when it succeeds', () => {
    const { first, firstTwo } = afterEjection()
    first(list).connected()
    assert.deepEqual(firstTwo(list), [A, A])
  })

  it('is not required after an earlier attempt succeeds', () => {
    const { first, firstTwo, pass } = start()
    const [pending, failing] = [first(list), first(list)]
    failing.failed()
    pass(1_000)
    assert.equal(first(list).endpoint, A)
    pending.connected()
    assert.deepEqual(firstTwo(list), [A, A])
  })

  it('ejects the instance for twice as long when it fails', () => {
    const { first, expectEjected } = afterEjection()
    first(list).failed()
    expectEjected(A, list, 2_000)
  })

  it('is repeated when it is abandoned', () => {
    const { first } = afterEjection()
    first(list).abandoned()
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    assert.equal(first(list).endpoint, B)
    trial.failed()
    assert.equal(first(list).endpoint, B)
  })

  it('does not prevent other connections when all other instances were tried', () => {
    const { first, balancer } = afterEjection()
    first(list)
    const next = startDial(balancer)
    assert.equal(next(list, true)?.endpoint, B)
    assert.equal(next(list, true)?.endpoint, A)
  })

  it('is not ended by another connection to the instance', () => {
    const { first, balancer } = afterEjection()
    assert.equal(first(list).endpoint, A)
    const next = startDial(balancer)
    next(list, true)!.abandoned()
    next(list, true)!.abandoned()
    assert.equal(first(list).endpoint, B)
  })
})

describe('Balancer: an ejected instance', () => {
  it('is chosen after all healthy instances were tried', () => {
    const { first, balancer, take } = start()
    const list = [A, B, C, D]
    take(A, list).failed()
    take(B, list).failed()
    const next = startDial(balancer)
    const order = list.map(() => next(list, true)?.endpoint)
    assert.deepEqual(order, [C, D, A, B])
    assert.equal(next(list, true), undefined)
    assert.equal(first(list).endpoint, C)
  })

  it('is not ejected for longer when it fails again', () => {
    const { take, pass, expectEjected } = start()
    const list = [A, B]
    take(A, list).failed()
    pass(900)
    take(A, list).failed()
    expectEjected(A, list, 100)
    take(A, list).failed()
    expectEjected(A, list, 2_000)
  })

  it('is chosen by weight', () => {
    const { choose, take } = start(seeded(12))
    const list = [at('a', 1), at('b', 9), at('c', 0), at('d', 0)]
    take(list[0]!, list).failed()
    take(list[1]!, list).failed()
    const counts = [0, 0]
    for (let i = 0; i < 1000; i += 1) {
      const tried = new Set<object>()
      choose(list, tried).abandoned()
      choose(list, tried).abandoned()
      const choice = choose(list, tried)
      counts[list.indexOf(choice.endpoint)]! += 1
      choice.abandoned()
    }
    assert.ok(chiSquare(counts, [100, 900]) < CHI_SQUARE_LIMIT[1]!, counts.join(', '))
  })
})

describe('Balancer: changes of the list', () => {
  it('uses the endpoints and weights of the latest list', () => {
    const { choose } = start(seeded(15))
    const before = [at('a', 1), at('b', 0)]
    const after = [at('a', 0), at('b', 1)]
    for (let i = 0; i < 50; i += 1) {
      assert.equal(choose(before).endpoint, before[0])
      assert.equal(choose(after).endpoint, after[1])
    }
  })

  it('reads a mutable list each time', () => {
    const { choose } = start(seeded(16))
    const list = [A]
    choose(list).connected()
    list.push(B)
    assert.equal(choose(list).endpoint, B)
    list.shift()
    choose(list).connected()
    assert.equal(choose(list).endpoint, B)
  })

  it('reads a frozen list once', () => {
    const { choose } = start()
    let reads = 0
    const watched: Endpoint = {
      get host(): string {
        reads += 1
        return 'a'
      },
      port: 80,
      identity,
    }
    const frozen = Object.freeze([watched])
    for (let i = 0; i < 5; i += 1) choose(frozen).abandoned()
    assert.equal(reads, 1)
  })

  it('uses alternating lists, frozen or not', () => {
    for (const freeze of [<T>(list: T) => list, Object.freeze]) {
      const { choose } = start(seeded(17))
      const [listOfA, listOfB] = [freeze([A]), freeze([B])]
      for (let i = 0; i < 10; i += 1) {
        assert.equal(choose(listOfA).endpoint, A)
        assert.equal(choose(listOfB).endpoint, B)
      }
    }
  })

  it('counts open connections of an instance that returns', () => {
    const { choose } = start(seeded(18))
    choose([A]).connected()
    choose([B]).connected()()
    for (let i = 0; i < 20; i += 1) {
      const choice = choose([A, B])
      assert.equal(choice.endpoint, B)
      choice.connected()()
    }
  })

  it('keeps the ejection of an instance that is removed and returns', () => {
    const { take, first, isReady } = start()
    take(A, [A, B]).failed()
    first([B]).connected()()
    assert.equal(isReady(A, [A, B]), false)
    take(B, [A, B]).failed()
    assert.equal(isReady(B, [A, B]), true)
  })

  it('forgets an ejection that ends while the instance is removed', () => {
    const { take, first, firstTwo, pass, isReady, balancer } = start()
    const list = [A, B]
    take(A, list).failed()
    first([B]).connected()()
    pass(1_000)
    first([B, C]).connected()()
    assert.equal(balancer.isIdle, true)
    // There is no trial, and the next ejection is the first.
    assert.deepEqual(firstTwo(list), [A, A])
    take(A, list).failed()
    pass(1_000)
    assert.equal(isReady(A, list), true)
  })

  it('readmits instances without a trial if too many are ejected, in the order in which their ejections end', () => {
    const { take, first, firstTwo, pass } = start()
    const list = [A, B, C, D]
    take(B, list).failed()
    pass(100)
    take(A, list).failed()
    // One of three may be ejected, and none of one.
    assert.deepEqual(firstTwo([A, B, C]), [B, B])
    assert.deepEqual(firstTwo([A]), [A, A])
    // A stays readmitted.
    assert.equal(first([A, B]).endpoint, A)
  })

  it('readmits the instance whose ejection ends first, not the one that was ejected first', () => {
    const { take, firstTwo, pass } = start()
    const list = [A, B, C, D]
    // A is ejected for 2 s, and then B for 1 s.
    take(A, list).failed()
    pass(1_000)
    take(A, list).failed()
    pass(500)
    take(B, list).failed()
    assert.deepEqual(firstTwo([A, B, C]), [B, B])
  })

  it('keeps the ejection if the shorter list permits it', () => {
    const { take, firstTwo } = start()
    take(A, [A, B, C, D]).failed()
    assert.deepEqual(firstTwo([A, B]), [B, B])
  })
})

describe('Balancer: failover groups', () => {
  /** The instance `host` of a group. */
  const inGroup = (priority: number, host: string): Endpoint => ({ ...at(host), priority })

  it('are used in order of their priority: a later one only when each earlier instance was tried', () => {
    const [a, b, c, d] = [at('a'), inGroup(0, 'b'), inGroup(1, 'c'), inGroup(7, 'd')]
    const { balancer } = start()
    const next = startDial(balancer)
    const order = [1, 2, 3, 4].map(() => next([d, c, a, b], false)?.endpoint)
    assert.deepEqual([new Set(order.slice(0, 2)), order.slice(2)], [new Set([a, b]), [c, d]])
    assert.equal(next([d, c, a, b], false), undefined)
  })

  it('may be ejected as a whole while a later one has an instance, and come back by a trial', () => {
    const list = [at('a'), at('b'), inGroup(1, 'c'), inGroup(1, 'd')]
    const [a, b, c, d] = list as [Endpoint, Endpoint, Endpoint, Endpoint]
    const { choose, first, firstTwo, take, pass } = start()
    take(a, list).failed()
    assert.equal(choose(list).endpoint, b)
    take(b, list).failed()
    take(c, list).failed()
    // Half of the last group.
    assert.deepEqual(firstTwo(list), [d, d])
    take(d, list).failed()
    assert.equal(first(list).endpoint, d)
    pass(1_000)
    // One trial for each instance of the first group.
    assert.deepEqual([...firstTwo(list), first(list).endpoint], [a, b, c])
  })

  it('are not ejected as a whole while no later one has an instance ready', () => {
    const list = [at('a'), inGroup(1, 'b'), inGroup(1, 'c')]
    const [a, b, c] = list as [Endpoint, Endpoint, Endpoint]
    const { first, take, pass } = start()
    take(c, list).failed()
    pass(1_000)
    take(b, list).failed()
    const trial = take(c, list)
    take(a, list).failed()
    trial.abandoned()
    assert.equal(first(list).endpoint, a)
  })

  it('are used although ejected, the first one first, when each healthy instance was tried', () => {
    const list = [at('a'), inGroup(1, 'b')]
    const { balancer, take } = start()
    take(list[0]!, list).failed()
    const next = startDial(balancer)
    assert.deepEqual(
      [1, 2].map(() => next(list, false)?.endpoint),
      [list[1], list[0]],
    )
  })

  it('readmit an instance when the later groups disappear', () => {
    const list = [at('a'), at('b'), inGroup(1, 'c')]
    const { first, take, pass } = start()
    take(list[0]!, list).failed()
    pass(1)
    take(list[1]!, list).failed()
    assert.equal(first(list).endpoint, list[2])
    // At most half of the only group is ejected.
    assert.equal(first(list.slice(0, 2)).endpoint, list[0])
  })

  it('keep their ejected instances if the one of a later group is readmitted', () => {
    const list = [at('a'), inGroup(1, 'b'), inGroup(2, 'c')]
    const { first, take } = start()
    for (const each of list) take(each, list).failed()
    assert.equal(first(list.slice(0, 2)).endpoint, list[1])
  })

  it('contain the instances of one address with several server names', () => {
    const list = ['x', 'y'].map((serverName) => ({ ...at('a'), serverName }))
    const next = startDial(start().balancer)
    assert.deepEqual(
      [1, 2, 3].map(() => next(list, true)?.endpoint),
      [...list, undefined],
    )
  })
})

describe('Balancer: the policy of the operator', () => {
  it('applies within the first group', () => {
    const endpoints = [at('a', 2), at('b'), { ...at('c'), priority: 1 }]
    const list = endpointList(endpoints, { loadBalancer: policyOf('round_robin') })
    const { choose } = start()
    const hosts = Array.from({ length: 6 }, () => choose(list).endpoint.host)
    assert.equal(hosts.join(''), 'abaaba')
  })
})

describe('Balancer: a preferred endpoint', () => {
  it('is taken before the others, whatever its weight and load', () => {
    const { balancer } = start(() => 0)
    const list = [at('a', 100), at('b', 1), at('c', 0)]
    for (let i = 0; i < 3; i += 1) {
      for (const endpoint of list) {
        const choice = balancer.choose(list, false, new Set(), endpoint)
        assert.equal(choice?.endpoint, endpoint)
        choice.connected()
      }
    }
  })

  it('is found by its address and identity, as the list has it', () => {
    const { balancer } = start()
    const list = [A, at('b', 7)]
    assert.equal(balancer.choose(list, false, new Set(), at('b'))?.endpoint, list[1])
  })

  it('is taken from a sorted list', () => {
    const { balancer } = start()
    assert.equal(balancer.choose([A, B, C], true, new Set(), C)?.endpoint, C)
  })

  it('is left out if it was tried, is ejected, or is not listed', () => {
    const { balancer, take } = start()
    const list = [A, B, C]
    const tried = new Set<object>()
    assert.equal(balancer.choose(list, true, tried, B)?.endpoint, B)
    assert.equal(balancer.choose(list, true, tried, B)?.endpoint, A)
    take(C, list).failed()
    assert.equal(balancer.choose(list, true, new Set(), C)?.endpoint, A)
    assert.equal(balancer.choose(list, true, new Set(), at('new'))?.endpoint, A)
  })

  it('is left out while an earlier group is ready', () => {
    const { balancer, take } = start()
    const spare = { ...B, priority: 1 }
    assert.equal(balancer.choose([A, spare], false, new Set(), spare)?.endpoint, A)
    take(A, [A, spare]).failed()
    assert.equal(balancer.choose([A, spare], false, new Set(), spare)?.endpoint, spare)
  })

  it('gets one trial after its ejection', () => {
    const { balancer, take, pass } = start()
    const list = [A, B, C]
    take(C, list).failed()
    pass(1_000)
    assert.equal(balancer.choose(list, true, new Set(), C)?.endpoint, C)
    assert.equal(balancer.choose(list, true, new Set(), C)?.endpoint, A)
  })
})

describe('Balancer: the choice for a request', () => {
  /** Chooses for one request. */
  function requests(random?: () => number) {
    const started = start(random)
    const { balancer } = started
    return {
      ...started,
      next: (list: readonly Endpoint[], tried = new Set<object>(), hash?: bigint, isSorted = false) => {
        const choice = balancer.chooseForRequest(list, isSorted, tried, hash)
        assert.ok(choice !== undefined, 'no instance was chosen')
        return choice
      },
    }
  }

  it('counts the requests that have not ended', () => {
    const { next } = requests(() => 0)
    const list = [A, B]
    const chosen = [next(list), next(list), next(list), next(list)]
    assert.deepEqual(chosen.map(({ endpoint }) => endpoint.host).sort(), ['a', 'a', 'b', 'b'])
    for (const { endpoint, end } of chosen) if (endpoint === B) end()
    assert.deepEqual(
      [next(list), next(list)].map(({ endpoint }) => endpoint),
      [B, B],
    )
  })

  it('counts the end of a request once', () => {
    const { next } = requests(() => 0)
    const list = [A, B]
    const [first, second] = [next(list), next(list)]
    assert.deepEqual([first.endpoint, second.endpoint], [A, B])
    for (let i = 0; i < 5; i += 1) first.end()
    // With a negative count, A would get the third request as well.
    const hosts = [next(list), next(list), next(list)].map(({ endpoint }) => endpoint.host)
    assert.deepEqual(hosts, ['a', 'a', 'b'])
  })

  it('does not count connections, and connections do not count requests', () => {
    const { next, choose, balancer } = requests(() => 0)
    const list = [A, B]
    for (let i = 0; i < 5; i += 1) choose(list).connected()
    const first = next(list)
    assert.equal(first.endpoint, A)
    assert.equal(balancer.isIdle, false)
    const idle = requests()
    idle.next(list)
    assert.equal(idle.balancer.isIdle, true)
  })

  it('prefers instances that were not tried, and takes others if there are none', () => {
    const { next } = requests(() => 0)
    const tried = new Set<object>()
    const list = [A, B, C]
    const hosts = [1, 2, 3].map(() => next(list, tried).endpoint.host)
    assert.deepEqual(hosts.sort(), ['a', 'b', 'c'])
    assert.ok(list.includes(next(list, tried).endpoint))
  })

  it('is undefined for an empty list', () => {
    assert.equal(start().balancer.chooseForRequest([], false, new Set()), undefined)
  })

  it('is the first instance of a sorted list', () => {
    const { next, take } = requests()
    const list = [A, B, C]
    for (let i = 0; i < 3; i += 1) assert.equal(next(list, new Set(), 7n, true).endpoint, A)
    take(A, list).failed()
    assert.equal(next(list, new Set(), 7n, true).endpoint, B)
  })

  it('goes to a later group only when each instance of the earlier ones was tried or is ejected', () => {
    const { next, take } = requests()
    const list = [A, B, { ...C, priority: 1 }, { ...D, priority: 2 }]
    const tried = new Set<object>()
    const hosts = [1, 2, 3, 4].map(() => next(list, tried).endpoint.host)
    assert.deepEqual(
      [hosts.slice(0, 2).sort(), hosts.slice(2)],
      [
        ['a', 'b'],
        ['c', 'd'],
      ],
    )
    // All were tried: the first group again.
    assert.ok(['a', 'b'].includes(next(list, tried).endpoint.host))
    take(list[0]!, list).failed()
    assert.equal(next(list).endpoint.host, 'b')
    take(list[1]!, list).failed()
    assert.equal(next(list).endpoint.host, 'c')
  })

  it('needs no trial: it does not change the ejection', () => {
    const { next, take, pass, firstTwo } = requests()
    const list = [A, B]
    take(A, list).failed()
    pass(1_000)
    next(list, new Set(), undefined, true).end()
    // The trial connection is still due.
    assert.deepEqual(firstTwo(list), [A, B])
  })

  const HASHES = Array.from({ length: 500 }, (_, i) => xxHash64(`user ${i}`))
  for (const policy of ['ring_hash', 'maglev']) {
    it(`sticks to an instance by the hash under ${policy}, and moves only what an ejection takes`, () => {
      const { next, take, pass, balancer } = requests(seeded(20))
      const endpoints = ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4'].map((host) => at(host))
      const list = endpointList(endpoints, { loadBalancer: policyOf(policy) })
      const hostsOf = (of: readonly Endpoint[]) =>
        HASHES.map((hash) => next(of, new Set(), hash).endpoint.host)
      const before = hostsOf(list)
      // The load does not matter: no request has ended.
      assert.deepEqual(hostsOf(list), before)
      for (const { host } of list) {
        const share = before.filter((each) => each === host).length
        assert.ok(share > 50 && share < 250, `${host}: ${share} of 500`)
      }
      // The order of the list does not matter.
      const reversed = endpointList([...endpoints].reverse(), { loadBalancer: policyOf(policy) })
      assert.deepEqual(hostsOf(reversed), before)

      take(list[0]!, list).failed()
      const during = hostsOf(list)
      for (const [i, host] of before.entries()) {
        if (host === list[0]!.host) assert.notEqual(during[i], host)
        else assert.equal(during[i], host)
      }
      // With the longest jitter.
      pass(1_500)
      balancer.choose(list, false, new Set(), list[0])?.connected()()
      assert.deepEqual(hostsOf(list), before)
    })

    it(`takes another instance under ${policy} for a request that is sent again`, () => {
      const { next } = requests(seeded(21))
      const list = endpointList([at('a'), at('b'), at('c')], { loadBalancer: policyOf(policy) })
      for (const hash of HASHES.slice(0, 50)) {
        const tried = new Set<object>()
        const hosts = [1, 2, 3].map(() => next(list, tried, hash).endpoint.host)
        assert.deepEqual(hosts.sort(), ['a', 'b', 'c'])
      }
    })

    it(`has a table for each group under ${policy}`, () => {
      const { next, take } = requests(seeded(22))
      const endpoints = [at('a'), at('b'), { ...at('c'), priority: 1 }, { ...at('d'), priority: 1 }]
      const list = endpointList(endpoints, { loadBalancer: policyOf(policy) })
      const hostsOf = () => HASHES.map((hash) => next(list, new Set(), hash).endpoint.host)
      assert.deepEqual([...new Set(hostsOf())].sort(), ['a', 'b'])
      take(list[0]!, list).failed()
      take(list[1]!, list).failed()
      const spare = hostsOf()
      assert.deepEqual([...new Set(spare)].sort(), ['c', 'd'])
      assert.deepEqual(hostsOf(), spare)
    })

    it(`follows a change of the list under ${policy}`, () => {
      const { next } = requests(seeded(23))
      const loadBalancer = policyOf(policy)
      const [a, b, c] = [at('a'), at('b'), at('c')]
      const hostsOf = (list: readonly Endpoint[]) =>
        HASHES.map((hash) => next(list, new Set(), hash).endpoint.host)
      const before = hostsOf(endpointList([a, b], { loadBalancer }))
      const after = hostsOf(endpointList([a, b, c], { loadBalancer }))
      const moved = after.filter((host, i) => host !== before[i])
      // About a third moves to the new instance. Little moves between the others, which have fewer places than before.
      assert.ok(after.includes('c'))
      assert.ok(moved.filter((host) => host !== 'c').length < 75, moved.join(' '))
    })
  }

  it('ignores the hash under other policies', () => {
    const { next } = requests(() => 0)
    const list = endpointList([at('a'), at('b')], { loadBalancer: policyOf('round_robin') })
    assert.equal([1, 2, 3, 4].map(() => next(list, new Set(), 7n).endpoint.host).join(''), 'abab')
  })

  it('is random under ring_hash without a hash', () => {
    const { next } = requests(scripted(0, 0.9, 0.4))
    const list = endpointList([at('a'), at('b')], { loadBalancer: policyOf('ring_hash') })
    assert.equal([1, 2, 3].map(() => next(list).endpoint.host).join(''), 'aba')
  })
})

describe('Balancer: mayUse', () => {
  const spare = { ...B, priority: 1 }

  it('is true for a listed endpoint of the first group, even if it is ejected', () => {
    const { balancer, take } = start()
    const list = [A, C]
    assert.equal(balancer.mayUse(A, list), true)
    take(A, list).failed()
    assert.equal(balancer.mayUse(A, list), true)
  })

  it('is false for an endpoint that is no longer listed, although it has a connection', () => {
    const { balancer, take } = start()
    take(A, [A, B]).connected()
    assert.equal(balancer.mayUse(A, [A, B]), true)
    assert.equal(balancer.mayUse(A, [B]), false)
    assert.equal(balancer.mayUse(A, []), false)
    assert.equal(balancer.mayUse(at('new'), [A, B]), false)
  })

  it('is false for another identity at the same address', () => {
    const { balancer } = start()
    assert.equal(balancer.mayUse({ ...A, identity: { service: 'db' } }, [A]), false)
  })

  it('is false for a failover while an earlier group is ready, and true while that is ejected', () => {
    const { balancer, take, pass } = start()
    const list = [A, spare]
    assert.equal(balancer.mayUse(spare, list), false)
    take(A, list).failed()
    assert.equal(balancer.mayUse(spare, list), true)
    // The trial of A is due, which new requests must make.
    pass(1_000)
    assert.equal(balancer.mayUse(spare, list), false)
    const trial = take(A, list)
    assert.equal(balancer.mayUse(spare, list), true)
    trial.connected()
    assert.equal(balancer.mayUse(spare, list), false)
  })

  it('is true for a failover without an earlier group', () => {
    assert.equal(start().balancer.mayUse(spare, [spare]), true)
  })

  it('is false for a failover once an instance of an earlier group is listed', () => {
    const { balancer } = start()
    assert.equal(balancer.mayUse(spare, [spare]), true)
    assert.equal(balancer.mayUse(spare, [A, spare]), false)
  })
})

describe('Balancer: isIdle', () => {
  it('is false while a connection is pending or open', () => {
    const { balancer, choose } = start()
    assert.equal(balancer.isIdle, true)
    const choice = choose([A, B])
    assert.equal(balancer.isIdle, false)
    const end = choice.connected()
    assert.equal(balancer.isIdle, false)
    end()
    assert.equal(balancer.isIdle, true)
  })

  it('is false while a connection to a removed instance is open', () => {
    const { balancer, choose } = start()
    const end = choose([A]).connected()
    choose([B]).abandoned()
    assert.equal(balancer.isIdle, false)
    end()
    assert.equal(balancer.isIdle, true)
  })

  it('is false while an instance is ejected, and true after a success', () => {
    const { balancer, take } = start()
    take(A, [A, B]).failed()
    assert.equal(balancer.isIdle, false)
    take(A, [A, B]).connected()()
    assert.equal(balancer.isIdle, true)
  })

  it('is true when an ejection is over, also without a dial', () => {
    const { balancer, take, pass } = start()
    take(A, [A, B]).failed()
    pass(999)
    assert.equal(balancer.isIdle, false)
    pass(1)
    assert.equal(balancer.isIdle, true)
  })
})

describe('Balancer: properties', () => {
  interface Step {
    readonly kind: 'choose' | 'connected' | 'failed' | 'abandoned' | 'close' | 'advance'
    readonly n: number
  }
  const lists: readonly (readonly Endpoint[])[] = [
    [A],
    [A, B],
    [A, B, C],
    Object.freeze([A, B, C, D, E]),
    [E, F],
    [at('a', 0), at('b', 3), at('c', 0.5), D],
  ]
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom(
      'choose',
      'choose',
      'choose',
      'connected',
      'failed',
      'failed',
      'abandoned',
      'close',
      'advance',
    ),
    n: fc.nat({ max: 100_000 }),
  })

  /** Runs the steps. @returns also the pending choices and the open connections */
  function run(steps: readonly Step[], seed: number, maxClockJumpBackMs = 20_000) {
    const started = start(seeded(seed))
    const [pending, open]: [Choice[], (() => void)[]] = [[], []]
    for (const { kind, n } of steps) {
      const list = lists[n % lists.length]!
      if (kind === 'choose') pending.push(n % 2 === 0 ? started.choose(list) : started.first(list))
      else if (kind === 'advance') started.pass(n - maxClockJumpBackMs)
      else if (kind === 'close') open.splice(n % (open.length + 1), 1)[0]?.()
      else {
        const [choice] = pending.splice(n % (pending.length + 1), 1)
        if (kind === 'connected') {
          if (choice !== undefined) open.push(choice.connected())
        } else choice?.[kind]()
      }
      if (pending.length + open.length > 0) assert.equal(started.balancer.isIdle, false)
    }
    return { ...started, pending, open }
  }

  const settings = { seed: 20260101, numRuns: 500 }
  const sequence = fc.tuple(fc.array(step, { maxLength: 60 }), fc.nat({ max: 1000 }))

  it('is idle after all connections end and all instances succeed', () => {
    fc.assert(
      fc.property(sequence, ([steps, seed]) => {
        const { balancer, pending, open, take } = run(steps, seed)
        pending.forEach((choice, i) => {
          if (i % 2 === 0) choice.abandoned()
          else choice.connected()()
        })
        for (const end of open) end()
        // A success ends each ejection.
        const all = [A, B, C, D, E, F]
        for (const endpoint of all) take(endpoint, all).connected()()
        assert.equal(balancer.isIdle, true)
      }),
      settings,
    )
  })

  it('ejects at most half of the instances', () => {
    fc.assert(
      fc.property(sequence, fc.nat({ max: lists.length - 1 }), ([steps, seed], index) => {
        const { balancer, pending } = run(steps, seed, 0)
        const list = lists[index]!
        // End all trials.
        for (const choice of pending) choice.abandoned()
        // A dial yields the ready instances before the ejected ones, both in the order of the list. The first instance
        // of the reversed list is therefore the last ready one.
        const hostsOf = (order: readonly Endpoint[]): string[] => {
          const tried = new Set<object>()
          const choices = order.map(() => balancer.choose(order, true, tried)!)
          for (const choice of choices) choice.abandoned()
          return choices.map(({ endpoint }) => endpoint.host)
        }
        const forwards = hostsOf(list)
        assert.equal(new Set(forwards).size, list.length)
        const ready = forwards.indexOf(hostsOf([...list].reverse())[0]!) + 1
        assert.ok(
          list.length - ready <= list.length / 2,
          `${list.length - ready} of ${list.length} are ejected`,
        )
      }),
      settings,
    )
  })

  it('yields each instance exactly once in a dial', () => {
    fc.assert(
      fc.property(
        sequence,
        fc.nat({ max: lists.length - 1 }),
        fc.boolean(),
        ([steps, seed], index, isSorted) => {
          const { balancer } = run(steps, seed)
          const list = lists[index]!
          const next = startDial(balancer)
          const hosts = list.map(() => next(list, isSorted)?.endpoint.host)
          assert.deepEqual(hosts.sort(), list.map(({ host }) => host).sort())
          assert.equal(next(list, isSorted), undefined)
        },
      ),
      settings,
    )
  })
})
