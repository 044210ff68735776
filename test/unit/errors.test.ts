import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { DeniedError } from '../../src/authorize/authorizer.js'
import * as errors from '../../src/base/errors.js'
import type { Peer } from '../../src/identity/peer.js'

const {
  AbortError,
  AgentError,
  ClosedError,
  ConnectError,
  DialError,
  DnsError,
  HostError,
  ERROR_CODES,
  IdentityError,
  OptionError,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
  withCause,
  messageOf,
  toError,
} = errors

// A second copy of the module, as in a process with two versions of the package.
const copyUrl = new URL('../../src/base/errors.ts?copy', import.meta.url).href
const copy = (await import(copyUrl)) as typeof errors

const cause = new Error('the cause')
const peer: Peer = {
  spiffeId: 'spiffe://a.consul/ns/default/dc/dc1/svc/web',
  trustDomain: 'a.consul',
  partition: 'default',
  namespace: 'default',
  datacenter: 'dc1',
  service: 'web',
  serialNumber: '01',
  fingerprint256: 'AA',
  notAfter: new Date(0),
}

type Module = Pick<typeof errors, 'ConnectError'> & Record<string, unknown>
const kinds: [
  name: keyof typeof errors | 'DeniedError',
  make: (from: typeof errors) => errors.ConnectError,
][] = [
  ['ConnectError', (from) => new from.ConnectError('ERR_CONNECT_LISTEN', 'no port', { cause })],
  ['OptionError', (from) => new from.OptionError('port', 'a port', 'a string', { cause })],
  ['AbortError', (from) => new from.AbortError('dial', cause)],
  ['ClosedError', (from) => new from.ClosedError('dial', { cause })],
  ['TimeoutError', (from) => new from.TimeoutError('dial', 5, { cause })],
  [
    'AgentError',
    (from) =>
      new from.AgentError('ERR_CONNECT_AGENT_FAILED', 'm', {
        address: 'a',
        request: 'r',
        status: 500,
        cause,
      }),
  ],
  ['IdentityError', (from) => new from.IdentityError('ERR_CONNECT_ROOTS', 'none', { cause })],
  ['SpiffeIdError', (from) => new from.SpiffeIdError('ERR_CONNECT_SPIFFE_PATH', 'x', 'y')],
  ['VerificationError', (from) => new from.VerificationError('ERR_CONNECT_PEER_KIND', 'x', 'y', { cause })],
  ['DialError', (from) => new from.DialError('ERR_CONNECT_DIAL_FAILED', 'db', 'away', { cause })],
  ['HostError', (from) => new from.HostError('example.com', 'is outside the mesh', 'a name of the mesh')],
  ['RedirectError', (from) => new from.RedirectError('api', 'payments')],
  ['DnsError', (from) => new from.DnsError('a:53', 'SRV b', 'no answer', { cause })],
]
/** Classes whose constructors take no cause. */
const causeless = ['SpiffeIdError', 'HostError', 'RedirectError']
const classes = (from: typeof errors): [string, typeof ConnectError][] =>
  kinds.map(([name]) => [name, (from as unknown as Module)[name] as typeof ConnectError])

describe('errors: classes', () => {
  it('all exported classes are in the table of this test', () => {
    const exported = Object.entries(errors).filter(
      ([, value]) => typeof value === 'function' && 'brand' in value,
    )
    assert.deepEqual(exported.map(([name]) => name).sort(), kinds.map(([name]) => name).sort())
  })

  for (const [name, make] of kinds) {
    it(`${name} has its name, its code, its cause, and a stack`, () => {
      const error = make(errors)
      assert.equal(error.name, name)
      assert.ok(error.code in ERROR_CODES)
      assert.equal(error.cause, causeless.includes(name) ? undefined : cause)
      assert.equal(Object.hasOwn(error, 'cause'), !causeless.includes(name))
      assert.ok(error instanceof Error)
      assert.equal(String(error), `${name}: ${error.message}`)
      assert.match(inspect(error), new RegExp(`code: '${error.code}'`))
    })

    it(`${name} is an instance of its class and of ConnectError only, in both copies of the module`, () => {
      const expected = name === 'ConnectError' ? [name] : ['ConnectError', name]
      for (const from of [errors, copy]) {
        const error = make(from)
        for (const module of [errors, copy]) {
          const matching = classes(module).filter(([, kind]) => error instanceof kind)
          assert.deepEqual(
            matching.map(([className]) => className),
            expected,
          )
        }
      }
    })
  }

  it('the two copies have separate classes', () => {
    assert.notEqual(copy.ConnectError, ConnectError)
    assert.ok(!Object.prototype.isPrototypeOf.call(ConnectError.prototype, new copy.ClosedError('x')))
  })

  it('DeniedError is a ConnectError, and not an instance of other classes', () => {
    const error = new DeniedError(
      peer,
      'db',
      { authorized: false, reason: 'an intention', basis: 'intention' },
      { cause },
    )
    assert.equal(error.name, 'DeniedError')
    assert.equal(error.code, 'ERR_CONNECT_DENIED')
    assert.equal(error.message, 'web to db: connection denied; an intention')
    assert.ok(
      error instanceof DeniedError && error instanceof ConnectError && error instanceof copy.ConnectError,
    )
    assert.ok(!(error instanceof IdentityError))
    assert.ok(!(new ConnectError('ERR_CONNECT_DENIED', 'x') instanceof DeniedError))
  })

  it('a subclass of the application is matched by its prototype, and is an instance of its base', () => {
    class First extends OptionError {}
    class Second extends OptionError {}
    const error = new First('a', 'b', 'c')
    assert.ok(error instanceof First && error instanceof OptionError && error instanceof copy.OptionError)
    assert.ok(!(error instanceof Second))
    assert.ok(!(new OptionError('a', 'b', 'c') instanceof First))
    assert.equal(error.name, 'OptionError')
  })

  it('other values are not instances of ConnectError', () => {
    const values: unknown[] = [
      undefined,
      null,
      'ConnectError',
      5,
      Symbol('x'),
      {},
      new Error('x'),
      { name: 'ConnectError', code: 'ERR_CONNECT_OPTION', message: 'x' },
      Object.assign(new Error('x'), { code: 'ERR_CONNECT_OPTION' }),
      { [Symbol.for('consul-connect.error')]: 'ConnectError' },
    ]
    for (const value of values) assert.ok(!(value instanceof ConnectError), inspect(value))
  })

  it('the brand is not enumerable and not printed', () => {
    const error = new ClosedError('dial')
    assert.ok(!inspect(error).includes('consul-connect.error'))
    assert.deepEqual(Object.keys(error).sort(), ['code', 'name'])
  })
})

describe('errors: properties and messages', () => {
  it('OptionError has the option, the expected value, and the actual value', () => {
    const { option, expected, actual, message } = new OptionError('port', 'a port', 'a string')
    assert.deepEqual([option, expected, actual], ['port', 'a port', 'a string'])
    assert.equal(message, 'port: expected a port, got a string')
  })

  it('TimeoutError has the timeout, the attempts, and its cause in the message', () => {
    const scope = { subset: undefined, namespace: undefined, partition: undefined, datacenter: undefined }
    const attempts = [{ address: 'a:1', target: { service: 'db', ...scope }, error: cause, durationMs: 4 }]
    const error = new TimeoutError('dial db', 5, { cause, attempts })
    assert.equal(error.message, 'dial db: timed out after 5 ms: the cause')
    assert.deepEqual([error.timeoutMs, error.attempts], [5, attempts])
    const plain = new TimeoutError('dial db', 5)
    assert.deepEqual([plain.message, plain.attempts], ['dial db: timed out after 5 ms', []])
  })

  it('AgentError has address, request, and status', () => {
    const error = new AgentError('ERR_CONNECT_AGENT_FAILED', 'm', {
      address: 'a',
      request: 'GET /x',
      status: 500,
    })
    assert.deepEqual([error.address, error.request, error.status], ['a', 'GET /x', 500])
    assert.equal(
      new AgentError('ERR_CONNECT_AGENT_TIMEOUT', 'm', { address: 'a', request: 'r' }).status,
      undefined,
    )
  })

  it('AbortError has the reason of the signal as its cause', () => {
    for (const reason of [cause, 'enough', 0, null])
      assert.equal(new AbortError('dial', reason).cause, reason)
    assert.equal(new AbortError('dial', cause).message, 'dial: aborted by its signal')
  })

  it('VerificationError has both sides in its message; DialError has the upstream and the attempts', () => {
    const verification = new VerificationError('ERR_CONNECT_PEER_KIND', 'a service', 'an agent', { cause })
    assert.equal(verification.message, 'peer certificate: expected a service, got an agent: the cause')
    const dial = new DialError('ERR_CONNECT_NO_INSTANCES', 'db', 'there is none')
    assert.deepEqual([dial.message, dial.upstream, dial.attempts], ['dial db: there is none', 'db', []])
  })

  it('DialError has the reason for the lack of instances', () => {
    const reasons = ['unknown', 'not-connect', 'no-match', 'not-passing', 'empty'] as const
    for (const reason of reasons) {
      assert.equal(new DialError('ERR_CONNECT_NO_INSTANCES', 'db', 'none', { reason }).reason, reason)
    }
    assert.equal(new DialError('ERR_CONNECT_DIAL_FAILED', 'db', 'away').reason, undefined)
    assert.equal(new DialError('ERR_CONNECT_DIAL_FAILED', 'db', 'away', { cause }).reason, undefined)
  })

  it('HostError names the host, cut to 256 characters, the problem, and what is expected', () => {
    const { host, problem, expected, message } = new HostError('x'.repeat(300), 'is too long', 'a host name')
    assert.equal(host, `${'x'.repeat(256)}…`)
    assert.deepEqual({ problem, expected }, { problem: 'is too long', expected: 'a host name' })
    assert.equal(message, `host "${host}" is too long; expected a host name`)
  })

  it('DnsError has the server, the question, and the problem', () => {
    const error = new DnsError('[::1]:8600', 'SRV redis.connect.consul', 'there is no answer', { cause })
    assert.deepEqual([error.server, error.question], ['[::1]:8600', 'SRV redis.connect.consul'])
    assert.equal(error.message, 'DNS SRV redis.connect.consul at [::1]:8600: there is no answer: the cause')
    assert.equal(new DnsError('a:1', 'A b', 'none').message, 'DNS A b at a:1: none')
  })

  it('SpiffeIdError has the input, cut to 256 characters', () => {
    const { input } = new SpiffeIdError('ERR_CONNECT_SPIFFE_PATH', 'a'.repeat(257), 'x')
    assert.equal(input, `${'a'.repeat(256)}…`)
    assert.equal(new SpiffeIdError('ERR_CONNECT_SPIFFE_PATH', 'a'.repeat(256), 'x').input, 'a'.repeat(256))
  })
})

describe('ERROR_CODES', () => {
  const root = new URL('../../src/', import.meta.url)
  const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.startsWith('testing'))
    .map((file) => [file, readFileSync(new URL(file, root), 'utf8')] as const)

  it('lists every code that the sources use', () => {
    const used = new Set(sources.flatMap(([, text]) => text.match(/\bERR_CONNECT_\w+/g) ?? []))
    assert.deepEqual(
      [...used].filter((code) => !(code in ERROR_CODES)),
      [],
    )
  })

  it('lists no unused code', () => {
    const texts = sources.map(([file, text]) =>
      file === 'base/errors.ts' ? text.split('} as const')[1]! : text,
    )
    const unused = Object.keys(ERROR_CODES).filter(
      (code) => !texts.some((text) => text.includes(`'${code}'`)),
    )
    assert.deepEqual(unused, [])
  })

  it('has a sentence for each code', () => {
    for (const [code, meaning] of Object.entries(ERROR_CODES)) {
      assert.match(code, /^ERR_CONNECT_[A-Z_]+$/)
      assert.match(meaning, /^[A-Z].{10,}[.?]$/, code)
    }
  })
})

describe('withCause and toError', () => {
  const nameless = new Error('')
  const cases: [thrown: unknown, reason: RegExp][] = [
    [new Error('no'), /^: no$/],
    [nameless, /^: Error$/],
    ['text', /^: text$/],
    [5, /^: \S/],
    [null, /^: \S/],
    [Symbol('s'), /^: \S/],
    [{}, /^: \S/],
    [undefined, /^$/],
  ]
  for (const [thrown, reason] of cases) {
    it(`describe the thrown value ${inspect(thrown)}`, () => {
      assert.match(withCause(thrown), reason)
      const error = toError(thrown)
      if (thrown instanceof Error) assert.equal(error, thrown)
      else assert.match(error.message, /thrown/)
    })
  }

  it('describe an AggregateError without a message by its parts', () => {
    const refused = [new Error('connect ECONNREFUSED ::1:1'), new Error('connect ECONNREFUSED 127.0.0.1:1')]
    const parts: [error: Error, message: string][] = [
      [new AggregateError(refused), 'connect ECONNREFUSED ::1:1, connect ECONNREFUSED 127.0.0.1:1'],
      [new AggregateError(refused, 'all of them'), 'all of them'],
      [new AggregateError([]), 'AggregateError'],
      [new AggregateError(['text']), 'non-Error value thrown: text'],
      [new Error('plain'), 'plain'],
      [nameless, 'Error'],
      [new TypeError(''), 'TypeError'],
    ]
    for (const [error, message] of parts) {
      assert.equal(messageOf(error), message)
      assert.equal(withCause(error), `: ${message}`)
    }
  })

  it('do not throw for a value that cannot be converted to text', () => {
    const hostile: unknown[] = [
      Object.create(null),
      {
        toString: () => {
          throw new Error('never')
        },
      },
    ]
    for (const thrown of hostile) {
      assert.equal(typeof withCause(thrown), 'string')
      assert.ok(toError(thrown) instanceof Error)
    }
  })
})

describe('messages', () => {
  it('escape invisible characters and characters that change the direction of text', () => {
    const name = 'pay\u202etnem\u200b\u2028x\u0007'
    const { message } = new ConnectError('ERR_CONNECT_OPTION', `dial ${name}: first\nsecond`)
    assert.equal(message, 'dial pay\\u{202e}tnem\\u{200b}\\u{2028}x\\u{7}: first second')
  })
})
