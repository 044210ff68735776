import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { compilePattern } from '../../src/matching/pattern.js'

describe('compilePattern', () => {
  // Decided by Envoy 1.40 as well.
  const decisions: [source: string, matches: string[], others: string[]][] = [
    ['admin', ['admin'], ['admins', 'an admin', 'ADMIN', '']],
    ['^admin$', ['admin'], ['admins']],
    ['.*', ['', 'a'], []],
    ['(?i)/abc', ['/abc', '/ABC'], ['/abcd']],
    ['/(?i)abc', ['/aBC'], ['/ab']],
    ['/[[:alpha:]]+', ['/abc'], ['/', '/a1', '/:a:]']],
    ['/\\Qa.b\\E', ['/a.b'], ['/axb', '/Qa.bE']],
    ['a|bc', ['a', 'bc'], ['ac', 'ab', 'b']],
    ['/v[0-9]+/x', ['/v1/x', '/v23/x'], ['/v/x', '/v1/xy', 'v1/x']],
    ['/ab?c*', ['/a', '/ab', '/acc'], ['/b', '/']],
    ['/ab{2}', ['/abb'], ['/ab', '/ab{2}']],
    ['/a\\z', ['/a'], ['/az']],
    ['(?s).', ['\n'], []],
    ['.', ['a'], ['\n']],
    ['\\pL+', ['aB'], ['a1']],
  ]
  for (const [source, matches, others] of decisions) {
    it(`matches ${source} with a whole text`, async () => {
      const pattern = await compilePattern(source)
      for (const text of matches) assert.ok(pattern.matches(text), JSON.stringify(text))
      for (const text of others) assert.ok(!pattern.matches(text), JSON.stringify(text))
    })
  }

  // Decided by Envoy 1.40 as well: each byte is one character.
  const bytes: [source: string, text: string, matches: boolean][] = [
    ['.*bad.*', 'bad\xff', true],
    ['.*bad.*', '\xe9bad', true],
    ['.', '\xff', true],
    ['.', '\xc3\xa9', false],
    ['..', '\xc3\xa9', true],
    ['é', '\xc3\xa9', true],
    ['é', '\xe9', false],
    ['\\xe9', '\xe9', true],
    ['[^a]', '\xff', true],
    ['[\\x80-\\xff]', '\xb5', true],
    ['\\w', '\xe9', false],
    ['€', '\xe2\x82\xac', true],
  ]
  for (const [source, text, matches] of bytes) {
    it(`${matches ? 'matches' : 'does not match'} ${source} with the bytes ${Buffer.from(text, 'latin1').toString('hex')}`, async () => {
      assert.equal((await compilePattern(source)).matches(text), matches)
    })
  }

  // JavaScript needs exponential time for these.
  for (const source of ['/(a+)+$', '(a|a)*b', '(.*a){12}b', '([a-z]+)*=']) {
    it(`matches ${source} in linear time`, async () => {
      const pattern = await compilePattern(source)
      const text = `/${'a'.repeat(20_000)}!`
      const start = performance.now()
      assert.equal(pattern.matches(text), false)
      assert.ok(performance.now() - start < 2_000)
    })
  }

  const refused: [source: string, problem: string][] = [
    ['/a(?!b).*', 'invalid or unsupported Perl syntax: `(?!`'],
    ['(?<=a)b', 'invalid named capture: `(?<=a)b`'],
    ['(', 'missing closing ): `(`'],
    ['a**', 'invalid nested repetition operator: `**`'],
    ['a{1001}', 'invalid repeat count: `{1001}`'],
    ['\\8', 'invalid escape sequence: `\\8`'],
    ['(a{1000}){1000}', 'invalid repeat count: `{1000}`'],
  ]
  for (const [source, problem] of refused) {
    it(`refuses ${source}`, async () => {
      await assert.rejects(compilePattern(source), {
        name: 'PatternError',
        message: `invalid expression ${JSON.stringify(source)}: ${problem}`,
      })
    })
  }

  it('shows the start of a long expression', async () => {
    await assert.rejects(compilePattern(`[${'a'.repeat(1_000)}`), (error: Error) => {
      assert.match(error.message, /^invalid expression "\[a{99}…": missing closing \]/)
      return true
    })
  })
})
