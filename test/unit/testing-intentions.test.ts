import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Changes } from '../../src/testing/state/changes.js'
import { Intentions, precedence, type IntentionEnds } from '../../src/testing/state/intentions.js'

type Pair = readonly [source: string, destination: string]

function endsOf([source, destination]: Pair): IntentionEnds {
  const [SourceNS = '', SourceName = ''] = source.split('/')
  const [DestinationNS = '', DestinationName = ''] = destination.split('/')
  return { SourceNS, SourceName, DestinationNS, DestinationName }
}

/** Creates intentions whose IDs are their source and destination. */
function intentionsOf(pairs: readonly Pair[]): Intentions {
  const intentions = new Intentions(new Changes())
  for (const pair of pairs)
    intentions.put({ ...endsOf(pair), Action: 'allow', Description: '', Meta: {} }, pair.join(' '))
  return intentions
}

void describe('the precedence of an intention', () => {
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
    it(`is ${expected} from ${source} to ${destination}`, () => {
      assert.equal(precedence(endsOf([source, destination])), expected)
    })
  }

  it('orders intentions, and names break a tie', () => {
    const sorted: Pair[] = [
      ['default/a', 'default/b'],
      ['default/c', 'default/b'],
      ['other/a', 'default/b'],
      ...table.slice(1).map(([source, destination]): Pair => [source, destination]),
    ]
    const ids = intentionsOf([...sorted].reverse())
      .list()
      .map(({ ID }) => ID)
    assert.deepEqual(
      ids,
      sorted.map((pair) => pair.join(' ')),
    )
  })
})

void describe('a connection', () => {
  const intentions = intentionsOf([
    ['default/a', 'default/web'],
    ['default/*', 'default/web'],
    ['default/a', 'default/*'],
    ['other/a', 'default/web'],
    ['default/b', 'default/db'],
  ])

  it('is matched by destination', () => {
    assert.deepEqual(
      intentions.match('default/web').map(({ ID }) => ID),
      ['default/a default/web', 'other/a default/web', 'default/* default/web', 'default/a default/*'],
    )
  })

  it('is decided by the first intention that covers the source', () => {
    const decide = (source: string, name: string): unknown =>
      intentions.deciding(source, `default/${name}`)?.ID
    assert.equal(decide('default/a', 'web'), 'default/a default/web')
    assert.equal(decide('other/a', 'web'), 'other/a default/web')
    assert.equal(decide('default/z', 'web'), 'default/* default/web')
    assert.equal(decide('default/a', 'db'), 'default/a default/*')
    assert.equal(decide('default/b', 'db'), 'default/b default/db')
    assert.equal(decide('other/z', 'web'), undefined)
    assert.equal(decide('default/z', 'db'), undefined)
  })
})
