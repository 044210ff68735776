import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { OptionError } from '../../src/base/errors.js'
import * as options from '../../src/base/options/validate.js'

const { describe: describeValue, optional } = options

/** Returns the error of `check`, or undefined if it returns the value. */
function refusal(
  check: (option: string, value: unknown) => unknown,
  value: unknown,
): OptionError | undefined {
  try {
    const result = check('the.option', value)
    assert.ok(result === undefined || Object.is(result, value), 'the check returned another value')
    return undefined
  } catch (error) {
    assert.ok(error instanceof OptionError, `threw ${String(error)}`)
    return error
  }
}

const OBJECT = { a: 1 }
const { signal } = new AbortController()
const functions = { arrow: () => undefined }
const ANY: unknown[] = [
  undefined,
  null,
  true,
  false,
  0,
  -1,
  0.5,
  1,
  65535,
  65536,
  NaN,
  Infinity,
  -Infinity,
  1n,
  '',
  'web',
  'two words',
  Symbol('s'),
  functions.arrow,
  [],
  ['a'],
  OBJECT,
  signal,
]

describe('checks of options', () => {
  const checks: [name: keyof typeof options, accepted: unknown[]][] = [
    ['expectObject', [OBJECT, signal]],
    ['expectString', ['web', 'two words']],
    ['expectSecret', ['web']],
    ['expectBoolean', [true, false]],
    ['expectDuration', [0.5, 1, 65535, 65536]],
    ['expectPort', [0, 1, 65535]],
    ['expectFunction', [functions.arrow]],
    ['expectSignal', [signal]],
    ['expectName', ['web', 'two words']],
  ]
  for (const [name, accepted] of checks) {
    const check = options[name] as (option: string, value: unknown) => unknown
    it(`${name} accepts only values of its type, and names the option in its error`, () => {
      assert.deepEqual(
        ANY.filter((value) => refusal(check, value) === undefined),
        accepted,
      )
      const bad = name === 'expectFunction' ? 'x' : functions.arrow
      const error = refusal(check, bad)
      assert.equal(error?.option, 'the.option')
      assert.match(error.message, /^the\.option: expected \S.*, got \S/)
    })

    it(`optional(${name}) also accepts undefined`, () => {
      assert.deepEqual(
        ANY.filter((value) => refusal(optional(check), value) === undefined),
        [undefined, ...accepted],
      )
    })
  }
})

describe('expectName', () => {
  it('accepts 1 to 255 characters', () => {
    const lengths = [0, 1, 255, 256, 100_000]
    assert.deepEqual(
      lengths.filter((length) => refusal(options.expectName, 'a'.repeat(length)) === undefined),
      [1, 255],
    )
  })

  it('accepts the names that Consul accepts', () => {
    for (const name of ['WEB', 'my service', 'ü', '💾', 'a.b', '...', '.a', '%2F', 'a?b#c', '*', '\\', '"']) {
      assert.equal(refusal(options.expectName, name), undefined, name)
    }
  })

  it('rejects names that change the path of a request, and lone surrogates', () => {
    for (const name of ['.', '..', '/', 'a/b', 'a/', '/a', '../x', '\ud800', 'a\udfff', '\udc00\ud800']) {
      assert.notEqual(refusal(options.expectName, name), undefined, inspect(name))
    }
  })

  it('rejects control characters and the slash, and no other character', () => {
    const refused: number[] = []
    for (let codePoint = 0; codePoint <= 0xffff; codePoint += 1) {
      // Lone surrogates are in the test above.
      if (codePoint >= 0xd800 && codePoint <= 0xdfff) continue
      if (refusal(options.expectName, `a${String.fromCodePoint(codePoint)}`) !== undefined)
        refused.push(codePoint)
    }
    const range = (from: number, to: number): number[] =>
      Array.from({ length: to - from + 1 }, (_, i) => from + i)
    assert.deepEqual(refused, [...range(0, 0x1f), 0x2f, ...range(0x7f, 0x9f)])
  })
})

describe('expectAddress', () => {
  const accepted: [text: string, host: string, port: number][] = [
    ['10.0.0.1:80', '10.0.0.1', 80],
    ['web.example:65535', 'web.example', 65535],
    ['WEB_1-a.example:1', 'WEB_1-a.example', 1],
    ['localhost:00080', 'localhost', 80],
    ['[::1]:1', '::1', 1],
    ['[2001:DB8::7]:443', '2001:DB8::7', 443],
    ['[::ffff:10.0.0.1]:443', '::ffff:10.0.0.1', 443],
    ['[fe80::1%1]:8080', 'fe80::1%1', 8080],
    ['[fe80::1%eth0.1-a_b]:80', 'fe80::1%eth0.1-a_b', 80],
    [`${'a'.repeat(255)}:1`, 'a'.repeat(255), 1],
  ]
  for (const [text, host, port] of accepted) {
    it(`accepts ${text.slice(0, 40)}`, () => {
      assert.deepEqual(options.expectAddress('the.option', text), { host, port })
    })
  }

  const INVALID =
    'a a: :80 a:0 a:00000 a:65536 a:99999 a:123456 a:-1 a:+1 a:1.5 a:1e3 a:0x50 a,b:80 ::1:80 [::1] ' +
    '[::1]80 []:80 [x]:80 [::1%]:80 [::1%a/b]:80 [[::1]]:80 fe80::1%eth0:80 a%b:80 a@b:80 a/b:80 ' +
    'http://a:80 a:80/ a:80:81 ü:80'
  const rejected: unknown[] = [
    ...INVALID.split(' '),
    undefined,
    null,
    80,
    ['a:80'],
    '',
    'a:8 0',
    ' a:80',
    'a:80 ',
    'a:80\n',
    'a b:80',
    'a\0:80',
    `${'a'.repeat(256)}:1`,
  ]
  for (const value of rejected) {
    it(`rejects ${inspect(value).slice(0, 40)}`, () => {
      assert.throws(() => options.expectAddress('the.option', value), {
        name: 'OptionError',
        option: 'the.option',
      })
    })
  }
})

describe('expectSecret', () => {
  it('accepts printable ASCII without a space, which is valid in a header', () => {
    const accepted: number[] = []
    for (let codePoint = 0; codePoint <= 0x2ff; codePoint += 1) {
      if (refusal(options.expectSecret, `a${String.fromCodePoint(codePoint)}`) === undefined)
        accepted.push(codePoint)
    }
    assert.deepEqual(
      accepted,
      Array.from({ length: 0x7e - 0x20 }, (_, i) => 0x21 + i),
    )
  })

  it('does not show the secret in its error', () => {
    for (const secret of [
      'hunter2 hunter2',
      'hunter2\n',
      'hünter2',
      ['hunter2'],
      { token: 'hunter2' },
      777777,
    ]) {
      const error = refusal(options.expectSecret, secret)
      assert.doesNotMatch(inspect(error, { depth: 9, showHidden: true }), /h[uü]nter|777777/)
    }
  })
})

describe('readOptions', () => {
  it('ignores inherited properties, and rejects own unknown ones', () => {
    const checks = { revoke: options.withDefault(options.expectBoolean, true) }
    const inherited: object = Object.create({ revoke: false, other: 1 }) as object
    assert.deepEqual(options.readOptions(inherited, checks), { revoke: true })
    for (const given of [
      { __proto__: null, other: 1 },
      JSON.parse('{ "__proto__": {} }'),
      { constructor: 1 },
    ])
      assert.throws(() => options.readOptions(given, checks), { code: 'ERR_CONNECT_OPTION' })
  })
})

describe('expectKeys', () => {
  it('rejects the first unknown key, and lists the known keys', () => {
    options.expectKeys('options', { a: 1 }, ['a', 'b'])
    options.expectKeys('options', {}, [])
    assert.throws(
      () => {
        options.expectKeys('options', { a: 1, c: undefined }, ['a', 'b'])
      },
      { option: 'options.c', expected: 'one of a, b' },
    )
  })

  it('rejects names of Object.prototype', () => {
    for (const key of ['constructor', 'toString', '__proto__']) {
      const value = JSON.parse(`{"${key}": 1}`) as object
      assert.throws(() => {
        options.expectKeys('options', value, ['a'])
      }, OptionError)
    }
  })
})

describe('describe', () => {
  const cases: [value: unknown, text: string][] = [
    [undefined, 'undefined'],
    [null, 'null'],
    [true, 'the boolean true'],
    [5, 'the number 5'],
    [NaN, 'the number NaN'],
    ['', 'an empty string'],
    ['a"b\n', 'the string "a\\"b\\n"'],
    ['x'.repeat(65), `the string "${'x'.repeat(64)}"`],
    [[1], 'an array'],
    [{ a: 1 }, 'an object'],
    [functions.arrow, 'a function'],
    [Symbol('s'), 'a symbol'],
  ]
  for (const [value, text] of cases) {
    it(`describes ${text.slice(0, 40)}`, () => {
      assert.equal(describeValue(value), text)
    })
  }
})
