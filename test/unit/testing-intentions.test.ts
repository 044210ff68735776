import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { Changes } from '../../src/testing/state/changes.js'
import { Intentions, precedence, type IntentionEnds } from '../../src/testing/state/intentions.js'

type Pair = readonly [source: string, destination: string]

function endsOf([SourceName, DestinationName]: Pair): IntentionEnds {
  return { SourceName, DestinationName }
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
    ['a', 'b', 9],
    ['*', 'b', 8],
    ['a', '*', 6],
    ['*', '*', 5],
  ]
  for (const [source, destination, expected] of table) {
    it(`is ${expected} from ${source} to ${destination}`, () => {
      assert.equal(precedence(endsOf([source, destination])), expected)
    })
  }

  it('orders intentions, and names break a tie', () => {
    const sorted: Pair[] = [
      ['a', 'b'],
      ['c', 'b'],
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
    ['a', 'web'],
    ['*', 'web'],
    ['a', '*'],
    ['b', 'db'],
  ])

  it('is matched by destination', () => {
    assert.deepEqual(
      intentions.match('web').map(({ ID }) => ID),
      ['a web', '* web', 'a *'],
    )
  })

  it('is decided by the first intention that covers the source', () => {
    const decide = (source: string, name: string): unknown => intentions.deciding(source, name)?.ID
    assert.equal(decide('a', 'web'), 'a web')
    assert.equal(decide('z', 'web'), '* web')
    assert.equal(decide('a', 'db'), 'a *')
    assert.equal(decide('b', 'db'), 'b db')
    assert.equal(decide('z', 'db'), undefined)
  })
})

void describe('a namespace other than the default', () => {
  it('is refused in an intention', async (t) => {
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    const body = { SourceName: 'a', SourceNS: 'foo', DestinationName: 'web', Action: 'allow' }
    const url = `${agent.url}/v1/connect/intentions`
    const response = await fetch(url, { method: 'POST', body: JSON.stringify(body) })
    assert.deepEqual(
      [response.status, await response.text()],
      [500, 'namespace: the embedded agent supports default only'],
    )
  })

  it('is covered by no intention', async (t) => {
    const agent = await TestAgent.start({ defaultPolicy: 'deny' })
    t.after(() => agent.close())
    agent.setIntention('*', 'web', 'allow')
    const authorize = async (namespace: string): Promise<unknown> => {
      const ClientCertURI = `spiffe://${agent.trustDomain}/ns/${namespace}/dc/dc1/svc/a`
      const response = await fetch(`${agent.url}/v1/agent/connect/authorize`, {
        method: 'POST',
        body: JSON.stringify({ Target: 'web', ClientCertURI }),
      })
      return ((await response.json()) as { Authorized: unknown }).Authorized
    }
    assert.deepEqual([await authorize('default'), await authorize('foo')], [true, false])
  })
})
