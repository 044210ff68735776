import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { AnswerOrder } from '../../src/resolve/answer-order.js'
import { seeded } from '../fixtures/random.js'

/** The result of a prepared query that does not sort by distance. */
function shuffled(nodes: readonly string[], random: () => number): string[] {
  return nodes
    .map((node) => ({ node, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ node }) => node)
}

describe('AnswerOrder', () => {
  it('rarely mistakes a shuffled query for a sorted one, and corrects the mistake later', () => {
    const random = seeded(7)
    for (const nodes of [
      ['a', 'b'],
      ['a', 'b', 'c'],
      // Most instances are on one node, which is often first by chance.
      ['a', 'a', 'a', 'a', 'b'],
      Array.from({ length: 20 }, (_, i) => `n${i}`),
    ]) {
      let [mistakes, uncorrected] = [0, 0]
      for (let run = 0; run < 500; run += 1) {
        const order = new AnswerOrder()
        while (order.isSorted === undefined) order.add(shuffled(nodes, random))
        if (order.isSorted) mistakes += 1
        for (let i = 0; i < 200 && order.isSorted; i += 1) order.add(shuffled(nodes, random))
        if (order.isSorted) uncorrected += 1
      }
      assert.ok(mistakes <= 3, `${mistakes} of 500 with ${nodes.length} instances`)
      assert.equal(uncorrected, 0)
    }
  })

  it('detects a sorted query although the other nodes are shuffled, and after the first node leaves', () => {
    const random = seeded(11)
    const order = new AnswerOrder()
    for (let i = 0; i < 8; i += 1) order.add(['near', ...shuffled(['b', 'c', 'd'], random)])
    assert.equal(order.isSorted, true)
    order.add(['b', 'c', 'd'])
    assert.equal(order.isSorted, true)
  })

  it('detects that a query no longer sorts', () => {
    const order = new AnswerOrder()
    for (let i = 0; i < 50; i += 1) order.add(['a', 'b', 'c'])
    for (const first of ['b', 'c', 'a', 'b', 'c', 'a', 'b'])
      order.add([first, ...['a', 'b', 'c'].filter((n) => n !== first)])
    assert.equal(order.isSorted, false)
  })

  it('does not decide on results with a single node or without nodes', () => {
    const order = new AnswerOrder()
    for (let i = 0; i < 50; i += 1) order.add(i % 2 === 0 ? ['a', 'a'] : [])
    assert.equal(order.isSorted, undefined)
  })
})
