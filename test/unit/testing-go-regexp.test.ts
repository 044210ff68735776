import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { compileGoRegexp } from '../../src/testing/go-regexp.js'

void describe("an expression of Go's", () => {
  const table: [expression: string, text: string, groups: string[] | undefined][] = [
    ['^a(.*)$', 'abc', ['bc']],
    ['^a$', 'a\n', undefined],
    ['(?i)ABC', 'xabcx', []],
    ['(?is)A.C', 'a\nc', []],
    ['(?m)^b$', 'a\nb', []],
    ['(?P<first>.)-(?P<second>.)', 'a-b', ['a', 'b']],
    ['\\Aa\\z', 'a', []],
    ['\\Aa\\z', 'ba', undefined],
    ['\\pL\\p{Nd}{2}', 'é12', []],
    ['a\\-b', 'a-b', []],
    ['a{', 'a{', []],
  ]
  for (const [expression, text, groups] of table) {
    it(`${expression} on ${JSON.stringify(text)}`, () => {
      assert.deepEqual(compileGoRegexp(expression).exec(text)?.slice(1), groups)
    })
  }

  const mistakes: Record<string, string> = {
    '(': 'missing closing ): `(`',
    'a)': 'unexpected ): `a)`',
    'x[a': 'missing closing ]: `[a`',
    '*': 'missing argument to repetition operator: `*`',
    'a|+': 'missing argument to repetition operator: `+`',
  }
  for (const [expression, problem] of Object.entries(mistakes)) {
    it(`refuses ${expression} in Go's words`, () => {
      assert.throws(() => compileGoRegexp(expression), { message: `error parsing regexp: ${problem}` })
    })
  }
})
