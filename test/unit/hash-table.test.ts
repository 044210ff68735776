import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { xxHash64 } from '../../src/base/xxhash64.js'
import {
  type HashEntry,
  type HashTable,
  type RingSize,
  maglev,
  ringHash,
} from '../../src/resolve/balancing/hash-table.js'
import { seeded } from '../fixtures/random.js'

const KEY_COUNT = 5_000
const HASHES = Array.from({ length: KEY_COUNT }, (_, i) => xxHash64(`key-${i}`))
const TABLES = { ringHash, maglev }

/** Entries with these weights, whose values are their keys. */
function entriesOf(weights: readonly number[]): HashEntry<string>[] {
  return weights.map((weight, i) => ({ key: `10.0.0.${i}:8080`, weight, value: `10.0.0.${i}:8080` }))
}

/** The value of each hash. */
function valuesOf(table: HashTable<string>): (string | undefined)[] {
  return HASHES.map((hash) => table.find(hash, () => true))
}

/** The share of each entry in all hashes, in percent. */
function shares(table: HashTable<string>, entries: readonly HashEntry<string>[]): number[] {
  const values = valuesOf(table)
  return entries.map((entry) => (values.filter((value) => value === entry.value).length * 100) / KEY_COUNT)
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, rank: random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ item }) => item)
}

for (const [name, build] of Object.entries(TABLES)) {
  describe(name, () => {
    it('shares the hashes by weight', () => {
      // The shares of a ring vary more than those of maglev.
      const tolerance = build === maglev ? 3 : 6
      for (const weights of [
        [1, 1, 1, 1, 1],
        [1, 2, 3, 4, 10],
        [10, 1, 1, 1, 1],
      ]) {
        const sum = weights.reduce((total, weight) => total + weight, 0)
        const entries = entriesOf(weights)
        for (const [i, share] of shares(build(entries), entries).entries()) {
          const expected = (weights[i]! * 100) / sum
          assert.ok(Math.abs(share - expected) <= tolerance, `${share} % instead of ${expected} %`)
        }
      }
    })

    it('leaves out entries without a weight', () => {
      const entries = entriesOf([1, 0, 1])
      const found = shares(build(entries), entries)
      assert.equal(found[1], 0)
      assert.deepEqual(valuesOf(build(entries)), valuesOf(build(entries.filter(({ weight }) => weight > 0))))
    })

    it('weighs all entries equally if none has a weight', () => {
      assert.deepEqual(valuesOf(build(entriesOf([0, 0, 0]))), valuesOf(build(entriesOf([1, 1, 1]))))
    })

    it('counts a weight over 128 as 128, as Consul does', () => {
      assert.deepEqual(valuesOf(build(entriesOf([1, 500, 129]))), valuesOf(build(entriesOf([1, 128, 128]))))
    })

    it('depends on the set of entries and not on their order', () => {
      const random = seeded(1)
      const entries = entriesOf([1, 2, 3, 5, 7, 11, 13, 128])
      const expected = valuesOf(build(entries))
      for (let i = 0; i < 5; i += 1) assert.deepEqual(valuesOf(build(shuffled(entries, random))), expected)
    })

    it('uses the first of several entries with the same key', () => {
      const entries = entriesOf([1, 1])
      const duplicate = { ...entries[0]!, weight: 9, value: 'duplicate' }
      assert.deepEqual(valuesOf(build([...entries, duplicate])), valuesOf(build(entries)))
      assert.ok(valuesOf(build([duplicate, ...entries])).includes('duplicate'))
    })

    it('finds nothing in an empty list', () => {
      assert.equal(
        build([]).find(1n, () => true),
        undefined,
      )
    })

    it('finds the only entry for any hash', () => {
      const table = build(entriesOf([7]))
      for (const hash of [0n, 1n, 2n ** 63n, 2n ** 64n - 1n]) {
        assert.equal(
          table.find(hash, () => true),
          '10.0.0.0:8080',
        )
      }
    })

    it('finds another entry for the hashes of one that is not acceptable', () => {
      const table = build(entriesOf([1, 1, 1, 1]))
      const out = '10.0.0.2:8080'
      const substitutes = new Set<string | undefined>()
      for (const [i, value] of valuesOf(table).entries()) {
        const found = table.find(HASHES[i]!, (each) => each !== out)
        if (value === out) substitutes.add(found)
        else assert.equal(found, value)
      }
      assert.deepEqual([...substitutes].sort(), ['10.0.0.0:8080', '10.0.0.1:8080', '10.0.0.3:8080'])
    })

    it('offers each entry once, and finds nothing if none is acceptable', () => {
      const entries = entriesOf([1, 2, 3])
      const offered: string[] = []
      const found = build(entries).find(HASHES[0]!, (value) => {
        offered.push(value)
        return false
      })
      assert.equal(found, undefined)
      assert.deepEqual(
        offered.sort(),
        entries.map(({ value }) => value),
      )
    })
  })
}

describe('ringHash', () => {
  const size = (count: number): RingSize => ({ least: count * 200 })

  it('moves only the hashes of a removed entry while the others keep their number of places', () => {
    const entries = entriesOf([1, 1, 1, 1, 1])
    const before = valuesOf(ringHash(entries, size(5)))
    for (const removed of entries) {
      const after = valuesOf(
        ringHash(
          entries.filter((entry) => entry !== removed),
          size(4),
        ),
      )
      for (const [i, value] of before.entries()) if (value !== removed.value) assert.equal(after[i], value)
    }
  })

  it('continues along the ring as if an unacceptable entry were removed', () => {
    const entries = entriesOf([1, 1, 1, 1, 1])
    const table = ringHash(entries, size(5))
    const smaller = ringHash(entries.slice(1), size(4))
    const found = HASHES.map((hash) => table.find(hash, (value) => value !== entries[0]!.value))
    assert.deepEqual(found, valuesOf(smaller))
  })

  const sizes: [rule: string, weights: number[], size: RingSize, equal: RingSize][] = [
    ['1,024 places by default', [1, 1, 1, 1], {}, { least: 1_024 }],
    ['a multiple of the lowest weight', [1, 1, 1, 1], { least: 9 }, { least: 12 }],
    ['65,536 places at most', [1, 1], { least: 10_000_000 }, { least: 65_536 }],
    [
      'the greatest number even if it is lower than the least',
      [1, 1],
      { least: 8, greatest: 4 },
      { least: 4 },
    ],
  ]
  for (const [rule, weights, size, equal] of sizes) {
    it(`has ${rule}`, () => {
      const entries = entriesOf(weights)
      assert.deepEqual(valuesOf(ringHash(entries, size)), valuesOf(ringHash(entries, equal)))
    })
  }

  it('leaves out entries if it may have fewer places than entries', () => {
    assert.equal(new Set(valuesOf(ringHash(entriesOf([1, 1, 1, 1]), { greatest: 2 }))).size, 2)
  })
})

describe('maglev', () => {
  it('moves few hashes of the other entries when one is removed', () => {
    const entries = entriesOf([1, 1, 1, 1, 1])
    const before = valuesOf(maglev(entries))
    const after = valuesOf(maglev(entries.slice(1)))
    const moved = before.filter((value, i) => value !== entries[0]!.value && value !== after[i])
    assert.ok(moved.length < KEY_COUNT * 0.1, String(moved.length))
  })
})
