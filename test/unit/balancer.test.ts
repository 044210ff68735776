import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { Balancer, type Choice } from '../../src/resolve/balancer.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { scripted, seeded } from '../fixtures/random.js'

const identity = { service: 'web' }

/** The instance `host`, with a weight or the default one. */
function at(host: string, weight?: number): Endpoint {
  return weight === undefined ? { host, port: 80, identity } : { host, port: 80, identity, weight }
}

const [A, B, C, D, E, F] = ['a', 'b', 'c', 'd', 'e', 'f'].map((host) => at(host)) as [
  Endpoint,
  Endpoint,
  Endpoint,
  Endpoint,
  Endpoint,
  Endpoint,
]

function start(random: () => number = () => 0) {
  const clock = new FakeClock()
  const balancer = new Balancer({ clock, random })
  const choose = (list: readonly Endpoint[], tried = new Set<object>()): Choice => {
    const choice = balancer.choose(list, false, tried)
    assert.ok(choice !== undefined, 'nothing was chosen')
    return choice
  }
  const first = (list: readonly Endpoint[], tried = new Set<object>()): Choice => {
    const choice = balancer.choose(list, true, tried)
    assert.ok(choice !== undefined, 'nothing was chosen')
    return choice
  }
  /** Whether `endpoint` would be chosen before others that are in good standing. */
  const isReady = (endpoint: Endpoint, list: readonly Endpoint[]): boolean => {
    // One that is new is always in good standing.
    const choice = first([endpoint, ...list.filter((other) => other !== endpoint), at('new')])
    choice.abandoned()
    // As if it had never been there.
    first(list).abandoned()
    return choice.endpoint === endpoint
  }
  return {
    clock,
    balancer,
    choose,
    first,
    isReady,
    pass: (ms: number) => {
      clock.set(clock.now() + ms)
    },
    /** Chooses `endpoint` out of the list, whatever its standing, by having tried all others. */
    take: (endpoint: Endpoint, list: readonly Endpoint[]): Choice => {
      const tried = new Set<object>()
      const others: Choice[] = []
      for (;;) {
        const choice = first(list, tried)
        if (choice.endpoint !== endpoint) others.push(choice)
        else {
          for (const other of others) other.abandoned()
          return choice
        }
      }
    },
    /** How many connections of `count` each instance gets, when each is closed before the next. */
    sequential: (list: readonly Endpoint[], count: number): number[] => {
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

/** One dial's way through the instances: none is tried twice. */
function way(balancer: Balancer) {
  const tried = new Set<object>()
  return {
    tried,
    next: (list: readonly Endpoint[], isSorted: boolean) => balancer.choose(list, isSorted, tried),
  }
}

/** How far counts are from what is expected (Pearson). */
function chiSquare(counts: readonly number[], expected: readonly number[]): number {
  return counts.reduce((sum, count, i) => sum + (count - expected[i]!) ** 2 / expected[i]!, 0)
}

/** What chance alone exceeds once in a thousand times, by degrees of freedom. */
const CHI_SQUARE_LIMIT = [0, 10.83, 13.82, 16.27, 18.47, 20.52]

describe('Balancer: shares', () => {
  const lists: (number | undefined)[][] = [
    [1, 1],
    [1, 2, 3],
    [undefined, undefined, undefined],
    [undefined, 2],
    [10, 1, 1, 1],
    [0.25, 0.75],
    [1, 100],
    [5, 4, 3, 2, 1],
    [65535, 65535],
  ]
  for (const weights of lists) {
    it(`follow the weights ${weights.map((weight) => weight ?? 'none').join(', ')}`, () => {
      const list = weights.map((weight, i) => at(`h${i}`, weight))
      const total = weights.reduce<number>((sum, weight) => sum + (weight ?? 1), 0)
      const counts = start(seeded(1)).sequential(list, 20_000)
      const found = chiSquare(
        counts,
        weights.map((weight) => ((weight ?? 1) / total) * 20_000),
      )
      assert.ok(found < CHI_SQUARE_LIMIT[list.length - 1]!, `chi-square ${found} of ${counts.join(', ')}`)
    })
  }

  it('are even when nobody has any weight', () => {
    const list = [at('a', 0), at('b', 0), at('c', 0)]
    const counts = start(seeded(2)).sequential(list, 9_000)
    assert.ok(chiSquare(counts, [3000, 3000, 3000]) < CHI_SQUARE_LIMIT[2]!, counts.join(', '))
  })

  it('of connections that stay open follow the weights, and closer than chance would', () => {
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

  it('whoever does not let go gets no more, once another is free', () => {
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

  it('a connection that is being made counts like one that is open', () => {
    const { choose } = start(seeded(5))
    const chosen = [choose([A, B]), choose([A, B])].map(({ endpoint }) => endpoint.host)
    assert.deepEqual(chosen.sort(), ['a', 'b'])
  })

  for (const [outcome, end] of [
    [
      'closed',
      (choice: Choice) => {
        choice.connected()()
      },
    ],
    [
      'abandoned',
      (choice: Choice) => {
        choice.abandoned()
      },
    ],
    // The only one there is is never ejected.
    [
      'failed',
      (choice: Choice) => {
        choice.failed()
      },
    ],
  ] as const) {
    it(`a connection that is ${outcome} does not count any more`, () => {
      const { choose, balancer } = start(seeded(6))
      const alone = [A]
      for (let i = 0; i < 5; i += 1) end(choose(alone))
      assert.equal(balancer.isIdle, true)
      // With the load gone, chance alone decides.
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

describe('Balancer: the draw', () => {
  // The numbers decide who is drawn first and who second; the loads decide between the two.
  const cases: [rule: string, weights: number[], loads: number[], numbers: number[], host: string][] = [
    ['the lowest number is the first', [1, 1, 1], [0, 0, 0], [0, 0], 'a'],
    ['the highest number is the last', [1, 1, 1], [0, 0, 0], [0.999, 0], 'c'],
    ['a number below the first share', [1, 3], [0, 0], [0.2499, 0], 'a'],
    ['a number at its edge is the next one', [1, 3], [0, 0], [0.25, 0], 'b'],
    ['of two that are equal the one that was drawn first', [1, 1], [2, 2], [0.5, 0], 'b'],
    ['the same, the other way round', [1, 1], [2, 2], [0.4, 0], 'a'],
    ['the second one when it has less', [1, 1], [1, 0], [0, 0], 'b'],
    ['the first one when it has less', [1, 1], [0, 1], [0, 0], 'a'],
    ['the second is never the first again', [1, 1, 1], [5, 1, 9], [0, 0], 'b'],
    ['of three only the two that were drawn are compared', [1, 1, 1], [5, 9, 0], [0, 0], 'a'],
    ['and the third when it is drawn', [1, 1, 1], [5, 9, 0], [0, 0.5], 'c'],
    ['the second is drawn by weight too', [1, 1, 3], [5, 0, 0], [0, 0.24], 'b'],
    ['the second is drawn by weight too, at the edge', [1, 1, 3], [5, 0, 0], [0, 0.25], 'c'],
    ['less load for the weight: three times as much is the same', [1, 3], [1, 3], [0, 0], 'a'],
    ['less load for the weight: a little less wins', [1, 3], [1, 2], [0, 0], 'b'],
    ['less load for the weight: a little more loses', [1, 3], [1, 4], [0, 0], 'a'],
    ['less load for the weight, drawn first', [3, 1], [2, 1], [0, 0], 'a'],
    // One connection more would be a load of 2 for a weight of 1, and 4 of 3 are less than that.
    ['less load for the weight, drawn first, and more', [3, 1], [4, 1], [0, 0], 'a'],
    ['less load for the weight, drawn first, and far more', [3, 1], [6, 1], [0, 0], 'b'],
    ['a number that rounding makes too great is the last', [3.8, 8.8], [0, 0], [1 - 2 ** -53, 0], 'b'],
    ['without weights, by number alone', [0, 0], [0, 0], [0.5, 0], 'b'],
    ['without weights, below the half', [0, 0], [0, 0], [0.49, 0], 'a'],
  ]
  for (const [rule, weights, loads, numbers, host] of cases) {
    it(rule, () => {
      const list = weights.map((weight, i) => at('abc'[i]!, weight))
      const busy = start()
      // The loads are laid on with a random that is not looked at.
      let random: () => number = () => 0
      const balancer = new Balancer({ clock: busy.clock, random: () => random() })
      loads.forEach((load, i) => {
        for (let n = 0; n < load; n += 1) {
          const tried = new Set<object>()
          for (let k = 0; k < i; k += 1) balancer.choose(list, true, tried)!.abandoned()
          balancer.choose(list, true, tried)!.connected()
        }
      })
      random = scripted(...numbers)
      assert.equal(balancer.choose(list, false, new Set())?.endpoint.host, host)
    })
  }
})

describe('Balancer: a weight of 0', () => {
  const [zero, one] = [at('zero', 0), at('one', 1)]

  it('is never chosen while there is another, however busy that is', () => {
    const { choose } = start(seeded(7))
    for (let i = 0; i < 500; i += 1) {
      const choice = choose([zero, one])
      assert.equal(choice.endpoint, one)
      choice.connected()
    }
  })

  it('is chosen when the other was tried', () => {
    const { balancer } = start()
    const attempts = way(balancer)
    assert.equal(attempts.next([zero, one], false)?.endpoint, one)
    assert.equal(attempts.next([zero, one], false)?.endpoint, zero)
  })

  it('is chosen before one that is ejected', () => {
    const { choose } = start()
    choose([zero, one]).failed()
    assert.equal(choose([zero, one]).endpoint, zero)
  })
})

describe('Balancer: a sorted list', () => {
  it('gives its first, whatever weights, loads and numbers there are', () => {
    const { first } = start(seeded(8))
    const list = [at('near', 1), at('far', 100)]
    for (let i = 0; i < 100; i += 1) {
      const choice = first(list)
      assert.equal(choice.endpoint.host, 'near')
      choice.connected()
    }
  })

  it('keeps its order among those that are left, and puts the ejected ones last', () => {
    const { first, balancer, take } = start()
    const list = [A, B, C, D]
    take(B, list).failed()
    const attempts = way(balancer)
    const order = list.map(() => attempts.next(list, true)?.endpoint.host)
    assert.deepEqual(order, ['a', 'c', 'd', 'b'])
    assert.equal(first([D, C, B, A]).endpoint, D)
  })
})

describe('Balancer: one way through the instances', () => {
  it('tries each once, and then there is none', () => {
    const { balancer } = start(seeded(9))
    const list = [A, B, C]
    const attempts = way(balancer)
    assert.equal(attempts.tried.size, 0)
    const hosts = list.map(() => attempts.next(list, false)?.endpoint.host)
    assert.deepEqual(hosts.sort(), ['a', 'b', 'c'])
    assert.equal(attempts.tried.size, 3)
    assert.equal(attempts.next(list, false), undefined)
    assert.equal(attempts.tried.size, 3)
  })

  it('is nobody else’s business', () => {
    const { balancer } = start()
    const [one, other] = [way(balancer), way(balancer)]
    assert.equal(one.next([A], false)?.endpoint, A)
    assert.equal(one.next([A], false), undefined)
    assert.equal(other.next([A], false)?.endpoint, A)
  })

  it('goes on with whoever is new in a later list', () => {
    const { balancer } = start()
    const attempts = way(balancer)
    attempts.next([A], false)!.failed()
    assert.equal(attempts.next([A], false), undefined)
    const again = at('a')
    assert.equal(attempts.next([again, B], false)?.endpoint, B)
    assert.equal(attempts.next([again, B], false), undefined)
  })

  it('an empty list has nobody', () => {
    const { balancer } = start()
    for (const isSorted of [false, true]) assert.equal(balancer.choose([], isSorted, new Set()), undefined)
  })
})

describe('Balancer: who is who', () => {
  const base = { host: 'a', port: 80, identity: { service: 'web' } }
  const others: [rule: string, endpoint: Endpoint, isSame: boolean][] = [
    ['an equal endpoint is the same', { ...base, identity: { ...base.identity } }, true],
    ['another weight is the same', { ...base, weight: 7 }, true],
    [
      'a datacenter of undefined is the same',
      { ...base, identity: { service: 'web', datacenter: undefined } },
      true,
    ],
    ['another host', { ...base, host: 'b' }, false],
    ['another port', { ...base, port: 81 }, false],
    ['another service', { ...base, identity: { service: 'db' } }, false],
    ['another namespace', { ...base, identity: { service: 'web', namespace: 'n' } }, false],
    ['another partition', { ...base, identity: { service: 'web', partition: 'n' } }, false],
    ['another datacenter', { ...base, identity: { service: 'web', datacenter: 'n' } }, false],
  ]
  for (const [rule, endpoint, isSame] of others) {
    it(rule, () => {
      const { balancer } = start()
      const attempts = way(balancer)
      assert.equal(attempts.next([base, endpoint], true)?.endpoint, base)
      assert.equal(attempts.next([base, endpoint], true)?.endpoint, isSame ? undefined : endpoint)
    })
  }

  it('a namespace, a partition and a datacenter of one name are three things', () => {
    const { balancer } = start()
    const list = ['namespace', 'partition', 'datacenter'].map((place) => ({
      ...base,
      identity: { service: 'web', [place]: 'n' },
    }))
    const attempts = way(balancer)
    const found = list.map(() => attempts.next(list, true)?.endpoint)
    assert.deepEqual(found, list)
  })

  it('an address that is named twice is one instance, with what was said first', () => {
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

  it('an address that is named twice counts once towards the half', () => {
    const { take, isReady } = start()
    // Two instances, so one may be ejected.
    const list = [A, at('a'), B, at('b')]
    take(A, list).failed()
    assert.equal(isReady(A, list), false)
    take(B, list).failed()
    assert.equal(isReady(B, list), true)
  })
})

describe('Balancer: ejection', () => {
  it('begins with the first failure, and the others go on', () => {
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
    it(`doubles up to a minute, times ${factor} when the random number is ${random}`, () => {
      const { take, isReady, pass } = start(() => random)
      const list = [A, B]
      for (const ms of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]) {
        take(A, list).failed()
        // A millisecond before, and at its end.
        pass(Math.ceil(ms * factor) - 1)
        assert.equal(isReady(A, list), false, `before ${ms}`)
        pass(1)
        assert.equal(isReady(A, list), true, `after ${ms}`)
      }
    })
  }

  it('never overflows', () => {
    const { take, isReady, pass } = start()
    const list = [A, B]
    for (let i = 0; i < 1100; i += 1) {
      take(A, list).failed()
      pass(60_000)
    }
    assert.equal(isReady(A, list), true)
    take(A, list).failed()
    pass(59_999)
    assert.equal(isReady(A, list), false)
  })

  it('several dials that find out at once are one failure', () => {
    const { first, isReady, pass } = start()
    const list = [A, B]
    const begun = Array.from({ length: 5 }, () => first(list))
    assert.ok(begun.every(({ endpoint }) => endpoint === A))
    begun[0]!.failed()
    pass(500)
    for (const choice of begun.slice(1)) choice.failed()
    pass(499)
    assert.equal(isReady(A, list), false)
    pass(1)
    // Neither longer nor anew.
    assert.equal(isReady(A, list), true)
    first(list).failed()
    pass(1_999)
    assert.equal(isReady(A, list), false)
    pass(1)
    assert.equal(isReady(A, list), true)
  })

  it('one that was begun before and goes well ends it', () => {
    const { first, isReady } = start()
    const list = [A, B]
    const [slow, bad] = [first(list), first(list)]
    bad.failed()
    assert.equal(isReady(A, list), false)
    slow.connected()
    assert.equal(isReady(A, list), true)
  })

  it('is forgotten with the first success', () => {
    const { take, isReady, pass } = start()
    const list = [A, B]
    for (const ms of [1_000, 2_000, 4_000]) {
      take(A, list).failed()
      pass(ms)
    }
    take(A, list).connected()()
    take(A, list).failed()
    pass(999)
    assert.equal(isReady(A, list), false)
    pass(1)
    assert.equal(isReady(A, list), true)
  })

  for (const [size, most] of [
    [1, 0],
    [2, 1],
    [3, 1],
    [4, 2],
    [5, 2],
    [6, 3],
  ] as const) {
    it(`never more than half: ${most} of ${size}`, () => {
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

  it('one whose time is over, and that waits for its trial, does not count among the half', () => {
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

  it('one that is on trial counts among the half', () => {
    const { take, first, isReady, pass } = start()
    const list = [A, B, C]
    take(A, list).failed()
    pass(1_000)
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    take(B, list).failed()
    assert.equal(isReady(B, list), true)
    // Its end makes room.
    trial.connected()()
    take(B, list).failed()
    assert.equal(isReady(B, list), false)
  })

  it('a clock that was set back keeps nobody out', () => {
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

describe('Balancer: the trial', () => {
  const list = [A, B]

  /** A was ejected, and its time is over. */
  function afterEjection() {
    const started = start()
    started.take(A, list).failed()
    started.pass(1_000)
    return started
  }

  it('is one connection at a time', () => {
    const { first } = afterEjection()
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    assert.equal(first(list).endpoint, B)
    assert.equal(first(list).endpoint, B)
  })

  it('that goes well brings the instance back for everybody', () => {
    const { first } = afterEjection()
    first(list).connected()
    assert.equal(first(list).endpoint, A)
    assert.equal(first(list).endpoint, A)
  })

  it('is not needed any more when one that was begun before goes well', () => {
    const { first, pass } = start()
    const [slow, bad] = [first(list), first(list)]
    bad.failed()
    pass(1_000)
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    slow.connected()
    assert.equal(first(list).endpoint, A)
    assert.equal(first(list).endpoint, A)
  })

  it('that fails ejects it for twice as long', () => {
    const { first, isReady, pass } = afterEjection()
    first(list).failed()
    pass(1_999)
    assert.equal(isReady(A, list), false)
    pass(1)
    assert.equal(isReady(A, list), true)
  })

  it('that is abandoned leaves it to the next', () => {
    const { first } = afterEjection()
    first(list).abandoned()
    const trial = first(list)
    assert.equal(trial.endpoint, A)
    assert.equal(first(list).endpoint, B)
    // And it is still the second ejection that comes next.
    trial.failed()
    assert.equal(first(list).endpoint, B)
  })

  it('that does not end is nobody’s hindrance when there is no other', () => {
    const { first, balancer } = afterEjection()
    first(list)
    const attempts = way(balancer)
    assert.equal(attempts.next(list, true)?.endpoint, B)
    assert.equal(attempts.next(list, true)?.endpoint, A)
  })

  it('is not ended by another connection that was tried for want of any', () => {
    const { first, balancer } = afterEjection()
    assert.equal(first(list).endpoint, A)
    const attempts = way(balancer)
    attempts.next(list, true)!.abandoned()
    attempts.next(list, true)!.abandoned()
    assert.equal(first(list).endpoint, B)
  })
})

describe('Balancer: the last resort', () => {
  it('is whoever is ejected, when all others were tried', () => {
    const { first, balancer, take } = start()
    const list = [A, B, C, D]
    take(A, list).failed()
    take(B, list).failed()
    const attempts = way(balancer)
    const order = list.map(() => attempts.next(list, true)?.endpoint)
    assert.deepEqual(order, [C, D, A, B])
    assert.equal(attempts.next(list, true), undefined)
    assert.equal(first(list).endpoint, C)
  })

  it('that fails once more is ejected for no longer', () => {
    const { take, isReady, pass } = start()
    const list = [A, B]
    take(A, list).failed()
    pass(900)
    take(A, list).failed()
    pass(99)
    assert.equal(isReady(A, list), false)
    pass(1)
    assert.equal(isReady(A, list), true)
    take(A, list).failed()
    pass(1_999)
    assert.equal(isReady(A, list), false)
    pass(1)
    assert.equal(isReady(A, list), true)
  })

  it('that goes well is back at once', () => {
    const { take, isReady } = start()
    const list = [A, B]
    take(A, list).failed()
    take(A, list).connected()()
    assert.equal(isReady(A, list), true)
  })

  it('is drawn by weight too', () => {
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

describe('Balancer: a list that changes', () => {
  it('grows: the new one is taken', () => {
    const { choose } = start(seeded(13))
    const first = choose([A])
    first.connected()
    assert.equal(choose([A, B]).endpoint, B)
  })

  it('shrinks: nobody gets what is not in it', () => {
    const { choose } = start(seeded(14))
    choose([A, B, C]).abandoned()
    for (let i = 0; i < 100; i += 1) {
      const choice = choose([B])
      assert.equal(choice.endpoint, B)
      choice.connected()
    }
  })

  it('changes its weights: the new ones hold, and the endpoint is the new one', () => {
    const { choose } = start(seeded(15))
    const before = [at('a', 1), at('b', 0)]
    const after = [at('a', 0), at('b', 1)]
    for (let i = 0; i < 50; i += 1) {
      assert.equal(choose(before).endpoint, before[0])
      assert.equal(choose(after).endpoint, after[1])
    }
  })

  it('is the same object and has changed: it is read again', () => {
    const { choose } = start(seeded(16))
    const list = [A]
    choose(list).connected()
    list.push(B)
    assert.equal(choose(list).endpoint, B)
    list.shift()
    choose(list).connected()
    assert.equal(choose(list).endpoint, B)
  })

  it('cannot change and is the same object: it is not read again', () => {
    const { choose } = start()
    let looks = 0
    const watched: Endpoint = {
      get host(): string {
        looks += 1
        return 'a'
      },
      port: 80,
      identity,
    }
    const frozen = Object.freeze([watched])
    for (let i = 0; i < 5; i += 1) choose(frozen).abandoned()
    assert.equal(looks, 1)
  })

  it('two lists in turn, frozen or not, are each taken as they are', () => {
    for (const freeze of [<T>(list: T) => list, Object.freeze]) {
      const { choose } = start(seeded(17))
      const [one, other] = [freeze([A]), freeze([B])]
      for (let i = 0; i < 10; i += 1) {
        assert.equal(choose(one).endpoint, A)
        assert.equal(choose(other).endpoint, B)
      }
    }
  })

  it('what is open to one that comes back still counts', () => {
    const { choose } = start(seeded(18))
    choose([A]).connected()
    choose([B]).connected()()
    for (let i = 0; i < 20; i += 1) {
      const choice = choose([A, B])
      assert.equal(choice.endpoint, B)
      choice.connected()()
    }
  })

  it('one that was ejected, left and comes back in time is still ejected, and counts', () => {
    const { take, first, isReady } = start()
    take(A, [A, B]).failed()
    first([B]).connected()()
    assert.equal(isReady(A, [A, B]), false)
    take(B, [A, B]).failed()
    assert.equal(isReady(B, [A, B]), true)
  })

  it('one that was ejected, left and comes back after its time is as good as new', () => {
    const { take, first, pass, isReady, balancer } = start()
    const list = [A, B]
    take(A, list).failed()
    first([B]).connected()()
    pass(1_000)
    first([B, C]).connected()()
    assert.equal(balancer.isIdle, true)
    // Two at a time: there is no trial. And its next ejection is the first.
    assert.equal(first(list).endpoint, A)
    assert.equal(first(list).endpoint, A)
    take(A, list).failed()
    pass(1_000)
    assert.equal(isReady(A, list), true)
  })

  it('shrinks so that too many would be ejected: those whose time is over first come back without a trial', () => {
    const { take, first, pass } = start()
    const list = [A, B, C, D]
    take(B, list).failed()
    pass(100)
    take(A, list).failed()
    // One of three, and then none of one.
    const three = [A, B, C]
    assert.deepEqual(
      [first(three), first(three)].map(({ endpoint }) => endpoint),
      [B, B],
    )
    const one = [A]
    assert.deepEqual(
      [first(one), first(one)].map(({ endpoint }) => endpoint),
      [A, A],
    )
    // It has come back for good.
    assert.equal(first([A, B]).endpoint, A)
  })

  it('the end of an ejection is what counts, not its beginning', () => {
    const { take, first, pass } = start()
    const list = [A, B, C, D]
    // A for the second time and so for 2 s, B after it and for 1 s.
    take(A, list).failed()
    pass(1_000)
    take(A, list).failed()
    pass(500)
    take(B, list).failed()
    const three = [A, B, C]
    assert.deepEqual(
      [first(three), first(three)].map(({ endpoint }) => endpoint),
      [B, B],
    )
  })

  it('shrinks and everybody may stay out: they stay out', () => {
    const { take, first } = start()
    take(A, [A, B, C, D]).failed()
    assert.equal(first([A, B]).endpoint, B)
    assert.equal(first([A, B]).endpoint, B)
  })
})

describe('Balancer: isIdle', () => {
  it('while nobody was ever chosen', () => {
    assert.equal(start().balancer.isIdle, true)
  })

  it('not while a connection is being made or open', () => {
    const { balancer, choose } = start()
    const choice = choose([A, B])
    assert.equal(balancer.isIdle, false)
    const end = choice.connected()
    assert.equal(balancer.isIdle, false)
    end()
    assert.equal(balancer.isIdle, true)
  })

  it('not while a connection is open to one that is not listed any more', () => {
    const { balancer, choose } = start()
    const end = choose([A]).connected()
    choose([B]).abandoned()
    assert.equal(balancer.isIdle, false)
    end()
    assert.equal(balancer.isIdle, true)
  })

  it('again when a choice is abandoned', () => {
    const { balancer, choose } = start()
    choose([A, B]).abandoned()
    assert.equal(balancer.isIdle, true)
  })

  it('not while somebody is ejected, and again after a success', () => {
    const { balancer, take } = start()
    take(A, [A, B]).failed()
    assert.equal(balancer.isIdle, false)
    take(A, [A, B]).connected()()
    assert.equal(balancer.isIdle, true)
  })

  it('again when an ejection is over, though nobody has dialled since', () => {
    const { balancer, take, pass } = start()
    take(A, [A, B]).failed()
    pass(999)
    assert.equal(balancer.isIdle, false)
    pass(1)
    assert.equal(balancer.isIdle, true)
  })
})

describe('Balancer: whatever happens', () => {
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

  /** Does what the steps say; what is still open in the end is given back. */
  function play(steps: readonly Step[], seed: number, back = 20_000) {
    const started = start(seeded(seed))
    const [begun, open]: [Choice[], (() => void)[]] = [[], []]
    for (const { kind, n } of steps) {
      const list = lists[n % lists.length]!
      if (kind === 'choose') begun.push(n % 2 === 0 ? started.choose(list) : started.first(list))
      else if (kind === 'advance') started.pass(n - back)
      else if (kind === 'close') open.splice(n % (open.length + 1), 1)[0]?.()
      else {
        const [choice] = begun.splice(n % (begun.length + 1), 1)
        if (kind === 'connected') {
          if (choice !== undefined) open.push(choice.connected())
        } else choice?.[kind]()
      }
      if (begun.length + open.length > 0) assert.equal(started.balancer.isIdle, false)
    }
    return { ...started, begun, open }
  }

  const settings = { seed: 20260101, numRuns: 500 }
  const sequence = fc.tuple(fc.array(step, { maxLength: 60 }), fc.nat({ max: 1000 }))

  it('every load comes back to exactly nothing', () => {
    fc.assert(
      fc.property(sequence, ([steps, seed]) => {
        const { balancer, begun, open, take } = play(steps, seed)
        begun.forEach((choice, i) => {
          if (i % 2 === 0) choice.abandoned()
          else choice.connected()()
        })
        for (const end of open) end()
        // A success for each, so that none is ejected any more.
        const all = [A, B, C, D, E, F]
        for (const endpoint of all) take(endpoint, all).connected()()
        assert.equal(balancer.isIdle, true)
      }),
      settings,
    )
  })

  it('never more than half are ejected, and there is always one to choose', () => {
    fc.assert(
      fc.property(sequence, fc.nat({ max: lists.length - 1 }), ([steps, seed], which) => {
        const { balancer, begun } = play(steps, seed, 0)
        const list = lists[which]!
        // Nobody is on trial.
        for (const choice of begun) choice.abandoned()
        // All that are ready come before all that are not, each in the order of the list. Turned round, the first is
        // the last of those that are ready.
        const walk = (order: readonly Endpoint[]): string[] => {
          const tried = new Set<object>()
          const choices = order.map(() => balancer.choose(order, true, tried)!)
          for (const choice of choices) choice.abandoned()
          return choices.map(({ endpoint }) => endpoint.host)
        }
        const forwards = walk(list)
        assert.equal(new Set(forwards).size, list.length)
        const ready = forwards.indexOf(walk([...list].reverse())[0]!) + 1
        assert.ok(
          list.length - ready <= list.length / 2,
          `${list.length - ready} of ${list.length} are ejected`,
        )
      }),
      settings,
    )
  })

  it('no way through the instances takes one twice, or leaves one out', () => {
    fc.assert(
      fc.property(
        sequence,
        fc.nat({ max: lists.length - 1 }),
        fc.boolean(),
        ([steps, seed], which, isSorted) => {
          const { balancer } = play(steps, seed)
          const list = lists[which]!
          const attempts = way(balancer)
          const hosts = list.map(() => attempts.next(list, isSorted)?.endpoint.host)
          assert.deepEqual(hosts.sort(), list.map(({ host }) => host).sort())
          assert.equal(attempts.next(list, isSorted), undefined)
        },
      ),
      settings,
    )
  })
})
