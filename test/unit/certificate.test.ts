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

/** Undefined when the bytes are refused as they should be; anything else that is thrown fails the test. */
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

describe('parseCertificate: real certificates', () => {
  const KEY_USAGE = ['digitalSignature', 'keyEncipherment', 'dataEncipherment', 'keyAgreement']

  it("reads Consul's own leaf", () => {
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

  it("gives the URI of Consul's odd names as it stands", () => {
    const { uris } = parseCertificate(new X509Certificate(CONSUL_ODD_LEAF_PEM).raw)
    assert.deepEqual(uris, [
      `spiffe://${CONSUL_ROOTS.TrustDomain}/ns/default/dc/dc1/svc/my%20%C3%BC%20service`,
    ])
  })

  it("reads Consul's own root", () => {
    const root = parseCertificate(new X509Certificate(CONSUL_ROOTS.Roots[0]!.RootCert).raw)
    assert.equal(root.isCa, true)
    assert.deepEqual([...(root.keyUsage ?? [])], ['digitalSignature', 'keyCertSign', 'cRLSign'])
    assert.equal(root.extendedKeyUsage, undefined)
    assert.deepEqual(root.uris, [`spiffe://${CONSUL_ROOTS.TrustDomain}`])
  })

  it('reads the bytes of a view, and only those', () => {
    const { raw } = new X509Certificate(CONSUL_LEAF.CertPEM)
    const around = Buffer.concat([Buffer.alloc(7, 0x30), raw, Buffer.alloc(5)])
    const view = new Uint8Array(around.buffer, around.byteOffset + 7, raw.length)
    assert.deepEqual(parseCertificate(view).uris, [CONSUL_LEAF.ServiceURI])
  })
})

describe('parseCertificate: what it reads', () => {
  it('every URI among the names, of any scheme, in order; no other name', () => {
    const cases: [options: IssueOptions, uris: string[]][] = [
      [{}, [WEB]],
      [{ uris: [] }, []],
      [{ uris: [], dnsNames: ['web.example'] }, []],
      [{ uris: [WEB], dnsNames: ['spiffe://dns'], ips: ['10.0.0.1'] }, [WEB]],
      [{ uris: [WEB, 'https://example.com/'] }, [WEB, 'https://example.com/']],
      [{ uris: ['urn:b', 'urn:a', 'urn:b'] }, ['urn:b', 'urn:a', 'urn:b']],
      // CVE-2021-44532: a name that would be read as two in the text form.
      [{ uris: [`${WEB}, URI:spiffe://evil`] }, [`${WEB}, URI:spiffe://evil`]],
      [{ uris: [], dnsNames: [`a, URI:${WEB}`] }, []],
      [{ uris: [''] }, ['']],
      [{ uris: [`${WEB}\0`] }, [`${WEB}\0`]],
    ]
    for (const [options, uris] of cases) assert.deepEqual(facts(options).uris, uris, JSON.stringify(options))
  })

  it('whether it is a CA: absent and false are no, any true is yes', () => {
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
      ['true as BER has it', basicConstraints(tlv(TAG.boolean, '\x01')), true],
      ['an explicit false', basicConstraints(tlv(TAG.boolean, '\x00')), false],
      ['a path length alone', basicConstraints(pathLength), false],
    ]
    for (const [rule, options, isCa] of cases) assert.equal(facts(options).isCa, isCa, rule)
  })

  it('each key usage bit by its name, alone and all together', () => {
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

  it('the extended key usages, known or not', () => {
    const read = (options: IssueOptions): unknown => {
      const { extendedKeyUsage } = facts(options)
      return extendedKeyUsage && [...extendedKeyUsage]
    }
    assert.equal(read({ extendedKeyUsage: null }), undefined)
    assert.deepEqual(read({ extendedKeyUsage: ['serverAuth'] }), [SERVER_AUTH])
    assert.deepEqual(read({ extendedKeyUsage: ['clientAuth', '1.2.3.4'] }), [CLIENT_AUTH, '1.2.3.4'])
  })

  it('the serial number as Consul writes it, which is as OpenSSL counts', () => {
    const serials: [serial: bigint, text: string][] = [
      [0n, '00'],
      [1n, '01'],
      [0x7fn, '7f'],
      // A sign byte goes before these two.
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

// The tree of a leaf without extensions that do not matter here: those of TestCa, in its order.
const tree = decode(ca.issue({ serial: 5n }).certificate.raw)
const TBS = 0
const EXTENSIONS = [TBS, 7, 0]
const [KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, SUBJECT_ALT_NAME] = [0, 1, 2, 5]
const constraints = parts(parts(parts(parts(parts(tree)[TBS]!)[7]!)[0]!)[BASIC_CONSTRAINTS]!)
const ANY_OID = tlv(TAG.oid, '\x2a\x03\x04')

/** The leaf with the value of one extension replaced. */
function withValue(index: number, value: Buffer): Buffer {
  const extensionParts = parts(parts(parts(parts(parts(tree)[TBS]!)[7]!)[0]!)[index]!)
  return encode(
    edit(tree, [...EXTENSIONS, index, extensionParts.length - 1], () => tlv(TAG.octetString, value)),
  )
}

/** The leaf with other alternative names. */
function withNames(...names: Tlv[]): Buffer {
  return withValue(SUBJECT_ALT_NAME, encode(tlv(TAG.sequence, names)))
}

function nested(depth: number): Tlv {
  let bytes = encode(tlv(TAG.null, ''))
  for (let i = 1; i < depth; i += 1) bytes = encode(tlv(TAG.sequence, bytes))
  return tlv(TAG.sequence, bytes)
}

describe('parseCertificate: what it refuses', () => {
  it('reads the tree that the cases below bend', () => {
    assert.deepEqual(tryParse(encode(tree))?.uris, [WEB])
    assert.deepEqual(tryParse(withNames(tlv(TAG.implicit(6), 'urn:a')))?.uris, ['urn:a'])
    assert.equal(tryParse(withValue(BASIC_CONSTRAINTS, Buffer.from('3000', 'hex')))?.isCa, false)
  })

  const whole = encode(tree)
  const uri = tlv(TAG.implicit(6), WEB)
  const again = (index: number): Buffer => {
    const copied = parts(parts(parts(parts(tree)[TBS]!)[7]!)[0]!)[index]!
    return encode(append(tree, EXTENSIONS, copied))
  }
  const change = (path: readonly number[], part: Tlv | undefined): Buffer =>
    encode(edit(tree, path, () => part))

  const cases: Record<string, Record<string, Uint8Array>> = {
    'bytes that are no certificate': {
      nothing: Buffer.alloc(0),
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
    'bytes that trail': {
      'one zero': Buffer.concat([whole, Buffer.alloc(1)]),
      'a null': Buffer.concat([whole, encode(tlv(TAG.null, ''))]),
      'a second certificate': Buffer.concat([whole, whole]),
      'as a fourth part': encode(append(tree, [], tlv(TAG.null, ''))),
      'in an extension': withValue(BASIC_CONSTRAINTS, Buffer.from('300000', 'hex')),
      'in the names': withValue(
        SUBJECT_ALT_NAME,
        Buffer.concat([encode(tlv(TAG.sequence, [uri])), encode(tlv(TAG.sequence, [uri]))]),
      ),
    },
    'BER that is not DER': {
      'an indefinite length': encode({ ...tree, length: 'indefinite' }),
      'an indefinite length inside': encode(edit(tree, [TBS], (tbs) => ({ ...tbs, length: 'indefinite' }))),
      'a long form for a short length': encode(
        edit(tree, [TBS, 1], (serial) => ({ ...serial, length: 'long' })),
      ),
      'a length with a leading zero': encode({ ...tree, length: 'long' }),
      'an indefinite length in an extension': withValue(
        SUBJECT_ALT_NAME,
        encode(tlv(TAG.sequence, [uri], 'indefinite')),
      ),
      'a long length in an extension': withValue(SUBJECT_ALT_NAME, encode(tlv(TAG.sequence, [uri], 'long'))),
      'an integer with a needless zero': change([TBS, 1], tlv(TAG.integer, '\x00\x05')),
      'a constructed octet string': encode(
        edit(tree, [...EXTENSIONS, BASIC_CONSTRAINTS, 2], (value) => tlv(0x24, [value])),
      ),
      'a constructed URI': withNames(tlv(TAG.explicit(6), [tlv(TAG.ia5String, WEB)])),
    },
    'another version': {
      'version 1, by option': ca.issue({ version: 1 }).certificate.raw,
      'version 1, spelled out': change([TBS, 0, 0], tlv(TAG.integer, '\x00')),
      'version 2': change([TBS, 0, 0], tlv(TAG.integer, '\x01')),
      'version 4': change([TBS, 0, 0], tlv(TAG.integer, '\x03')),
      none: change([TBS, 0], undefined),
      'of another type': change([TBS, 0, 0], tlv(TAG.octetString, '\x02')),
      'under another tag': change([TBS, 0], tlv(TAG.explicit(1), [tlv(TAG.integer, '\x02')])),
      'without content': change([TBS, 0], tlv(TAG.explicit(0), [])),
    },
    'another shape': {
      'no signature': change([2], undefined),
      'no algorithm and no signature': encode({ ...tree, value: parts(tree).slice(0, 1) }),
      'too few fields': encode({
        ...tree,
        value: [{ ...parts(tree)[0]!, value: parts(parts(tree)[0]!).slice(0, 6) }, ...parts(tree).slice(1)],
      }),
      'too many fields': encode(
        [8, 9, 10].reduce((item) => append(item, [TBS], tlv(TAG.implicit(2), '')), tree),
      ),
      'a serial number that is none': change([TBS, 1], tlv(TAG.octetString, '\x05')),
      'extensions that are not one list': encode(append(tree, [TBS, 7], tlv(TAG.sequence, []))),
      'an empty list of extensions': change(EXTENSIONS, tlv(TAG.sequence, [])),
      'a set of extensions': encode(edit(tree, EXTENSIONS, (list) => ({ ...list, tag: TAG.set }))),
      'extensions without content': change([TBS, 7], tlv(TAG.explicit(3), [])),
      'extensions that are bytes': change([TBS, 7], tlv(TAG.implicit(3), '')),
    },
    'what a lenient reader would pass over': {
      'a serial number without content': change([TBS, 1], tlv(TAG.integer, '')),
      'the extensions twice': encode(append(tree, [TBS], parts(parts(tree)[TBS]!)[7]!)),
      'a field that X.509 does not have': encode(append(tree, [TBS], tlv(TAG.null, ''))),
      'a criticality that is no boolean': change(
        [...EXTENSIONS, BASIC_CONSTRAINTS, 1],
        tlv(TAG.integer, '\x01'),
      ),
    },
    'an extension that is none': {
      'a number': encode(append(tree, EXTENSIONS, tlv(TAG.integer, '\x01'))),
      'without a value': change(
        [...EXTENSIONS, BASIC_CONSTRAINTS],
        tlv(TAG.sequence, constraints.slice(0, 1)),
      ),
      'with a fourth part': encode(
        append(tree, [...EXTENSIONS, BASIC_CONSTRAINTS], tlv(TAG.octetString, '\x30\x00')),
      ),
      'whose name is no identifier': change([...EXTENSIONS, BASIC_CONSTRAINTS, 0], tlv(TAG.integer, '\x01')),
      'whose value is a bit string': change(
        [...EXTENSIONS, BASIC_CONSTRAINTS, 2],
        tlv(TAG.bitString, '\x00'),
      ),
      'the sixty-fifth': encode(
        Array.from({ length: 60 }).reduce<Tlv>(
          (item, _, i) =>
            append(
              item,
              EXTENSIONS,
              tlv(TAG.sequence, [
                tlv(TAG.oid, `\x2a\x03${String.fromCharCode(i)}`),
                tlv(TAG.octetString, ''),
              ]),
            ),
          tree,
        ),
      ),
    },
    'an extension that is there twice': {
      'alternative names': again(SUBJECT_ALT_NAME),
      'other alternative names': ca.issue({
        extraExtensions: [extension.subjectAltName({ uris: [`${WEB}-2`] })],
      }).certificate.raw,
      'basic constraints': again(BASIC_CONSTRAINTS),
      'key usage': again(KEY_USAGE),
      'extended key usage': again(EXTENDED_KEY_USAGE),
      'one that nobody reads': encode(
        [0, 1].reduce(
          (item) => append(item, EXTENSIONS, tlv(TAG.sequence, [ANY_OID, tlv(TAG.octetString, '')])),
          tree,
        ),
      ),
    },
    'an extension whose value is malformed': {
      'names: no bytes': withValue(SUBJECT_ALT_NAME, Buffer.alloc(0)),
      'names: a string': withValue(SUBJECT_ALT_NAME, encode(uri)),
      'names: a set': withValue(SUBJECT_ALT_NAME, encode(tlv(TAG.set, [uri]))),
      'names: 1025 of them': withNames(...Array.from({ length: 1025 }, () => tlv(TAG.implicit(2), 'a'))),
      'names: a URI in UTF-8': withNames(tlv(TAG.implicit(6), Buffer.from('spiffe://ü'))),
      'names: a URI in Latin-1': withNames(tlv(TAG.implicit(6), '\xfc')),
      'constraints: a boolean alone': withValue(BASIC_CONSTRAINTS, Buffer.from('0101ff', 'hex')),
      'constraints: text': withValue(
        BASIC_CONSTRAINTS,
        encode(tlv(TAG.sequence, [tlv(TAG.ia5String, 'yes')])),
      ),
      'constraints: three parts': withValue(
        BASIC_CONSTRAINTS,
        encode(
          tlv(TAG.sequence, [tlv(TAG.boolean, '\xff'), tlv(TAG.integer, '\x00'), tlv(TAG.integer, '\x00')]),
        ),
      ),
      'key usage: an octet string': withValue(KEY_USAGE, encode(tlv(TAG.octetString, '\x03\xb8'))),
      'key usage: no content': withValue(KEY_USAGE, encode(tlv(TAG.bitString, ''))),
      'key usage: eight unused bits': withValue(KEY_USAGE, encode(tlv(TAG.bitString, '\x08\xb8'))),
      'extended key usage: none': withValue(EXTENDED_KEY_USAGE, encode(tlv(TAG.sequence, []))),
      'extended key usage: an identifier alone': withValue(EXTENDED_KEY_USAGE, encode(ANY_OID)),
      'extended key usage: text': withValue(
        EXTENDED_KEY_USAGE,
        encode(tlv(TAG.sequence, [tlv(TAG.ia5String, 'serverAuth')])),
      ),
    },
    'more than a certificate has': {
      'nested deeper than any': encode(append(tree, [], nested(20))),
      'nested deeper than any, where nobody reads': change([TBS, 3], nested(20)),
      'nested without end': encode(nested(10_000)),
      'nested in an extension': withValue(BASIC_CONSTRAINTS, encode(nested(20))),
      'more than 100 KiB': ca.issue({
        extraExtensions: [{ oid: '1.2.3.4', value: Buffer.alloc(100 * 1024) }],
      }).certificate.raw,
    },
  }
  for (const [rule, certificates] of Object.entries(cases)) {
    it(rule, () => {
      const accepted = Object.entries(certificates).filter(([, der]) => tryParse(der) !== undefined)
      assert.deepEqual(
        accepted.map(([name]) => name),
        [],
      )
    })
  }

  it('and takes what is unusual and allowed', () => {
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
      ['nearly 100 KiB', big.certificate.raw],
      ['a name that is nested deeply', change([TBS, 3], nested(12))],
      ['unique identifiers of issuer and subject', encode(unique)],
      [
        'an extension that nobody reads, of any content',
        ca.issue({ extraExtensions: [{ oid: '1.2.3.4', critical: true, value: Buffer.from('?') }] })
          .certificate.raw,
      ],
      ['1024 names', withNames(uri, ...Array.from({ length: 1023 }, () => tlv(TAG.implicit(2), 'a')))],
    ]
    for (const [rule, der] of cases) assert.deepEqual(tryParse(der)?.uris, [WEB], rule)
  })

  it('no extensions at all: no URI, no CA, no usage', () => {
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

  it('tells why in the cause, and nothing of the bytes in the message', () => {
    assert.throws(
      () => parseCertificate(Buffer.from('secret')),
      (error: ConnectError) => error.cause instanceof Error && !error.message.includes('secret'),
    )
  })
})

describe('parseCertificate: a result or its one error, whatever the bytes', () => {
  const runs = { seed: 20260101, numRuns: 2000 }
  // Fixed bytes, so that every run tries the same.
  const real = [CONSUL_LEAF.CertPEM, CONSUL_ODD_LEAF_PEM, CONSUL_ROOTS.Roots[0]!.RootCert].map(
    (pem) => new X509Certificate(pem).raw,
  )

  it('arbitrary bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 512 }), (bytes) => {
        tryParse(bytes)
      }),
      runs,
    )
  })

  it('arbitrary trees of DER', () => {
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

  it('a real certificate, cut anywhere, is refused', () => {
    for (const der of real) {
      for (let length = 0; length < der.length; length += 1) {
        assert.equal(tryParse(der.subarray(0, length)), undefined, `cut to ${length} bytes`)
      }
    }
  })

  it('real certificates with every byte set to a few values', () => {
    for (const der of real) {
      for (let at = 0; at < der.length; at += 1) {
        for (const value of [0x00, 0x1f, 0x30, 0x7f, 0x80, 0x84, 0xff, der[at]! ^ 0x01]) {
          const bent = Buffer.from(der)
          bent[at] = value
          tryParse(bent)
        }
      }
    }
  })

  it('real certificates with random bytes changed, put in and taken out', () => {
    const edits = fc.array(
      fc.record({
        at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        taken: fc.integer({ min: 0, max: 4 }),
        put: fc.uint8Array({ maxLength: 4 }),
      }),
      { minLength: 1, maxLength: 4 },
    )
    fc.assert(
      fc.property(fc.constantFrom(...real), edits, (der, changes) => {
        const bytes = [...der]
        for (const { at, taken, put } of changes) bytes.splice(Math.floor(at * bytes.length), taken, ...put)
        const bent = Buffer.from(bytes)
        const found = tryParse(bent)
        if (found === undefined || bent.equals(der)) return
        // What OpenSSL reads too must be the same certificate to both.
        const openssl = opensslSerial(bent)
        if (openssl !== undefined) assert.equal(found.serialNumber, openssl)
      }),
      { ...runs, numRuns: 5000 },
    )
  })

  it('a hundred kilobytes of hostile structure take no noticeable time', () => {
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
    // A bound for slow machines: these take some 100 ms.
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
