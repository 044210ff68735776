import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { HeaderRule } from '../../src/agent/endpoints/http-rules.js'
import { compileHeaderRule } from '../../src/matching/header-matcher.js'

function rule(kind: HeaderRule['kind'], value = '', more: Partial<HeaderRule> = {}): HeaderRule {
  return { name: 'x-role', kind, value, invert: false, ignoreCase: false, ...more }
}

const INPUTS: readonly string[][] = [
  ['user'],
  ['admin'],
  ['user', 'admin'],
  ['admin', 'user'],
  ['user,admin'],
  [],
  [''],
  ['', 'admin'],
  ['admin', ''],
  ['ADMIN'],
  ['admin', 'admin'],
]

const [invert, ignoreCase] = [{ invert: true }, { ignoreCase: true }]

describe('compileHeaderRule', () => {
  // A column for each input. All were decided by Envoy 1.40 as well.
  const lineByLine: [rule: HeaderRule, decisions: string][] = [
    [rule('exact', 'admin'), '- Y Y Y - - - Y Y - Y'],
    [rule('exact', 'user,admin'), '- - - - Y - - - - - -'],
    [rule('exact', 'admin', invert), 'Y - - - Y - Y - - Y -'],
    [rule('present'), 'Y Y Y Y Y - Y Y Y Y Y'],
    [rule('present', '', invert), '- - - - - Y - - - - -'],
    [rule('prefix', 'adm'), '- Y Y Y - - - Y Y - Y'],
    [rule('prefix', 'adm', invert), 'Y - - - Y - Y - - Y -'],
    [rule('suffix', 'min'), '- Y Y Y Y - - Y Y - Y'],
    [rule('contains', 'dmi'), '- Y Y Y Y - - Y Y - Y'],
    [rule('regex', '.*dmin'), '- Y Y Y Y - - Y Y - Y'],
    [rule('regex', '.*dmin', invert), 'Y - - - - - Y - - Y -'],
    [rule('regex', '.*'), 'Y Y Y Y Y - Y Y Y Y Y'],
    [rule('regex', 'ADMIN', ignoreCase), '- - - - - - - - - Y -'],
    [rule('exact', 'ADMIN', ignoreCase), '- Y Y Y - - - Y Y Y Y'],
    [rule('prefix', 'ADM', ignoreCase), '- Y Y Y - - - Y Y Y Y'],
    [rule('suffix', 'MIN', ignoreCase), '- Y Y Y Y - - Y Y Y Y'],
    [rule('contains', 'DMI', ignoreCase), '- Y Y Y Y - - Y Y Y Y'],
  ]
  // Envoy joins the lines of some headers first.
  const joined: [rule: HeaderRule, decisions: string][] = [
    [rule('exact', 'admin'), '- Y - - - - - Y Y - -'],
    [rule('exact', 'user,admin'), '- - Y - Y - - - - - -'],
    [rule('exact', 'admin', invert), 'Y - Y Y Y - Y - - Y Y'],
    [rule('present'), 'Y Y Y Y Y - Y Y Y Y Y'],
    [rule('present', '', invert), '- - - - - Y - - - - -'],
    [rule('prefix', 'adm'), '- Y - Y - - - Y Y - Y'],
    [rule('prefix', 'adm', invert), 'Y - Y - Y - Y - - Y -'],
    [rule('suffix', 'min'), '- Y Y - Y - - Y Y - Y'],
    [rule('contains', 'dmi'), '- Y Y Y Y - - Y Y - Y'],
    [rule('regex', '.*dmin'), '- Y Y - Y - - Y Y - Y'],
    [rule('regex', '.*dmin', invert), 'Y - - Y - - Y - - Y -'],
  ]
  for (const [name, table] of [
    ['x-role', lineByLine],
    ['cookie', lineByLine],
    ['accept', joined],
    ['user-agent', joined],
  ] as const) {
    for (const [{ kind, value, ...more }, decisions] of table) {
      const flags = `${more.invert ? ', inverted' : ''}${more.ignoreCase ? ', in either case' : ''}`
      it(`applies ${kind} ${value}${flags} to the lines of ${name}`, async () => {
        const matches = await compileHeaderRule({ ...more, kind, value, name })
        const found = INPUTS.map((lines) => (matches(lines) ? 'Y' : '-')).join(' ')
        assert.equal(found, decisions)
      })
    }
  }

  it('compares bytes', async () => {
    const exact = await compileHeaderRule(rule('exact', 'é'))
    assert.equal(exact(['\xc3\xa9']), true)
    assert.equal(exact(['\xe9']), false)
    // Letters of ASCII only.
    const either = await compileHeaderRule(rule('exact', 'AÉ', ignoreCase))
    assert.equal(either(['a\xc3\x89']), true)
    assert.equal(either(['a\xe3\xa9']), false)
  })

  for (const name of ['keep-alive', 'proxy-connection', 'transfer-encoding']) {
    it(`takes ${name} as absent, as Envoy removes it first`, async () => {
      assert.equal((await compileHeaderRule(rule('present', '', { name })))(['x']), false)
      assert.equal((await compileHeaderRule(rule('present', '', { name, invert: true })))(['x']), true)
      assert.equal((await compileHeaderRule(rule('exact', 'x', { name })))(['x']), false)
      assert.equal((await compileHeaderRule(rule('exact', 'y', { name, invert: true })))(['x']), false)
    })
  }

  it('refuses an invalid expression', async () => {
    await assert.rejects(compileHeaderRule(rule('regex', '(')), { name: 'PatternError' })
  })
})
