import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { parseDefaultPolicy } from '../../src/agent/endpoints/agent-self.js'
import { DEFAULT_NORMALIZATION, parseNormalization } from '../../src/agent/endpoints/mesh-entry.js'
import { type Permission, parsePermissions } from '../../src/agent/endpoints/permissions.js'

function parseOne(permission: unknown): Permission | undefined {
  return parsePermissions([permission], 'P')[0]
}

describe('parsePermissions', () => {
  it('reads every condition', () => {
    const HTTP = {
      PathPrefix: '/a',
      Methods: ['GET'],
      Header: [
        { Name: 'X-Role', Exact: 'admin', Invert: true },
        { Name: 'x-tag', Contains: 'T', IgnoreCase: true },
        { Name: 'x-any', Present: true },
      ],
    }
    assert.deepEqual(parseOne({ Action: 'deny', HTTP }), {
      action: 'deny',
      match: {
        path: { kind: 'prefix', value: '/a', ignoreCase: false },
        headers: [
          { name: 'x-role', kind: 'exact', value: 'admin', invert: true, ignoreCase: false },
          { name: 'x-tag', kind: 'contains', value: 'T', invert: false, ignoreCase: true },
          { name: 'x-any', kind: 'present', value: '', invert: false, ignoreCase: false },
        ],
        query: [],
        methods: ['GET'],
      },
      problem: undefined,
    })
  })

  it('reads what Consul writes for conditions that are not set', () => {
    const HTTP = { PathExact: '', PathPrefix: '/', PathRegex: '', Header: null, Methods: null }
    assert.equal(parseOne({ Action: 'allow', HTTP, JWT: null })?.problem, undefined)
  })

  const problems: [permission: unknown, problem: RegExp][] = [
    [{ Action: 'allow', HTTP: { PathPrefix: '/' }, Future: 1 }, /^unknown field P\[0\]\.Future$/],
    [
      { Action: 'allow', HTTP: { PathPrefix: '/', QueryParam: [] } },
      /^unknown field P\[0\]\.HTTP\.QueryParam$/,
    ],
    [{ Action: 'allow', HTTP: { PathPrefix: '/', CaseInsensitive: true } }, /CaseInsensitive$/],
    [
      { Action: 'allow', HTTP: { Header: [{ Name: 'x', Range: '1-2' }] } },
      /^unknown field .*Header\[0\]\.Range$/,
    ],
    [{ Action: 'allow', HTTP: { Header: [{ Name: 'x', Invert: true }] } }, /Header\[0\]: no condition$/],
    [
      { Action: 'allow', HTTP: { Header: [{ Exact: 'x' }] } },
      /Header\[0\]\.Name: expected a non-empty string/,
    ],
    [{ Action: 'allow', HTTP: {} }, /^P\[0\]\.HTTP: no condition$/],
    [
      { Action: 'allow', HTTP: { PathExact: '/a', PathPrefix: '/b' } },
      /more than one condition on the path$/,
    ],
    [{ Action: 'allow', HTTP: { PathPrefix: 5 } }, /PathPrefix: expected a string, got a number$/],
    [
      { Action: 'allow', HTTP: { PathPrefix: '/', Methods: 'GET' } },
      /Methods: expected an array, got a string$/,
    ],
    [
      { Action: 'allow', HTTP: { PathPrefix: '/' }, JWT: { Providers: [] } },
      /JSON Web Tokens are not supported$/,
    ],
    [{ Action: 'allow' }, /^P\[0\]\.HTTP: expected an object, got nothing$/],
    [{ Action: 5, HTTP: { PathPrefix: '/' } }, /Action: expected a string, got a number$/],
    [null, /^P\[0\]: expected an object, got null$/],
    ['allow', /^P\[0\]: expected an object, got a string$/],
  ]
  for (const [permission, problem] of problems) {
    it(`finds a problem in ${inspect(permission, { depth: 5, breakLength: Infinity })}`, () => {
      assert.match(parseOne(permission)?.problem ?? '', problem)
    })
  }

  it('keeps the other permissions of a list with a problem, in order', () => {
    const good = { Action: 'allow', HTTP: { PathPrefix: '/' } }
    const found = parsePermissions([good, null, good], 'P')
    assert.deepEqual(
      found.map(({ problem }) => problem === undefined),
      [true, false, true],
    )
  })
})

describe('parseNormalization', () => {
  const parse = (RequestNormalization: unknown): unknown =>
    parseNormalization([{ Kind: 'mesh', Name: 'mesh', HTTP: { Incoming: { RequestNormalization } } }])

  it('returns the defaults of Consul without an entry, and without settings', () => {
    for (const body of [null, [], [{ Name: 'mesh' }], [{ Name: 'mesh', HTTP: null }], [{ Name: 'other' }]])
      assert.deepEqual(parseNormalization(body), DEFAULT_NORMALIZATION)
    for (const settings of [undefined, null, {}, { MergeSlashes: false, PathWithEscapedSlashesAction: '' }])
      assert.deepEqual(parse(settings), DEFAULT_NORMALIZATION)
  })

  const cases: [settings: object, expected: object][] = [
    [{ InsecureDisablePathNormalization: true }, { normalize: false }],
    [{ MergeSlashes: true }, { mergeSlashes: true }],
    [{ PathWithEscapedSlashesAction: 'IMPLEMENTATION_SPECIFIC_DEFAULT' }, {}],
    [{ PathWithEscapedSlashesAction: 'KEEP_UNCHANGED' }, {}],
    [{ PathWithEscapedSlashesAction: 'REJECT_REQUEST' }, { escapedSlashes: 'reject' }],
    [{ PathWithEscapedSlashesAction: 'UNESCAPE_AND_REDIRECT' }, { escapedSlashes: 'redirect' }],
    [{ PathWithEscapedSlashesAction: 'UNESCAPE_AND_FORWARD' }, { escapedSlashes: 'unescape' }],
    [{ PathWithEscapedSlashesAction: 'LATER' }, { escapedSlashes: 'reject' }],
    [{ HeadersWithUnderscoresAction: 'ALLOW' }, {}],
    [{ HeadersWithUnderscoresAction: 'REJECT_REQUEST' }, { underscores: 'reject' }],
    [{ HeadersWithUnderscoresAction: 'DROP_HEADER' }, { underscores: 'drop' }],
    [{ HeadersWithUnderscoresAction: 'LATER' }, { underscores: 'reject' }],
  ]
  for (const [settings, expected] of cases) {
    it(`reads ${JSON.stringify(settings)}`, () => {
      assert.deepEqual(parse(settings), { ...DEFAULT_NORMALIZATION, ...expected })
    })
  }

  for (const settings of ['x', 5, [], { MergeSlashes: 'true' }, { HeadersWithUnderscoresAction: 1 }]) {
    it(`refuses ${JSON.stringify(settings)}`, () => {
      assert.throws(() => parse(settings), { name: 'ShapeError', message: /RequestNormalization/ })
    })
  }
})

describe('parseDefaultPolicy', () => {
  const cases: [config: object, policy: string][] = [
    [{ ACLsEnabled: false }, 'allow'],
    [{ ACLsEnabled: false, ACLDefaultPolicy: 'deny' }, 'allow'],
    [{ ACLsEnabled: true, ACLDefaultPolicy: 'deny' }, 'deny'],
    [{ ACLsEnabled: true, ACLDefaultPolicy: 'allow' }, 'allow'],
    [{ ACLsEnabled: true, ACLResolverSettings: { ACLDefaultPolicy: 'allow' } }, 'allow'],
    [{ ACLsEnabled: true, ACLResolverSettings: { ACLDefaultPolicy: 'deny' } }, 'deny'],
    [{ ACLsEnabled: true }, 'deny'],
    [{ ACLsEnabled: false, DefaultIntentionPolicy: 'deny' }, 'deny'],
    [{ ACLsEnabled: true, DefaultIntentionPolicy: 'allow' }, 'allow'],
    [{ ACLsEnabled: true, DefaultIntentionPolicy: '', ACLDefaultPolicy: 'allow' }, 'allow'],
  ]
  for (const [config, policy] of cases) {
    it(`is ${policy} for ${JSON.stringify(config)}`, () => {
      assert.equal(parseDefaultPolicy({ DebugConfig: config }), policy)
    })
  }

  for (const body of [null, {}, { DebugConfig: {} }, { DebugConfig: { ACLsEnabled: 'yes' } }]) {
    it(`refuses ${JSON.stringify(body)}`, () => {
      assert.throws(() => parseDefaultPolicy(body), { name: 'ShapeError' })
    })
  }
})
