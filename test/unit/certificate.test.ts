import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { type ConnectError, VerificationError } from '../../src/base/errors.js'
import {
  CLIENT_AUTH,
  type CertificateFacts,
  SERVER_AUTH,
  parseCertificate,
} from '../../src/identity/certificate.js'
import { type IssueOptions, TestCa, extension } from '../../src/testing/index.js'
import { CONSUL_LEAF, CONSUL_ODD_LEAF_PEM, CONSUL_ROOTS } from '../fixtures/consul-answers.js'
import { TAG, type Tlv, append, decode, edit, encode, parts, tlv } from '../fixtures/der.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const WEB = `spiffe://${TD}/ns/default/dc/dc1/svc/web`
const ca = TestCa.create({ trustDomain: TD })

function facts(options: IssueOptions): CertificateFacts {
  return parseCertificate(ca.issue(options).certificate.raw)
}

/** Returns undefined for refused bytes. Any other error than the one for malformed certificates fails the test. */
function tryParse(der: Uint8Array): CertificateFacts | undefined {
  try {
    return parseCertificate(der)
  } catch (error) {
    assert.ok(error instanceof VerificationError, `threw ${String(error)}`)
    assert.equal(error.code, 'ERR_CONNECT_CERTIFICATE_MALFORMED')
    return undefined
  }
}

const colons = (hex: string): string =>
  hex
    .toLowerCase()
    .padStart(hex.length + (hex.length % 2), '0')
    .replace(/(..)(?!$)/g, '$1:')

describe('parseCertificate with certificates of Consul', () => {
  const KEY_USAGE = ['digitalSignature', 'keyEncipherment', 'dataEncipherment', 'keyAgreement']

  it('reads a leaf', () => {
    const { keyUsage, extendedKeyUsage, ...rest } = parseCertificate(
      new X509Certificate(CONSUL_LEAF.CertPEM).raw,
    )
    assert.deepEqual(rest, {
      uris: [CONSUL_LEAF.ServiceURI],
      isCa: false,
      pathLength: undefined,
      signatureAlgorithm: '1.2.840.10045.4.3.2',
      serialNumber: CONSUL_LEAF.SerialNumber,
    })
    assert.deepEqual([...(keyUsage ?? [])], KEY_USAGE)
    assert.deepEqual([...(extendedKeyUsage ?? [])].sort(), [SERVER_AUTH, CLIENT_AUTH].sort())
  })

  it('returns a percent-encoded URI unchanged', () => {
    const { uris } = parseCertificate(new X509Certificate(CONSUL_ODD_LEAF_PEM).raw)
    assert.deepEqual(uris, [
      `spiffe://${CONSUL_ROOTS.TrustDomain}/ns/default/dc/dc1/svc/my%20%C3%BC%20service`,
    ])
  })

  it('reads a root', () => {
    const root = parseCertificate(new X509Certificate(CONSUL_ROOTS.Roots[0]!.RootCert).raw)
    assert.equal(root.isCa, true)
    assert.deepEqual([...(root.keyUsage ?? [])], ['digitalSignature', 'keyCertSign', 'cRLSign'])
    assert.equal(root.extendedKeyUsage, undefined)
    assert.deepEqual(root.uris, [`spiffe://${CONSUL_ROOTS.TrustDomain}`])
  })

  it('reads only the bytes of a view', () => {
    const { raw } = new X509Certificate(CONSUL_LEAF.CertPEM)
    const buffer = Buffer.concat([Buffer.alloc(7, 0x30), raw, Buffer.alloc(5)])
    const view = new Uint8Array(buffer.buffer, buffer.byteOffset + 7, raw.length)
    assert.deepEqual(parseCertificate(view).uris, [CONSUL_LEAF.ServiceURI])
  })
})

describe('parseCertificate', () => {
  it('reads all URIs among the names, of any scheme, in order', () => {
    const cases: [options: IssueOptions, uris: string[]][] = [
      [{}, [WEB]],
      [{ uris: [] }, []],
      [{ uris: [], dnsNames: ['web.example'] }, []],
      [{ uris: [WEB], dnsNames: ['spiffe://dns'], ips: ['10.0.0.1'] }, [WEB]],
      [{ uris: [WEB, 'https://example.com/'] }, [WEB, 'https://example.com/']],
      [{ uris: ['urn:b', 'urn:a', 'urn:b'] }, ['urn:b', 'urn:a', 'urn:b']],
      // CVE-2021-44532: in the text form, this name looks like two.
      [{ uris: [`${WEB}, URI:spiffe://evil`] }, [`${WEB}, URI:spiffe://evil`]],
      [{ uris: [], dnsNames: [`a, URI:${WEB}`] }, []],
      [{ uris: [''] }, ['']],
      [{ uris: [`${WEB}\0`] }, [`${WEB}\0`]],
    ]
    for (const [options, uris] of cases) assert.deepEqual(facts(options).uris, uris, JSON.stringify(options))
  })

  it('reads the CA flag, where only true means a CA', () => {
    const basicConstraints = (...values: Tlv[]): IssueOptions => ({
      isCa: null,
      extraExtensions: [{ oid: '2.5.29.19', critical: true, value: encode(tlv(TAG.sequence, values)) }],
    })
    const pathLength = tlv(TAG.integer, '\x00')
    const cases: [rule: string, options: IssueOptions, isCa: boolean][] = [
      ['absent', { isCa: null }, false],
      ['empty', { isCa: false }, false],
      ['true', { isCa: true }, true],
      ['true with a path length', basicConstraints(tlv(TAG.boolean, '\xff'), pathLength), true],
      ['true in BER', basicConstraints(tlv(TAG.boolean, '\x01')), true],
      ['an explicit false', basicConstraints(tlv(TAG.boolean, '\x00')), false],
      ['only a path length', basicConstraints(pathLength), false],
    ]
    for (const [rule, options, isCa] of cases) assert.equal(facts(options).isCa, isCa, rule)
  })

  it('reads each key usage bit, alone and combined', () => {
    const all = [
      'digitalSignature',
      'nonRepudiation',
      'keyEncipherment',
      'dataEncipherment',
      'keyAgreement',
      'keyCertSign',
      'cRLSign',
      'encipherOnly',
      'decipherOnly',
    ] as const
    for (const name of all) assert.deepEqual([...(facts({ keyUsage: [name] }).keyUsage ?? [])], [name])
    assert.deepEqual([...(facts({ keyUsage: all }).keyUsage ?? [])], all)
    assert.deepEqual([...(facts({ keyUsage: [] }).keyUsage ?? ['absent'])], [])
    assert.equal(facts({ keyUsage: null }).keyUsage, undefined)
  })

  it('reads known and unknown extended key usages', () => {
    const read = (options: IssueOptions): unknown => {
      const { extendedKeyUsage } = facts(options)
      return extendedKeyUsage && [...extendedKeyUsage]
    }
    assert.equal(read({ extendedKeyUsage: null }), undefined)
    assert.deepEqual(read({ extendedKeyUsage: ['serverAuth'] }), [SERVER_AUTH])
    assert.deepEqual(read({ extendedKeyUsage: ['clientAuth', '1.2.3.4'] }), [CLIENT_AUTH, '1.2.3.4'])
  })

  it('formats the serial number like Consul and OpenSSL', () => {
    const serials: [serial: bigint, text: string][] = [
      [0n, '00'],
      [1n, '01'],
      [0x7fn, '7f'],
      // In DER, these two have a leading sign byte.
      [0x80n, '80'],
      [0xffn, 'ff'],
      [0x0100n, '01:00'],
      [0x8000n, '80:00'],
      [(1n << 159n) - 1n, `7f${':ff'.repeat(19)}`],
      [1n << 159n, `80${':00'.repeat(19)}`],
    ]
    for (const [serial, text] of serials) {
      const { certificate } = ca.issue({ serial })
      assert.equal(parseCertificate(certificate.raw).serialNumber, text)
      assert.equal(colons(certificate.serialNumber), text)
    }
  })
})

// The DER tree of a leaf. The extensions are in the order of TestCa.
const tree = decode(ca.issue({ serial: 5n }).certificate.raw)
const TBS = 0
const EXTENSIONS = [TBS, 7, 0]
const [KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, SUBJECT_ALT_NAME] = [0, 1, 2, 5]
const CONSTRAINTS = [...EXTENSIONS, BASIC_CONSTRAINTS]

function extensionAt(index: number): Tlv {
  return parts(parts(parts(parts(tree)[TBS]!)[7]!)[0]!)[index]!
}

/** The leaf with one part replaced, or removed. */
function change(path: readonly number[], part: Tlv | undefined | ((part: Tlv) => Tlv)): Buffer {
  return encode(edit(tree, path, typeof part === 'function' ? part : () => part))
}

/** The leaf with parts appended to a list. */
function appended(path: readonly number[], ...added: Tlv[]): Buffer {
  return encode(added.reduce((item, part) => append(item, path, part), tree))
}

/** An extension with the OID 1.2.3.`arc`. */
function unknownExtension(arc: number): Tlv {
  return tlv(TAG.sequence, [tlv(TAG.oid, `\x2a\x03${String.fromCharCode(arc)}`), tlv(TAG.octetString, '')])
}

/** The leaf with the value of one extension replaced. */
function withValue(index: number, value: Buffer | Tlv): Buffer {
  const content = Buffer.isBuffer(value) ? value : encode(value)
  return change([...EXTENSIONS, index, parts(extensionAt(index)).length - 1], tlv(TAG.octetString, content))
}

/** The leaf with these alternative names. */
function withNames(...names: Tlv[]): Buffer {
  return withValue(SUBJECT_ALT_NAME, tlv(TAG.sequence, names))
}

function nested(depth: number): Tlv {
  let bytes = encode(tlv(TAG.null, ''))
  for (let i = 1; i < depth; i += 1) bytes = encode(tlv(TAG.sequence, bytes))
  return tlv(TAG.sequence, bytes)
}

describe('parseCertificate with malformed certificates', () => {
  it('accepts the tree that the following cases change', () => {
    assert.deepEqual(tryParse(encode(tree))?.uris, [WEB])
    assert.deepEqual(tryParse(withNames(tlv(TAG.implicit(6), 'urn:a')))?.uris, ['urn:a'])
    assert.equal(tryParse(withValue(BASIC_CONSTRAINTS, Buffer.from('3000', 'hex')))?.isCa, false)
  })

  const whole = encode(tree)
  const uri = tlv(TAG.implicit(6), WEB)
  const duplicate = (index: number): Buffer => appended(EXTENSIONS, extensionAt(index))

  const cases: Record<string, Record<string, Uint8Array>> = {
    'other data': {
      'no bytes': Buffer.alloc(0),
      'one byte': Buffer.from([0x30]),
      zeros: Buffer.alloc(64),
      text: Buffer.from('-----BEGIN CERTIFICATE-----'),
      PEM: Buffer.from(CONSUL_LEAF.CertPEM),
      'an empty sequence': Buffer.from([0x30, 0]),
      'a length beyond the end': Buffer.from([0x30, 0x84, 0x7f, 0xff, 0xff, 0xff]),
      'a length beyond any number': Buffer.from([0x30, 0xff, ...Buffer.alloc(127, 0xff)]),
      'a set': encode({ ...tree, tag: TAG.set }),
      'a context tag': encode({ ...tree, tag: TAG.explicit(16) }),
    },
    'trailing bytes': {
      'one zero': Buffer.concat([whole, Buffer.alloc(1)]),
      'a null': Buffer.concat([whole, encode(tlv(TAG.null, ''))]),
      'a second certificate': Buffer.concat([whole, whole]),
      'a fourth part': appended([], tlv(TAG.null, '')),
      'in an extension': withValue(BASIC_CONSTRAINTS, Buffer.from('300000', 'hex')),
      'in the names': withValue(
        SUBJECT_ALT_NAME,
        Buffer.concat([encode(tlv(TAG.sequence, [uri])), encode(tlv(TAG.sequence, [uri]))]),
      ),
    },
    'BER that is not DER': {
      'an indefinite length': encode({ ...tree, length: 'indefinite' }),
      'an indefinite length inside': change([TBS], (tbs) => ({ ...tbs, length: 'indefinite' })),
      'a long form for a short length': change([TBS, 1], (serial) => ({ ...serial, length: 'long' })),
      'a length with a leading zero': encode({ ...tree, length: 'long' }),
      'an indefinite length in an extension': withValue(
        SUBJECT_ALT_NAME,
        tlv(TAG.sequence, [uri], 'indefinite'),
      ),
      'a long length in an extension': withValue(SUBJECT_ALT_NAME, tlv(TAG.sequence, [uri], 'long')),
      'an integer with a redundant zero': change([TBS, 1], tlv(TAG.integer, '\x00\x05')),
      'a constructed octet string': change([...CONSTRAINTS, 2], (value) => tlv(0x24, [value])),
      'a constructed URI': withNames(tlv(TAG.explicit(6), [tlv(TAG.ia5String, WEB)])),
    },
    'another version': {
      'version 1': ca.issue({ version: 1 }).certificate.raw,
      'an explicit version 1': change([TBS, 0, 0], tlv(TAG.integer, '\x00')),
      'version 2': change([TBS, 0, 0], tlv(TAG.integer, '\x01')),
      'version 4': change([TBS, 0, 0], tlv(TAG.integer, '\x03')),
      'no version': change([TBS, 0], undefined),
      'a version of another type': change([TBS, 0, 0], tlv(TAG.octetString, '\x02')),
      'a version with another tag': change([TBS, 0], tlv(TAG.explicit(1), [tlv(TAG.integer, '\x02')])),
      'a version without content': change([TBS, 0], tlv(TAG.explicit(0), [])),
    },
    'a wrong structure': {
      'no signature': change([2], undefined),
      'no algorithm and no signature': encode({ ...tree, value: parts(tree).slice(0, 1) }),
      'too few fields': encode({
        ...tree,
        value: [{ ...parts(tree)[0]!, value: parts(parts(tree)[0]!).slice(0, 6) }, ...parts(tree).slice(1)],
      }),
      'too many fields': appended([TBS], ...[8, 9, 10].map(() => tlv(TAG.implicit(2), ''))),
      'a serial number of another type': change([TBS, 1], tlv(TAG.octetString, '\x05')),
      'two lists of extensions': appended([TBS, 7], tlv(TAG.sequence, [])),
      'an empty list of extensions': change(EXTENSIONS, tlv(TAG.sequence, [])),
      'a set of extensions': change(EXTENSIONS, (list) => ({ ...list, tag: TAG.set })),
      'extensions without content': change([TBS, 7], tlv(TAG.explicit(3), [])),
      'extensions that are bytes': change([TBS, 7], tlv(TAG.implicit(3), '')),
    },
    'details that a lenient parser ignores': {
      'a serial number without content': change([TBS, 1], tlv(TAG.integer, '')),
      'the extensions twice': appended([TBS], parts(parts(tree)[TBS]!)[7]!),
      'an unknown field': appended([TBS], tlv(TAG.null, '')),
      'a criticality of another type': change([...CONSTRAINTS, 1], tlv(TAG.integer, '\x01')),
    },
    'a malformed extension': {
      'a number': appended(EXTENSIONS, tlv(TAG.integer, '\x01')),
      'without a value': change(
        CONSTRAINTS,
        tlv(TAG.sequence, parts(extensionAt(BASIC_CONSTRAINTS)).slice(0, 1)),
      ),
      'with a fourth part': appended(CONSTRAINTS, tlv(TAG.octetString, '\x30\x00')),
      'an identifier of another type': change([...CONSTRAINTS, 0], tlv(TAG.integer, '\x01')),
      'a value that is a bit string': change([...CONSTRAINTS, 2], tlv(TAG.bitString, '\x00')),
      'more than 64 extensions': appended(
        EXTENSIONS,
        ...Array.from({ length: 60 }, (_, arc) => unknownExtension(arc)),
      ),
    },
    'a duplicate extension': {
      'alternative names': duplicate(SUBJECT_ALT_NAME),
      'other alternative names': ca.issue({
        extraExtensions: [extension.subjectAltName({ uris: [`${WEB}-2`] })],
      }).certificate.raw,
      'basic constraints': duplicate(BASIC_CONSTRAINTS),
      'key usage': duplicate(KEY_USAGE),
      'extended key usage': duplicate(EXTENDED_KEY_USAGE),
      'an unknown extension': appended(EXTENSIONS, unknownExtension(4), unknownExtension(4)),
    },
    'a malformed value of an extension': {
      'names: no bytes': withValue(SUBJECT_ALT_NAME, Buffer.alloc(0)),
      'names: a string': withValue(SUBJECT_ALT_NAME, uri),
      'names: a set': withValue(SUBJECT_ALT_NAME, tlv(TAG.set, [uri])),
      'names: 1025 of them': withNames(...Array.from({ length: 1025 }, () => tlv(TAG.implicit(2), 'a'))),
      'names: a URI in UTF-8': withNames(tlv(TAG.implicit(6), Buffer.from('spiffe://ü'))),
      'names: a URI in Latin-1': withNames(tlv(TAG.implicit(6), '\xfc')),
      'constraints: only a boolean': withValue(BASIC_CONSTRAINTS, Buffer.from('0101ff', 'hex')),
      'constraints: text': withValue(BASIC_CONSTRAINTS, tlv(TAG.sequence, [tlv(TAG.ia5String, 'yes')])),
      'constraints: three parts': withValue(
        BASIC_CONSTRAINTS,
        tlv(TAG.sequence, [tlv(TAG.boolean, '\xff'), tlv(TAG.integer, '\x00'), tlv(TAG.integer, '\x00')]),
      ),
      'key usage: an octet string': withValue(KEY_USAGE, tlv(TAG.octetString, '\x03\xb8')),
      'key usage: no content': withValue(KEY_USAGE, tlv(TAG.bitString, '')),
      'key usage: eight unused bits': withValue(KEY_USAGE, tlv(TAG.bitString, '\x08\xb8')),
      'extended key usage: an empty list': withValue(EXTENDED_KEY_USAGE, tlv(TAG.sequence, [])),
      'extended key usage: only an identifier': withValue(EXTENDED_KEY_USAGE, tlv(TAG.oid, '\x2a\x03\x04')),
      'extended key usage: text': withValue(
        EXTENDED_KEY_USAGE,
        tlv(TAG.sequence, [tlv(TAG.ia5String, 'serverAuth')]),
      ),
    },
    'excessive size or depth': {
      'deep nesting': appended([], nested(20)),
      'deep nesting in an unread field': change([TBS, 3], nested(20)),
      '10,000 levels': encode(nested(10_000)),
      'deep nesting in an extension': withValue(BASIC_CONSTRAINTS, nested(20)),
      'more than 100 KiB': ca.issue({
        extraExtensions: [{ oid: '1.2.3.4', value: Buffer.alloc(100 * 1024) }],
      }).certificate.raw,
    },
  }
  for (const [rule, certificates] of Object.entries(cases)) {
    it(`refuses ${rule}`, () => {
      const accepted = Object.entries(certificates).filter(([, der]) => tryParse(der) !== undefined)
      assert.deepEqual(
        accepted.map(([name]) => name),
        [],
      )
    })
  }

  it('accepts unusual, valid certificates', () => {
    const big = ca.issue({ extraExtensions: [{ oid: '1.2.3.4', value: Buffer.alloc(100 * 1024 - 1024) }] })
    const unique = edit(tree, [TBS], (tbs) => ({
      ...tbs,
      value: [
        ...parts(tbs).slice(0, 7),
        tlv(TAG.implicit(1), '\x00\xf1'),
        tlv(TAG.implicit(2), '\x00\xf2'),
        ...parts(tbs).slice(7),
      ],
    }))
    const cases: [rule: string, der: Uint8Array][] = [
      ['a certificate of nearly 100 KiB', big.certificate.raw],
      ['a name with deep nesting', change([TBS, 3], nested(12))],
      ['unique identifiers of the issuer and the subject', encode(unique)],
      [
        'an unknown extension with any content',
        ca.issue({ extraExtensions: [{ oid: '1.2.3.4', critical: true, value: Buffer.from('?') }] })
          .certificate.raw,
      ],
      ['1024 names', withNames(uri, ...Array.from({ length: 1023 }, () => tlv(TAG.implicit(2), 'a')))],
    ]
    for (const [rule, der] of cases) assert.deepEqual(tryParse(der)?.uris, [WEB], rule)
  })

  it('accepts a certificate without extensions', () => {
    const bare = tryParse(change([TBS, 7], undefined))
    assert.deepEqual(bare, {
      uris: [],
      isCa: false,
      keyUsage: undefined,
      extendedKeyUsage: undefined,
      pathLength: undefined,
      signatureAlgorithm: '1.2.840.10045.4.3.2',
      serialNumber: '05',
    })
  })

  it('reports the reason as the cause, and reveals no bytes in the message', () => {
    assert.throws(
      () => parseCertificate(Buffer.from('secret')),
      (error: ConnectError) => error.cause instanceof Error && !error.message.includes('secret'),
    )
  })
})

describe('parseCertificate returns a result or throws its error', () => {
  const runs = { seed: 20260101, numRuns: 2000 }
  // Fixed bytes, so that the test is reproducible.
  const real = [CONSUL_LEAF.CertPEM, CONSUL_ODD_LEAF_PEM, CONSUL_ROOTS.Roots[0]!.RootCert].map(
    (pem) => new X509Certificate(pem).raw,
  )

  it('for arbitrary bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 512 }), (bytes) => {
        tryParse(bytes)
      }),
      runs,
    )
  })

  it('for arbitrary DER trees', () => {
    const { tree: anyTree } = fc.letrec<{ tree: Tlv }>((tie) => ({
      tree: fc.oneof(
        { maxDepth: 6 },
        fc.record({
          tag: fc.integer({ min: 0, max: 0xff }),
          value: fc.uint8Array({ maxLength: 8 }).map((b) => Buffer.from(b)),
        }),
        fc.record({
          tag: fc.constantFrom(TAG.sequence, TAG.set, TAG.explicit(0), TAG.explicit(3)),
          value: fc.array(tie('tree'), { maxLength: 8 }),
        }),
      ),
    }))
    fc.assert(
      fc.property(anyTree, (item) => {
        tryParse(encode(item))
      }),
      runs,
    )
  })

  it('for certificates that are cut at any byte, which it refuses', () => {
    for (const der of real) {
      for (let length = 0; length < der.length; length += 1) {
        assert.equal(tryParse(der.subarray(0, length)), undefined, `cut to ${length} bytes`)
      }
    }
  })

  it('for certificates with each byte set to eight values', () => {
    for (const der of real) {
      for (let at = 0; at < der.length; at += 1) {
        for (const value of [0x00, 0x1f, 0x30, 0x7f, 0x80, 0x84, 0xff, der[at]! ^ 0x01]) {
          const changed = Buffer.from(der)
          changed[at] = value
          tryParse(changed)
        }
      }
    }
  })

  it('for certificates with changed, inserted, and removed bytes', () => {
    const edits = fc.array(
      fc.record({
        at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        removed: fc.integer({ min: 0, max: 4 }),
        inserted: fc.uint8Array({ maxLength: 4 }),
      }),
      { minLength: 1, maxLength: 4 },
    )
    fc.assert(
      fc.property(fc.constantFrom(...real), edits, (der, changes) => {
        const bytes = [...der]
        for (const { at, removed, inserted } of changes)
          bytes.splice(Math.floor(at * bytes.length), removed, ...inserted)
        const changed = Buffer.from(bytes)
        const found = tryParse(changed)
        if (found === undefined || changed.equals(der)) return
        // If OpenSSL accepts the bytes, it must read the same serial number.
        const openssl = opensslSerial(changed)
        if (openssl !== undefined) assert.equal(found.serialNumber, openssl)
      }),
      { ...runs, numRuns: 5000 },
    )
  })

  it('for 100 KiB of hostile structure, in time', () => {
    const wide = tlv(
      TAG.sequence,
      Array.from({ length: 50_000 }, () => tlv(TAG.null, '')),
    )
    const deep = encode(nested(15))
    const many = tlv(
      TAG.sequence,
      Array.from({ length: Math.floor((90 * 1024) / deep.length) }, () => nested(13)),
    )
    const start = performance.now()
    for (const item of [wide, many]) tryParse(encode(item))
    // They take 100 ms; the bound allows for slow machines.
    assert.ok(performance.now() - start < 10_000)
  })
})

function opensslSerial(der: Buffer): string | undefined {
  try {
    return colons(new X509Certificate(der).serialNumber)
  } catch {
    return undefined
  }
}
