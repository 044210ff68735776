import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { Intention, IntentionSource } from '../../src/agent/endpoints/intentions.js'
import { IntentionTable, type Source, precedence } from '../../src/authorize/intention-table.js'
import { webSource } from '../fixtures/web-source.js'

interface Parts extends Partial<IntentionSource> {
  readonly to?: string
  readonly toNs?: string
  readonly action?: string
  readonly hasPermissions?: boolean
}

function intention({
  to = 'api',
  toNs = 'default',
  action = 'allow',
  hasPermissions = false,
  ...source
}: Parts): Intention {
  return {
    source: { ...webSource, ...source },
    destination: { namespace: toNs, name: to },
    action,
    hasPermissions,
  }
}

const web: Source = { partition: 'default', namespace: 'default', service: 'web' }
const decide = (source: Source, ...given: Parts[]): boolean | undefined =>
  new IntentionTable(given.map(intention)).decide(source)?.authorized

describe('precedence', () => {
  const ends = [
    { namespace: 'default', name: 'x' },
    { namespace: 'default', name: '*' },
    { namespace: '*', name: '*' },
  ]
  // Consul's own table: the destination counts before the source.
  const expected = [9, 8, 7, 6, 5, 4, 3, 2, 1]
  it('is Consul’s', () => {
    const found = ends.flatMap((to) =>
      ends.map((from) => precedence(intention({ ...from, to: to.name, toNs: to.namespace }))),
    )
    assert.deepEqual(found, expected)
  })
})

describe('IntentionTable', () => {
  const any = { name: '*' }
  const anywhere = { name: '*', namespace: '*' }
  const cases: readonly (readonly [string, boolean | undefined, Source, ...Parts[]])[] = [
    ['none: nothing is decided', undefined, web],
    ['of another source: nothing is decided', undefined, web, { name: 'db' }],
    ['exact', true, web, {}],
    ['exact, and denied', false, web, { action: 'deny' }],
    ['a wildcard', true, web, any],
    ['a wildcard for namespaces', true, { ...web, namespace: 'other' }, anywhere],
    ['a wildcard of another namespace', undefined, { ...web, namespace: 'other' }, any],
    ['exact before a wildcard', true, web, { ...any, action: 'deny' }, {}],
    ['exact before a wildcard, in the other order', false, web, { action: 'deny' }, any],
    ['the destination before the source', false, web, { to: '*' }, { ...any, action: 'deny' }],
    ['a wildcard on both sides is the last', true, web, { ...any, to: '*', action: 'deny' }, { to: '*' }],
    ['namespaces before their wildcard', false, web, anywhere, { ...any, action: 'deny' }],
    ['two of the same: the one that denies', false, web, {}, { action: 'deny' }],
    ['two of the same, in the other order', false, web, { action: 'deny' }, {}],
    ['names have one case', undefined, { ...web, service: 'Web' }, {}],
    ['another partition', undefined, web, { partition: 'other' }],
    ['its partition', true, { ...web, partition: 'other' }, { partition: 'other' }],
    ['permissions deny', false, web, { action: '', hasPermissions: true }],
    ['permissions deny, whatever the action says', false, web, { hasPermissions: true }],
    ['an unknown action denies', false, web, { action: 'log' }],
    ['an action in another case denies', false, web, { action: 'Allow' }],
    ['no action denies', false, web, { action: '' }],
    ['of a peered cluster: it allows none of ours', undefined, web, { peer: 'east' }],
    ['of a peered cluster: it denies none of ours', undefined, web, { peer: 'east', action: 'deny' }],
    ['of an unknown type: it does not allow', undefined, web, { type: 'vm' }],
    ['of an unknown type: it denies', false, web, { type: 'vm', action: 'deny' }],
    ['of a group: it does not allow', undefined, web, { samenessGroup: 'g' }],
    ['of a group: it denies', false, { ...web, partition: 'x' }, { samenessGroup: 'g', action: 'deny' }],
    ['of any partition: it does not allow', undefined, web, { partition: '*' }],
    ['of any partition: it denies', false, web, { partition: '*', action: 'deny' }],
    ['a name after a wildcard for its namespace does not allow', undefined, web, { namespace: '*' }],
    ['and denies', false, web, { namespace: '*', action: 'deny' }],
    ['a doubtful denial is weighed like any other', true, web, { ...any, type: 'vm', action: 'deny' }, {}],
    ['names of an object’s own', undefined, { ...web, service: '__proto__' }, {}],
    ['a service that is called so', true, { ...web, service: 'constructor' }, { name: 'constructor' }],
  ]
  for (const [what, expected, source, ...given] of cases) {
    it(what, () => {
      assert.equal(decide(source, ...given), expected)
    })
  }

  it('says why', () => {
    const reason = (given: Parts): string | undefined =>
      new IntentionTable([intention(given)]).decide(web)?.reason
    assert.equal(reason({}), 'allowed by intention default/web => default/api')
    assert.equal(reason({ name: '*', action: 'deny' }), 'denied by intention default/* => default/api')
    assert.match(reason({ hasPermissions: true }) ?? '', /has L7 permissions/)
    assert.match(reason({ action: 'x'.repeat(99) }) ?? '', /the unknown action "x{64}"; denied$/)
  })

  it('counts what it was given', () => {
    assert.equal(new IntentionTable([intention({}), intention({ peer: 'east' })]).size, 2)
  })

  it('decides as the first that matches in Consul’s order', () => {
    const name = fc.constantFrom('web', 'db', '*')
    const namespace = fc.constantFrom('default', 'team')
    const end = fc
      .record({ namespace: fc.oneof(namespace, fc.constant('*')), name })
      .map((given) => (given.namespace === '*' ? { namespace: '*', name: '*' } : given))
    const given = fc.record({
      from: end,
      to: fc.constantFrom(
        { namespace: 'default', name: 'api' },
        { namespace: 'default', name: '*' },
        { namespace: '*', name: '*' },
      ),
      action: fc.constantFrom('allow', 'deny'),
    })
    const property = fc.property(
      // Consul keeps one of each.
      fc.uniqueArray(given, { selector: ({ from, to }) => JSON.stringify([from, to]), maxLength: 20 }),
      namespace,
      fc.constantFrom('web', 'db', 'x'),
      (sets, ns, service) => {
        const all = sets.map(({ from, to, action }) =>
          intention({ ...from, to: to.name, toNs: to.namespace, action }),
        )
        const matching = all
          .filter(({ source }) => source.namespace === '*' || source.namespace === ns)
          .filter(({ source }) => source.name === '*' || source.name === service)
          .sort((a, b) => precedence(b) - precedence(a))
        const [first] = matching
        const found = new IntentionTable(all).decide({ partition: 'default', namespace: ns, service })
        assert.equal(found?.authorized, first === undefined ? undefined : first.action === 'allow')
      },
    )
    fc.assert(property, { numRuns: 2_000 })
  })
})
