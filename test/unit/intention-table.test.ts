import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { Intention, IntentionSource } from '../../src/agent/endpoints/intentions.js'
import type { Permission } from '../../src/agent/endpoints/permissions.js'
import { IntentionTable, type Source, precedence } from '../../src/authorize/intention-table.js'
import { webSource } from '../fixtures/web-source.js'

interface Parts extends Partial<IntentionSource> {
  readonly to?: string
  readonly toNs?: string
  readonly action?: string
  readonly permissions?: readonly Permission[]
  readonly problem?: string
}

function intention({
  to = 'api',
  toNs = 'default',
  action = 'allow',
  permissions = [],
  problem,
  ...source
}: Parts): Intention {
  return {
    source: { ...webSource, ...source },
    destination: { namespace: toNs, name: to },
    action,
    permissions,
    problem,
  }
}

const PERMISSIONS: readonly Permission[] = [
  {
    action: 'allow',
    match: { path: undefined, headers: [], query: [], methods: ['GET'] },
    problem: undefined,
  },
]

const web: Source = { partition: 'default', namespace: 'default', service: 'web' }
const decide = (source: Source, ...intentions: Parts[]): boolean | undefined =>
  new IntentionTable(intentions.map(intention)).find(source)?.decision.authorized

describe('precedence', () => {
  const ends = [
    { namespace: 'default', name: 'x' },
    { namespace: 'default', name: '*' },
    { namespace: '*', name: '*' },
  ]
  it('is that of Consul: the destination counts before the source', () => {
    const found = ends.flatMap((to) =>
      ends.map((from) => precedence(intention({ ...from, to: to.name, toNs: to.namespace }))),
    )
    assert.deepEqual(found, [9, 8, 7, 6, 5, 4, 3, 2, 1])
  })
})

describe('IntentionTable', () => {
  const any = { name: '*' }
  const anywhere = { name: '*', namespace: '*' }
  const cases: readonly (readonly [string, boolean | undefined, Source, ...Parts[]])[] = [
    ['decides nothing without intentions', undefined, web],
    ['decides nothing by the intention of another source', undefined, web, { name: 'db' }],
    ['allows by an exact match', true, web, {}],
    ['denies by an exact match', false, web, { action: 'deny' }],
    ['matches a wildcard for services', true, web, any],
    ['matches a wildcard for namespaces', true, { ...web, namespace: 'other' }, anywhere],
    ['matches a wildcard only in its namespace', undefined, { ...web, namespace: 'other' }, any],
    ['prefers an exact match to a wildcard', true, web, { ...any, action: 'deny' }, {}],
    ['prefers an exact match to a wildcard, in either order', false, web, { action: 'deny' }, any],
    ['prefers an exact destination to an exact source', false, web, { to: '*' }, { ...any, action: 'deny' }],
    ['ranks a wildcard on both sides last', true, web, { ...any, to: '*', action: 'deny' }, { to: '*' }],
    ['prefers an exact namespace to a wildcard', false, web, anywhere, { ...any, action: 'deny' }],
    ['denies if equal intentions contradict each other', false, web, {}, { action: 'deny' }],
    ['denies if equal intentions contradict each other, in either order', false, web, { action: 'deny' }, {}],
    ['compares names with their case', undefined, { ...web, service: 'Web' }, {}],
    ['ignores the intention of another partition', undefined, web, { partition: 'other' }],
    ['compares the partition', true, { ...web, partition: 'other' }, { partition: 'other' }],
    ['denies connections on permissions', false, web, { action: '', permissions: PERMISSIONS }],
    ['denies on permissions, also if the action is allow', false, web, { permissions: PERMISSIONS }],
    ['denies on a problem', false, web, { problem: 'a problem' }],
    ['denies by a problem of the stronger intention', false, web, { problem: 'a problem' }, any],
    ['denies on an unknown action', false, web, { action: 'log' }],
    ['denies on an action in upper case', false, web, { action: 'Allow' }],
    ['denies without an action', false, web, { action: '' }],
    ['does not allow by the intention of a peered cluster', undefined, web, { peer: 'east' }],
    ['does not deny by the intention of a peered cluster', undefined, web, { peer: 'east', action: 'deny' }],
    ['does not allow by a source of an unknown type', undefined, web, { type: 'vm' }],
    ['denies by a source of an unknown type', false, web, { type: 'vm', action: 'deny' }],
    ['does not allow by a sameness group', undefined, web, { samenessGroup: 'g' }],
    ['denies by a sameness group', false, { ...web, partition: 'x' }, { samenessGroup: 'g', action: 'deny' }],
    ['does not allow by a wildcard partition', undefined, web, { partition: '*' }],
    ['denies by a wildcard partition', false, web, { partition: '*', action: 'deny' }],
    ['does not allow by a name in a wildcard namespace', undefined, web, { namespace: '*' }],
    ['denies by a name in a wildcard namespace', false, web, { namespace: '*', action: 'deny' }],
    ['ranks a denial by an unknown type', true, web, { ...any, type: 'vm', action: 'deny' }, {}],
    ['ignores inherited properties', undefined, { ...web, service: '__proto__' }, {}],
    [
      'matches the name of an inherited property',
      true,
      { ...web, service: 'constructor' },
      { name: 'constructor' },
    ],
  ]
  for (const [rule, expected, source, ...intentions] of cases) {
    it(rule, () => {
      assert.equal(decide(source, ...intentions), expected)
    })
  }

  it('returns the reason', () => {
    const reason = (parts: Parts): string | undefined =>
      new IntentionTable([intention(parts)]).find(web)?.decision.reason
    assert.equal(reason({}), 'allowed by intention default/web => default/api')
    assert.equal(reason({ name: '*', action: 'deny' }), 'denied by intention default/* => default/api')
    assert.equal(
      reason({ action: '', permissions: PERMISSIONS }),
      'intention default/web => default/api has permissions, which decide HTTP requests and no connections',
    )
    assert.equal(
      reason({ problem: 'the unknown field "X"' }),
      'denied by intention default/web => default/api: it has the unknown field "X"',
    )
    assert.match(reason({ action: 'x'.repeat(99) }) ?? '', /the unknown action "x{64}"; denied$/)
  })

  it('returns the permissions of an intention that has no action and no problem', () => {
    const permissionsOf = (parts: Parts): boolean =>
      new IntentionTable([intention({ permissions: PERMISSIONS, ...parts })]).find(web)?.permissions !==
      undefined
    assert.equal(permissionsOf({ action: '' }), true)
    for (const action of ['allow', 'deny', 'log']) assert.equal(permissionsOf({ action }), false)
    assert.equal(permissionsOf({ action: '', problem: 'a problem' }), false)
    assert.equal(permissionsOf({ action: '', type: 'vm' }), false)
  })

  it('names the intentions with a problem', () => {
    const table = new IntentionTable([intention({}), intention({ name: 'db', problem: 'a problem' })])
    assert.deepEqual([...table.problems], [['default/db => default/api', 'a problem']])
  })

  it('counts all intentions, also those of peered clusters', () => {
    assert.equal(new IntentionTable([intention({}), intention({ peer: 'east' })]).size, 2)
  })

  it('decides by the matching intention with the highest precedence', () => {
    const name = fc.constantFrom('web', 'db', '*')
    const namespace = fc.constantFrom('default', 'team')
    const end = fc
      .record({ namespace: fc.oneof(namespace, fc.constant('*')), name })

      .map((source) => (source.namespace === '*' ? { namespace: '*', name: '*' } : source))
    const rule = fc.record({
      from: end,
      to: fc.constantFrom(
        { namespace: 'default', name: 'api' },
        { namespace: 'default', name: '*' },
        { namespace: '*', name: '*' },
      ),
      action: fc.constantFrom('allow', 'deny'),
    })
    const property = fc.property(
      // Consul has at most one intention for a source and a destination.
      fc.uniqueArray(rule, { selector: ({ from, to }) => JSON.stringify([from, to]), maxLength: 20 }),
      namespace,
      fc.constantFrom('web', 'db', 'x'),
      (rules, ns, service) => {
        const all = rules.map(({ from, to, action }) =>
          intention({ ...from, to: to.name, toNs: to.namespace, action }),
        )
        const matching = all
          .filter(({ source }) => source.namespace === '*' || source.namespace === ns)
          .filter(({ source }) => source.name === '*' || source.name === service)
          .sort((a, b) => precedence(b) - precedence(a))
        const [first] = matching
        const found = new IntentionTable(all).find({ partition: 'default', namespace: ns, service })?.decision
        assert.equal(found?.authorized, first === undefined ? undefined : first.action === 'allow')
      },
    )
    fc.assert(property, { numRuns: 2_000 })
  })
})
