import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { HeaderChanges } from '../../src/agent/endpoints/chain-nodes.js'
import { applyChanges, checkChanges } from '../../src/http/routes/header-changes.js'

const NONE: HeaderChanges = { remove: [], set: [], add: [] }

describe('checkChanges', () => {
  const followed: [value: string, sent: string][] = [
    ['a', 'a'],
    [' a\tb ', ' a\tb '],
    ['a%%b', 'a%b'],
    ['%%%%', '%%'],
    ['é', '\xc3\xa9'],
    ['"q"\\', '"q"\\'],
  ]
  for (const [value, sent] of followed) {
    it(`sends ${JSON.stringify(value)} as ${JSON.stringify(sent)}`, () => {
      const changes = { remove: ['x-r'], set: [['x-a', value]], add: [['x-b', value]] } as const
      const checked = checkChanges(changes, (problem) => assert.fail(problem))
      assert.deepEqual(checked, { remove: ['x-r'], set: [['x-a', sent]], add: [['x-b', sent]] })
    })
  }

  const FRAMING = 'depends on the connection, and must not be changed'
  const names: [name: string, problem: string][] = [
    ['host', 'must not be changed'],
    [':path', 'must not be changed'],
    [':x', 'must not be changed'],
    ['', 'not a valid name'],
    ['x a', 'not a valid name'],
    ['x\r\na', 'not a valid name'],
    ['x@a', 'not a valid name'],
    ['xé', 'not a valid name'],
    ...['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'te', 'trailer'].map(
      (name): [string, string] => [name, FRAMING],
    ),
    ...['upgrade', 'proxy-connection', 'expect'].map((name): [string, string] => [name, FRAMING]),
  ]
  for (const [name, problem] of names) {
    it(`drops changes of ${JSON.stringify(name)}`, () => {
      const problems: string[] = []
      const changes = { remove: [name, 'x-r'], set: [[name, 'a']], add: [[name, 'a']] } as const
      assert.deepEqual(
        checkChanges(changes, (text) => problems.push(text)),
        { ...NONE, remove: ['x-r'] },
      )
      assert.deepEqual(problems, Array(3).fill(`header ${JSON.stringify(name)}: ${problem}`))
    })
  }

  const CONTROL = 'the value has a control character'
  const COMMAND = 'the value has a command of Envoy (`%…%`), which is not supported'
  const values: [value: string, problem: string][] = [
    ['', 'an empty value changes nothing'],
    ['a\r\nb: c', CONTROL],
    ['a\nb', CONTROL],
    ['a\0', CONTROL],
    ['a\x01', CONTROL],
    ['a\x7f', CONTROL],
    ['%PROTOCOL%', COMMAND],
    ['[%REQ(x-b)%]', COMMAND],
    ['50%', COMMAND],
    ['a%%%b', COMMAND],
  ]
  for (const [value, problem] of values) {
    it(`drops the value ${JSON.stringify(value)}`, () => {
      const problems: string[] = []
      const changes = { remove: [], set: [['x-a', value]], add: [['x-b', value]] } as const
      assert.deepEqual(
        checkChanges(changes, (text) => problems.push(text)),
        NONE,
      )
      assert.deepEqual(problems, [`header "x-a": ${problem}`, `header "x-b": ${problem}`])
    })
  }
})

describe('applyChanges', () => {
  const LINES = ['X-A', '1', 'x-b', '1', 'x-a', '2', 'Accept', 'a', 'cookie', 'a=1']
  const rest = ['x-b', '1', 'Accept', 'a', 'cookie', 'a=1']

  // All were made by Envoy 1.40 as well.
  const applied: [rule: string, changes: Partial<HeaderChanges>, expected: string[]][] = [
    ['changes nothing', {}, LINES],
    ['adds a line after the others', { add: [['x-a', '9']] }, [...LINES, 'x-a', '9']],
    ['replaces all lines', { set: [['x-a', '9']] }, [...rest, 'x-a', '9']],
    ['sets a header that is absent', { set: [['x-n', '9']] }, [...LINES, 'x-n', '9']],
    ['removes all lines', { remove: ['x-a'] }, rest],
    [
      'removes, then sets, then adds',
      {
        remove: ['x-a', 'x-b'],
        set: [['x-b', '7']],
        add: [
          ['x-a', '8'],
          ['x-b', '9'],
        ],
      },
      ['Accept', 'a', 'cookie', 'a=1', 'x-b', '7', 'x-a', '8', 'x-b', '9'],
    ],
    [
      'adds to a line that Envoy keeps in one',
      {
        add: [
          ['accept', '9'],
          ['user-agent', 'u'],
          ['user-agent', 'v'],
        ],
      },
      [...LINES.slice(0, 7), 'a,9', 'cookie', 'a=1', 'user-agent', 'u,v'],
    ],
    ['adds a line of a cookie', { add: [['cookie', 'b=2']] }, [...LINES, 'cookie', 'b=2']],
  ]
  for (const [rule, changes, expected] of applied) {
    it(rule, () => {
      const before = [...LINES]
      assert.deepEqual(applyChanges(before, { ...NONE, ...changes }), expected)
      assert.deepEqual(before, LINES)
    })
  }
})
