import assert from 'node:assert/strict'
import { createPrivateKey } from 'node:crypto'
import { describe, it } from 'node:test'
import { type ErrorCode, IdentityError } from '../../src/base/errors.js'
import { type Credentials, checkLeaf } from '../../src/identity/leaf.js'
import { type Roots, checkRoots } from '../../src/identity/roots.js'
import type { ExpectedIdentity } from '../../src/identity/verify.js'
import { type IssuedCertificate, TestCa, type TestCaOptions } from '../../src/testing/index.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const NOW = Date.UTC(2030, 0, 1)
const HOUR = 3_600_000
const newCa = (options: TestCaOptions = {}): TestCa =>
  TestCa.create({ trustDomain: TD, clock: () => NOW - HOUR, ...options })
const ca = newCa()
const other = newCa()

function rootsOf(...pems: string[]): Roots {
  const roots = pems.map((certificatePem, i) => ({
    id: `root-${i}`,
    name: '',
    certificatePem,
    active: i === 0,
  }))
  return checkRoots({ trustDomain: TD, activeRootId: 'root-0', roots })
}

interface Check {
  readonly expected?: ExpectedIdentity
  readonly roots?: Roots
  readonly now?: number
}

function check(
  { chainPem, privateKeyPem }: Pick<IssuedCertificate, 'chainPem' | 'privateKeyPem'>,
  { expected = { service: 'web' }, roots = rootsOf(ca.rootPem), now = NOW }: Check = {},
): Credentials {
  return checkLeaf({ chainPem, privateKeyPem }, expected, roots, now)
}

const good = ca.issue()
const anotherKey = ca.issue().privateKeyPem
const pem = (text: string): string => `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`

describe('checkLeaf: what it takes', () => {
  it('a leaf with its key, and gives what is in it', () => {
    const issued = ca.issue({
      serial: 0x80ffn,
      notBefore: new Date(NOW - HOUR),
      notAfter: new Date(NOW + HOUR),
    })
    const { leaf, privateKeyPem } = check(issued)
    assert.deepEqual(
      { ...leaf, id: { ...leaf.id } },
      {
        id: {
          kind: 'service',
          trustDomain: TD,
          partition: 'default',
          namespace: 'default',
          datacenter: 'dc1',
          service: 'web',
        },
        uri: `spiffe://${TD}/ns/default/dc/dc1/svc/web`,
        serialNumber: '80:ff',
        notBefore: new Date(NOW - HOUR),
        notAfter: new Date(NOW + HOUR),
        expiresAt: new Date(NOW + HOUR),
        chainPem: issued.chainPem,
      },
    )
    assert.equal(privateKeyPem, issued.privateKeyPem)
    // A leaf is public, and logged: the key is not part of it.
    assert.ok(!JSON.stringify(leaf).includes('PRIVATE KEY'))
  })

  const rotated = newCa()
  const crossSigned = ca.crossSign(rotated)
  const deep = ca.intermediate().intermediate()
  const cases: [
    rule: string,
    given: Pick<IssuedCertificate, 'chainPem' | 'privateKeyPem'>,
    options?: Check,
  ][] = [
    ['under either root of a rotation: the old', good, { roots: rootsOf(rotated.rootPem, ca.rootPem) }],
    [
      'under either root of a rotation: the new',
      rotated.issue(),
      { roots: rootsOf(ca.rootPem, rotated.rootPem) },
    ],
    ['under the old root by a cross-signed intermediate', rotated.issue({ intermediates: [crossSigned] })],
    ['under an intermediate of an intermediate', deep.issue()],
    [
      'with its intermediates in any order, and one that leads nowhere',
      deep.issue({ intermediates: [other.crossSign(newCa()), ...[...deep.intermediates].reverse()] }),
    ],
    ['with the root itself behind it', ca.issue({ intermediates: [ca.rootPem] })],
    ['with an odd name', ca.issue({ service: 'my ü/service' }), { expected: { service: 'my ü/service' } }],
    [
      'of our namespace',
      ca.issue({ namespace: 'n' }),
      { expected: { service: 'web', namespace: 'n', partition: 'default' } },
    ],
    ['of any namespace when none is set', ca.issue({ namespace: 'n' })],
    ['with text around its PEM', { ...good, chainPem: `the leaf:\n${good.chainPem}that was it\n` }],
    ['with a PKCS#8 key', { ...good, privateKeyPem: pkcs8(good.privateKeyPem) }],
    ['with 16 certificates', ca.issue({ intermediates: Array<string>(15).fill(ca.rootPem) })],
    ['until its last millisecond', ca.issue({ notAfter: new Date(NOW + 1000) }), { now: NOW + 999 }],
    ['from its first millisecond', ca.issue({ notBefore: new Date(NOW) }), { now: NOW }],
    ['without an extended key usage', ca.issue({ extendedKeyUsage: null })],
  ]
  for (const [rule, given, options] of cases) {
    it(rule, () => {
      assert.equal(check(given, options).leaf.id.kind, 'service')
    })
  }
})

describe('checkLeaf: what it refuses', () => {
  const [named, sameName] = [1, 2].map(() => newCa({ name: 'the same' })) as [TestCa, TestCa]
  const sameKey = newCa({ privateKeyPem: ca.privateKeyPem })
  const expired = TestCa.create({ trustDomain: TD, clock: () => NOW - 20 * 365 * 24 * HOUR })
  const cases: Record<
    string,
    [rule: string, given: Pick<IssuedCertificate, 'chainPem' | 'privateKeyPem'>, options?: Check][]
  > = {
    ERR_CONNECT_LEAF_MALFORMED: [
      ['no certificate', { ...good, chainPem: 'none' }],
      ['an empty chain', { ...good, chainPem: '' }],
      ['garbage in PEM', { ...good, chainPem: pem('AAAA') }],
      ['no base64 in PEM', { ...good, chainPem: pem('!!!!') }],
      ['half a certificate', { ...good, chainPem: good.chainPem.replace(/\n.{64}\n/, '\n') }],
      ['bytes that trail', ca.issue({ trailingBytes: Buffer.from([0, 0]) })],
      ['garbage behind the leaf', { ...good, chainPem: good.chainPem + pem('AAAA') }],
      ['17 certificates', ca.issue({ intermediates: Array<string>(16).fill(ca.rootPem) })],
      ['no key', { ...good, privateKeyPem: 'none' }],
      ['a public key', { ...good, privateKeyPem: good.certificatePem }],
      ['half a key', { ...good, privateKeyPem: good.privateKeyPem.replace(/\n.{20}/, '\n') }],
      ['two URIs', ca.issue({ uris: [`spiffe://${TD}/ns/default/dc/dc1/svc/web`, 'urn:a'] })],
      ['no URI', ca.issue({ uris: [] })],
      ['a signing identity', ca.issue({ uris: [`spiffe://${TD}`] })],
      ['a path of somebody else', ca.issue({ uris: [`spiffe://${TD}/web`] })],
      ['a CA', ca.issue({ isCa: true })],
      ['keyCertSign', ca.issue({ keyUsage: ['digitalSignature', 'keyCertSign'] })],
      ['no digitalSignature', ca.issue({ keyUsage: ['keyAgreement'] })],
      ['clientAuth alone', ca.issue({ extendedKeyUsage: ['clientAuth'] })],
      ['version 1', ca.issue({ version: 1 })],
      ['not valid yet, by a millisecond', ca.issue({ notBefore: new Date(NOW) }), { now: NOW - 1 }],
    ],
    ERR_CONNECT_LEAF_KEY: [["somebody else's key", { ...good, privateKeyPem: anotherKey }]],
    ERR_CONNECT_LEAF_SERVICE: [
      ['another service', ca.issue({ service: 'db' })],
      ['another namespace', good, { expected: { service: 'web', namespace: 'n' } }],
      ['another partition', good, { expected: { service: 'web', partition: 'p' } }],
      ['another trust domain', ca.issue({ trustDomain: 'other.consul' })],
      ['an agent', ca.issue({ uris: [`spiffe://${TD}/agent/client/dc/dc1/id/web`] })],
    ],
    ERR_CONNECT_LEAF_EXPIRED: [
      ['long ago', ca.issue({ notBefore: new Date(NOW - 2 * HOUR), notAfter: new Date(NOW - HOUR) })],
      ['in this millisecond', ca.issue({ notAfter: new Date(NOW) })],
    ],
    ERR_CONNECT_LEAF_UNTRUSTED: [
      ['another root, of the same trust domain', other.issue()],
      ['its own signature', ca.issue({ selfSigned: true })],
      ['an intermediate that does not come with it', ca.intermediate().issue({ intermediates: [] })],
      ['an intermediate of another root', other.intermediate().issue()],
      ['the wrong intermediate', ca.intermediate().issue({ intermediates: ca.intermediate().intermediates })],
      ['a root of the same key and another name', good, { roots: rootsOf(sameKey.rootPem) }],
      [
        'a root of the same name and another key',
        sameName.issue({ authorityKeyId: null }),
        { roots: rootsOf(named.rootPem) },
      ],
      // A leaf must not vouch for a leaf.
      ['a leaf as its intermediate', signedByLeaf()],
      [
        'a root that has expired',
        expired.issue({ notBefore: new Date(NOW - HOUR) }),
        { roots: rootsOf(expired.rootPem) },
      ],
      ['a root that is not valid yet', good, { now: NOW - HOUR - 1000 }],
      [
        'an intermediate that has expired',
        ca.intermediate().issue({ notAfter: new Date(NOW + 300 * 24 * HOUR) }),
        { now: NOW + 8 * 24 * HOUR },
      ],
    ],
  }
  for (const [code, certificates] of Object.entries(cases)) {
    it(code, () => {
      const found = certificates.map(([rule, given, options]) => [rule, verdict(given, options)])
      assert.deepEqual(
        found,
        certificates.map(([rule]) => [rule, code]),
      )
    })
  }

  it('an error says which service and why, and shows neither key nor certificate', () => {
    const given = { chainPem: ca.issue({ service: 'db' }).chainPem, privateKeyPem: anotherKey }
    for (const bad of [
      { ...good, privateKeyPem: anotherKey },
      { ...good, privateKeyPem: 'hunter2' },
      given,
    ]) {
      assert.throws(
        () => check(bad),
        (error: IdentityError) => {
          assert.match(error.message, /certificate of web/)
          const shown = `${error.message} ${String(error.cause)} ${JSON.stringify(error)}`
          for (const secret of ['hunter2', 'PRIVATE KEY', bad.privateKeyPem.slice(40, 80) || 'PRIVATE KEY'])
            assert.ok(!shown.includes(secret), secret)
          return true
        },
      )
    }
  })
})

function verdict(
  given: Pick<IssuedCertificate, 'chainPem' | 'privateKeyPem'>,
  options?: Check,
): ErrorCode | 'accepted' {
  try {
    check(given, options)
    return 'accepted'
  } catch (error) {
    assert.ok(error instanceof IdentityError, `threw ${String(error)}`)
    return error.code
  }
}

/** A leaf whose issuer is itself a leaf of the mesh, which comes along as its intermediate. */
function signedByLeaf(): IssuedCertificate {
  // Without a key usage that forbids it to sign: what is left is that it is no CA.
  const issuer = ca.issue({ service: 'db', keyUsage: null })
  const name = /CN=(.*)/.exec(issuer.certificate.subject)![1]!
  const impostor = TestCa.create({
    trustDomain: TD,
    name,
    privateKeyPem: issuer.privateKeyPem,
    clock: () => NOW - HOUR,
  })
  return impostor.issue({ intermediates: [issuer.certificatePem] })
}

function pkcs8(sec1: string): string {
  return createPrivateKey(sec1).export({ type: 'pkcs8', format: 'pem' }).toString()
}
