import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { type ErrorCode, SpiffeIdError } from '../../src/base/errors.js'
import { SpiffeId, type SpiffeIdParts, isTrustDomain } from '../../src/identity/spiffe.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const WEB = { trustDomain: TD, partition: 'default', namespace: 'default', datacenter: 'dc1', service: 'web' }

/** The error code of a rejected URI, or `accepted`. */
function verdict(uri: string): ErrorCode | 'accepted' {
  try {
    SpiffeId.parse(uri)
    return 'accepted'
  } catch (error) {
    assert.ok(error instanceof SpiffeIdError, `threw ${String(error)}`)
    return error.code
  }
}

/** Requires that `check` is true for each code point. Reports the first ten for which it is not. */
function forEveryCodePoint(check: (codePoint: number) => boolean): void {
  const { stackTraceLimit } = Error
  // Stack traces of a million errors are slow.
  Error.stackTraceLimit = 0
  const invalid: string[] = []
  for (let codePoint = 0; codePoint <= 0x10ffff && invalid.length < 10; codePoint += 1) {
    if (!check(codePoint)) invalid.push(`U+${codePoint.toString(16).padStart(4, '0')}`)
  }
  Error.stackTraceLimit = stackTraceLimit
  assert.deepEqual(invalid, [])
}

/** Percent-encodes the UTF-8 bytes of a code point, also of a surrogate, which UTF-8 forbids. */
function percentEncode(codePoint: number): string {
  const continuation = (shift: number): number => 0x80 | ((codePoint >> shift) & 0x3f)
  const bytes =
    codePoint < 0x80
      ? [codePoint]
      : codePoint < 0x800
        ? [0xc0 | (codePoint >> 6), continuation(0)]
        : codePoint < 0x10000
          ? [0xe0 | (codePoint >> 12), continuation(6), continuation(0)]
          : [0xf0 | (codePoint >> 18), continuation(12), continuation(6), continuation(0)]
  return bytes.map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
}

const service = (segment: string): string => `spiffe://${TD}/ns/default/dc/dc1/svc/${segment}`

describe('SpiffeId.parse: the forms of Connect', () => {
  const forms: [uri: string, parts: SpiffeIdParts][] = [
    [`spiffe://${TD}/ns/default/dc/dc1/svc/web`, { kind: 'service', ...WEB }],
    [`spiffe://${TD}/ns/n/dc/dc2/svc/web`, { kind: 'service', ...WEB, namespace: 'n', datacenter: 'dc2' }],
    [
      `spiffe://${TD}/ap/p/ns/n/dc/dc2/svc/web`,
      { kind: 'service', ...WEB, partition: 'p', namespace: 'n', datacenter: 'dc2' },
    ],
    [
      `spiffe://${TD}/agent/client/dc/dc1/id/node`,
      { kind: 'agent', trustDomain: TD, partition: 'default', datacenter: 'dc1', agentId: 'node' },
    ],
    [
      `spiffe://${TD}/ap/p/agent/client/dc/dc1/id/node`,
      { kind: 'agent', trustDomain: TD, partition: 'p', datacenter: 'dc1', agentId: 'node' },
    ],
    [`spiffe://${TD}/agent/server/dc/dc1`, { kind: 'server', trustDomain: TD, datacenter: 'dc1' }],
    [
      `spiffe://${TD}/gateway/mesh/dc/dc1`,
      { kind: 'mesh-gateway', trustDomain: TD, partition: 'default', datacenter: 'dc1' },
    ],
    [
      `spiffe://${TD}/ap/p/gateway/mesh/dc/dc1`,
      { kind: 'mesh-gateway', trustDomain: TD, partition: 'p', datacenter: 'dc1' },
    ],
    [`spiffe://${TD}`, { kind: 'signing', trustDomain: TD }],
    // Names that are equal to the keywords of the path.
    [service('svc'), { kind: 'service', ...WEB, service: 'svc' }],
    [
      `spiffe://${TD}/ap/ap/ns/ns/dc/dc/svc/svc`,
      {
        kind: 'service',
        trustDomain: TD,
        partition: 'ap',
        namespace: 'ns',
        datacenter: 'dc',
        service: 'svc',
      },
    ],
  ]
  for (const [uri, parts] of forms) {
    it(`parses ${uri} as ${parts.kind}, and formats it identically`, () => {
      const id = SpiffeId.parse(uri)
      assert.deepEqual({ ...id.parts }, parts)
      assert.equal(id.toString(), uri)
      assert.equal(JSON.stringify({ id }), JSON.stringify({ id: uri }))
    })
  }
})

describe('SpiffeId.parse: decoding of segments', () => {
  const cases: [rule: string, segment: string, name: string | undefined][] = [
    ['a space', 'my%20service', 'my service'],
    ['UTF-8', '%C3%BC', 'ü'],
    ['lower-case hexadecimal', '%c3%bc', 'ü'],
    ['mixed case of hexadecimal', '%c3%BC', 'ü'],
    ['four bytes', '%F0%9F%92%BE', '💾'],
    ['an encoded slash', 'a%2Fb', 'a/b'],
    ['an encoded slash in lower case', 'a%2fb', 'a/b'],
    ['an encoded path', '..%2F..%2Fsvc%2Fdb', '../../svc/db'],
    ['an encoded query mark', 'a%3Fb', 'a?b'],
    ['an encoded hash', 'a%23b', 'a#b'],
    ['a segment that is encoded twice', '%252F', '%2F'],
    ['a segment that is encoded three times', '%25252F', '%252F'],
    ['an encoded percent sign at the end', 'a%25', 'a%'],
    ['a needless encoding', '%77eb', 'web'],
    ['a plus', 'a+b', 'a+b'],
    ['three dots', '...', '...'],
    ['a leading dot', '.a', '.a'],
    ['U+FFFD itself', '%EF%BF%BD', '\ufffd'],

    ['one dot', '.', undefined],
    ['two dots', '..', undefined],
    ['one dot, encoded', '%2e', undefined],
    ['two dots, encoded', '%2E%2E', undefined],
    ['two dots, half encoded', '.%2e', undefined],
    ['an empty segment', '', undefined],
    ['a lone percent sign', '%', undefined],
    ['one hexadecimal digit', '%2', undefined],
    ['no hexadecimal digit', '%zz', undefined],
    ['a percent sign at the end', 'a%', undefined],
    ['a lone continuation byte', '%80', undefined],
    ['a lone first byte', '%C3', undefined],
    ['an overlong slash', '%C0%AF', undefined],
    ['a surrogate', '%ED%A0%80', undefined],
    ['beyond the last code point', '%F4%90%80%80', undefined],
    ['Latin-1', '%FC', undefined],
    ['an encoded NUL', 'web%00', undefined],
    ['an encoded line feed', 'web%0A', undefined],
    ['an encoded delete', 'web%7F', undefined],
    ['an encoded C1 control', 'web%C2%85', undefined],
  ]
  const places: [
    part: 'service' | 'namespace' | 'datacenter' | 'partition',
    uri: (segment: string) => string,
  ][] = [
    ['service', service],
    ['namespace', (segment) => `spiffe://${TD}/ns/${segment}/dc/dc1/svc/web`],
    ['datacenter', (segment) => `spiffe://${TD}/ns/default/dc/${segment}/svc/web`],
    ['partition', (segment) => `spiffe://${TD}/ap/${segment}/ns/default/dc/dc1/svc/web`],
  ]
  for (const [part, uri] of places) {
    it(`decodes a ${part}, or refuses it`, () => {
      for (const [rule, segment, name] of cases) {
        if (name === undefined) assert.equal(verdict(uri(segment)), 'ERR_CONNECT_SPIFFE_PATH', rule)
        else
          assert.deepEqual(
            { ...SpiffeId.parse(uri(segment)).parts },
            { kind: 'service', ...WEB, [part]: name },
            rule,
          )
      }
    })
  }

  it('decodes an agent ID', () => {
    const { parts } = SpiffeId.parse(`spiffe://${TD}/agent/client/dc/dc1/id/a%2Fb`)
    assert.equal(parts.kind === 'agent' && parts.agentId, 'a/b')
    assert.equal(verdict(`spiffe://${TD}/agent/client/dc/dc1/id/%2e%2e`), 'ERR_CONNECT_SPIFFE_PATH')
  })
})

describe('SpiffeId.parse: rejections', () => {
  const LENGTH = 'ERR_CONNECT_SPIFFE_LENGTH'
  const SCHEME = 'ERR_CONNECT_SPIFFE_SCHEME'
  const COMPONENT = 'ERR_CONNECT_SPIFFE_COMPONENT'
  const TRUST_DOMAIN = 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN'
  const PATH = 'ERR_CONNECT_SPIFFE_PATH'
  const path = '/ns/default/dc/dc1/svc/web'
  const cases: [code: ErrorCode, uris: string[]][] = [
    [LENGTH, ['']],
    [
      SCHEME,
      [
        'web',
        path,
        `//${TD}${path}`,
        `spiffe:${TD}${path}`,
        `spiffe:/${TD}${path}`,
        `SPIFFE://${TD}${path}`,
        `Spiffe://${TD}${path}`,
        `https://${TD}${path}`,
        `xspiffe://${TD}${path}`,
        ` spiffe://${TD}${path}`,
        `\ufeffspiffe://${TD}${path}`,
      ],
    ],
    [
      COMPONENT,
      [
        `spiffe://user@${TD}${path}`,
        `spiffe://user:password@${TD}${path}`,
        `spiffe://@${TD}${path}`,
        `spiffe://${TD}:8443${path}`,
        `spiffe://${TD}:${path}`,
        `spiffe://[::1]${path}`,
        `spiffe://${TD}${path}?`,
        `spiffe://${TD}${path}?a=b`,
        `spiffe://${TD}${path}#`,
        `spiffe://${TD}${path}#a`,
        `spiffe://${TD}?a`,
        `spiffe://${TD}#a`,
      ],
    ],
    [
      TRUST_DOMAIN,
      [
        'spiffe://',
        `spiffe://${path}`,
        `spiffe://${TD.toUpperCase()}${path}`,
        `spiffe://Mesh.consul${path}`,
        `spiffe://mesh%2econsul${path}`,
        `spiffe://mesh.consul%00${path}`,
        `spiffe://mesh consul${path}`,
        `spiffe://mesh.consul\n${path}`,
        `spiffe://müsh.consul${path}`,
        `spiffe://mesh.consul\\${path}`,
        `spiffe://*${path}`,
      ],
    ],
    [
      PATH,
      [
        `spiffe://${TD}/`,
        `spiffe://${TD}//`,
        `spiffe://${TD}/web`,
        `spiffe://${TD}/ns/default/dc/dc1/svc`,
        `spiffe://${TD}/ns/default/dc/dc1/svc/`,
        `spiffe://${TD}${path}/`,
        `spiffe://${TD}${path}/x`,
        `spiffe://${TD}/${path}`,
        `spiffe://${TD}/ns//default/dc/dc1/svc/web`,
        `spiffe://${TD}/x${path}`,
        `spiffe://${TD}/./ns/default/dc/dc1/svc/web`,
        `spiffe://${TD}/ns/default/../default/dc/dc1/svc/web`,
        `spiffe://${TD}/NS/default/dc/dc1/svc/web`,
        `spiffe://${TD}/ns/default/dc/dc1/SVC/web`,
        `spiffe://${TD}/%6Es/default/dc/dc1/svc/web`,
        `spiffe://${TD}/ns%2Fdefault/dc/dc1/svc/web`,
        `spiffe://${TD}/dc/dc1/ns/default/svc/web`,
        `spiffe://${TD}/ap/p`,
        `spiffe://${TD}/ap//ns/default/dc/dc1/svc/web`,
        `spiffe://${TD}/ap/p/ap/q/ns/default/dc/dc1/svc/web`,
        `spiffe://${TD}/agent/client/dc/dc1`,
        `spiffe://${TD}/agent/client/dc/dc1/id/`,
        `spiffe://${TD}/agent/server/dc/dc1/id/a`,
        `spiffe://${TD}/agent/server/dc/`,
        `spiffe://${TD}/ap/p/agent/server/dc/dc1`,
        `spiffe://${TD}/gateway/mesh/dc/`,
        `spiffe://${TD}/gateway/mesh/dc/dc1/x`,
        `spiffe://${TD}/gateway/terminating/dc/dc1`,
        `spiffe://${TD}/ns/default/dc/dc1/svc/wüb`,
        `spiffe://${TD}/ns/default/dc/dc1/svc/a b`,
        `spiffe://${TD}/ns/default/dc/dc1/svc/web\n`,
      ],
    ],
  ]
  for (const [code, uris] of cases) {
    it(`rejects URIs with ${code}`, () => {
      for (const uri of uris) assert.equal(verdict(uri), code, JSON.stringify(uri))
    })
  }

  // URIs of the default partition have no partition. A second spelling would be another URI for the same identity.
  const defaults: [spelling: string, uri: string][] = [
    ['a service', `spiffe://${TD}/ap/default/ns/default/dc/dc1/svc/web`],
    ['an agent', `spiffe://${TD}/ap/default/agent/client/dc/dc1/id/a`],
    ['a mesh gateway', `spiffe://${TD}/ap/default/gateway/mesh/dc/dc1`],
    ['a service, percent-encoded', `spiffe://${TD}/ap/%64efault/ns/default/dc/dc1/svc/web`],
  ]
  for (const [spelling, uri] of defaults) {
    it(`rejects the default partition in the URI of ${spelling}`, () => {
      assert.equal(verdict(uri), PATH)
    })
  }

  it('reports the expected form and at most 256 characters of the input', () => {
    const uri = `http://${'x'.repeat(1000)}`
    assert.throws(
      () => SpiffeId.parse(uri),
      (error: SpiffeIdError) => {
        assert.equal(error.input, `${uri.slice(0, 256)}…`)
        assert.match(error.expected, /spiffe:\/\//)
        assert.ok(error.message.length < 400)
        return true
      },
    )
    // A line break in a URI must not break a log line.
    assert.throws(() => SpiffeId.parse('a\nb'), { message: /"a\\nb"/ })
  })
})

describe('SpiffeId.parse: limits', () => {
  it('accepts trust domains of 1 to 255 bytes', () => {
    const path = '/ns/default/dc/dc1/svc/web'
    assert.equal(verdict(`spiffe://a${path}`), 'accepted')
    assert.equal(verdict(`spiffe://${'a'.repeat(255)}${path}`), 'accepted')
    assert.equal(verdict(`spiffe://${'a'.repeat(256)}${path}`), 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN')
    assert.equal(verdict(`spiffe://${'a'.repeat(256)}`), 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN')
  })

  it('accepts URIs of at most 2048 bytes', () => {
    const room = 2048 - service('').length
    assert.equal(verdict(service('a'.repeat(room))), 'accepted')
    assert.equal(verdict(service('a'.repeat(room + 1))), 'ERR_CONNECT_SPIFFE_LENGTH')
  })

  it('counts bytes, not characters', () => {
    const room = 2048 - service('').length
    assert.equal(verdict(service('ü'.repeat(room / 2 + 1))), 'ERR_CONNECT_SPIFFE_LENGTH')
    assert.equal(verdict(service('💾'.repeat(room / 4 + 1))), 'ERR_CONNECT_SPIFFE_LENGTH')
  })
})

describe('SpiffeId.parse: all code points', () => {
  it('accepts only [a-z0-9._-] in a trust domain', () => {
    const allowed = new Set('abcdefghijklmnopqrstuvwxyz0123456789._-')
    forEveryCodePoint((codePoint) => {
      const char = String.fromCodePoint(codePoint)
      const accepted = allowed.has(char)
      return isTrustDomain(char) === accepted && (verdict(`spiffe://${char}`) === 'accepted') === accepted
    })
  })

  it('accepts only the unencoded characters of RFC 3986 in a segment', () => {
    const allowed = new Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@")
    forEveryCodePoint((codePoint) => {
      const char = String.fromCodePoint(codePoint)
      const expected = allowed.has(char)
        ? 'accepted'
        : char === '?' || char === '#'
          ? 'ERR_CONNECT_SPIFFE_COMPONENT'
          : 'ERR_CONNECT_SPIFFE_PATH'
      return verdict(service(`a${char}b`)) === expected
    })
  })

  it('decodes every encoded code point except control characters, surrogates, and a single dot', () => {
    forEveryCodePoint((codePoint) => {
      const uri = service(percentEncode(codePoint))
      const isControl = codePoint < 0x20 || (codePoint >= 0x7f && codePoint <= 0x9f)
      const isSurrogate = codePoint >= 0xd800 && codePoint <= 0xdfff
      if (isControl || isSurrogate || codePoint === 0x2e) return verdict(uri) === 'ERR_CONNECT_SPIFFE_PATH'
      const { parts } = SpiffeId.parse(uri)
      return parts.kind === 'service' && parts.service === String.fromCodePoint(codePoint)
    })
  })
})

describe('SpiffeId.service', () => {
  it('uses the default namespace and partition, and omits the default partition', () => {
    const id = SpiffeId.service({ trustDomain: TD, datacenter: 'dc1', service: 'web' })
    assert.equal(id.toString(), service('web'))
    assert.deepEqual({ ...id.parts }, { kind: 'service', ...WEB })
    const scoped = SpiffeId.service({ ...WEB, partition: 'p', namespace: 'n' })
    assert.equal(scoped.toString(), `spiffe://${TD}/ap/p/ns/n/dc/dc1/svc/web`)
  })

  it('compares identities, not spellings', () => {
    assert.ok(SpiffeId.parse(service('%77eb')).equals(SpiffeId.parse(service('web'))))
    for (const uri of [service('Web'), `spiffe://${TD}/ap/p/ns/default/dc/dc1/svc/web`, `spiffe://${TD}`]) {
      assert.ok(!SpiffeId.parse(service('web')).equals(SpiffeId.parse(uri)), uri)
    }
  })

  const bad: [rule: string, part: Partial<typeof WEB>, code: ErrorCode][] = [
    ['an empty trust domain', { trustDomain: '' }, 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN'],
    ['an upper-case trust domain', { trustDomain: 'Mesh.consul' }, 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN'],
    ['a trust domain with a port', { trustDomain: 'mesh.consul:1' }, 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN'],
    // Formatted, it would be the identity of another partition.
    ['a trust domain with a path', { trustDomain: `${TD}/ap/other` }, 'ERR_CONNECT_SPIFFE_TRUST_DOMAIN'],
    ['an empty service', { service: '' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['an empty namespace', { namespace: '' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['an empty datacenter', { datacenter: '' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['an empty partition', { partition: '' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['a dot', { service: '.' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['two dots', { namespace: '..' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['a control character', { service: 'a\0b' }, 'ERR_CONNECT_SPIFFE_PATH'],
    ['a name too long for a URI', { service: 'a'.repeat(2048) }, 'ERR_CONNECT_SPIFFE_LENGTH'],
    // Replaced by U+FFFD, it would be another name.
    ['a lone surrogate', { service: 'a\ud800' }, 'ERR_CONNECT_SPIFFE_PATH'],
  ]
  for (const [rule, part, code] of bad) {
    it(`refuses ${rule}`, () => {
      assert.throws(() => SpiffeId.service({ ...WEB, ...part }), { name: 'SpiffeIdError', code })
    })
  }
})

describe('SpiffeId: properties', () => {
  const runs = { seed: 20260101, numRuns: 2000 }
  const name = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 40 })
    .filter((text) => text !== '.' && text !== '..' && !/\p{Cc}/u.test(text))

  it('parses any formatted names to the same names', () => {
    const id = fc.record({
      trustDomain: fc.stringMatching(/^[a-z0-9._-]{1,64}$/),
      partition: name,
      namespace: name,
      datacenter: name,
      service: name,
    })
    fc.assert(
      fc.property(id, (parts) => {
        const uri = SpiffeId.service(parts).toString()
        assert.deepEqual({ ...SpiffeId.parse(uri).parts }, { kind: 'service', ...parts })
        assert.equal(SpiffeId.parse(uri).toString(), uri)
      }),
      runs,
    )
  })

  it('formats any accepted text to an accepted, equal ID', () => {
    const piece = fc.oneof(
      fc.constantFrom(
        'spiffe://',
        TD,
        '/ns/',
        '/dc/',
        '/svc/',
        '/ap/',
        'default',
        '/agent/client',
        '/id/',
        '%',
        '.',
      ),
      fc.constantFrom(
        '/agent/server',
        '/gateway/mesh',
        '%2F',
        '%2e',
        '?',
        '#',
        '@',
        ':',
        '/',
        '%C3%BC',
        '%25',
      ),
      fc.string({ unit: 'binary', maxLength: 3 }),
    )
    const almost = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''))
    const rooted = almost.map((path) => `spiffe://${TD}${path}`)
    const spelled = fc.array(piece, { minLength: 1, maxLength: 3 }).map((pieces) => service(pieces.join('')))
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string(), almost, rooted, spelled), (text) => {
        if (verdict(text) !== 'accepted') return
        const id = SpiffeId.parse(text)
        assert.ok(SpiffeId.parse(id.toString()).equals(id))
      }),
      { ...runs, numRuns: 5000 },
    )
  })

  it('rejects a value that is not a string with ERR_CONNECT_OPTION', () => {
    for (const value of [null, undefined, 5, {}]) {
      assert.throws(() => SpiffeId.parse(value as string), { code: 'ERR_CONNECT_OPTION' })
    }
  })
})
