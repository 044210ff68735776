import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import {
  compareIntentions,
  decidingIntention,
  matchIntentions,
  precedence,
  type Intention,
  type IntentionAction,
} from '../../src/testing/intentions.js'

function intention(source: string, destination: string, action: IntentionAction = 'allow'): Intention {
  const [sourceNs = '', sourceName = ''] = source.split('/')
  const [destinationNs = '', destinationName = ''] = destination.split('/')
  const rule = { sourceNs, sourceName, destinationNs, destinationName, action, description: '', meta: {} }
  const dates = { createdAt: '', updatedAt: '', createIndex: 1, modifyIndex: 1 }
  return { ...rule, ...dates, id: `${source} ${destination}`, precedence: precedence(rule) }
}

void describe('precedence', () => {
  const table: [source: string, destination: string, precedence: number][] = [
    ['default/a', 'default/b', 9],
    ['default/*', 'default/b', 8],
    ['*/*', 'default/b', 7],
    ['default/a', 'default/*', 6],
    ['default/*', 'default/*', 5],
    ['*/*', 'default/*', 4],
    ['default/a', '*/*', 3],
    ['default/*', '*/*', 2],
    ['*/*', '*/*', 1],
  ]
  for (const [source, destination, expected] of table) {
    it(`of ${source} to ${destination} is ${expected}`, () => {
      assert.equal(intention(source, destination).precedence, expected)
    })
  }

  it('orders, and names break a tie', () => {
    const sorted = [
      intention('default/a', 'default/b'),
      intention('default/c', 'default/b'),
      intention('other/a', 'default/b'),
      ...table.slice(1).map(([source, destination]) => intention(source, destination)),
    ]
    assert.deepEqual([...sorted].reverse().sort(compareIntentions), sorted)
  })
})

void describe('match', () => {
  const all = [
    intention('default/a', 'default/web', 'deny'),
    intention('default/*', 'default/web', 'allow'),
    intention('default/a', 'default/*', 'deny'),
    intention('other/a', 'default/web', 'allow'),
    intention('default/b', 'default/db', 'deny'),
  ]
  const ids = (found: Intention[]): string[] => found.map(({ id }) => id)

  it('by destination and by source', () => {
    const web = { namespace: 'default', name: 'web' }
    assert.deepEqual(ids(matchIntentions(all, 'destination', web)), [
      'default/a default/web',
      'other/a default/web',
      'default/* default/web',
      'default/a default/*',
    ])
    const b = { namespace: 'default', name: 'b' }
    assert.deepEqual(ids(matchIntentions(all, 'source', b)), [
      'default/b default/db',
      'default/* default/web',
    ])
  })

  it('the first that covers the source decides', () => {
    const decide = (source: string, destination: string): string | undefined => {
      const [namespace = '', name = ''] = source.split('/')
      return decidingIntention(all, { namespace, name }, { namespace: 'default', name: destination })?.id
    }
    assert.equal(decide('default/a', 'web'), 'default/a default/web')
    assert.equal(decide('other/a', 'web'), 'other/a default/web')
    assert.equal(decide('default/z', 'web'), 'default/* default/web')
    assert.equal(decide('default/a', 'db'), 'default/a default/*')
    assert.equal(decide('default/b', 'db'), 'default/b default/db')
    assert.equal(decide('other/z', 'web'), undefined)
    assert.equal(decide('default/z', 'db'), undefined)
  })
})
