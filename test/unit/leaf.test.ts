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
const otherCa = newCa()

function rootsOf(...pems: string[]): Roots {
  const roots = pems.map((certificatePem, i) => ({ id: `root-${i}`, certificatePem, active: i === 0 }))
  return checkRoots({ trustDomain: TD, activeRootId: 'root-0', roots })
}

type Material = Pick<IssuedCertificate, 'chainPem' | 'privateKeyPem'>

interface Check {
  readonly expected?: ExpectedIdentity
  readonly roots?: Roots
  readonly now?: number
}

function check(
  { chainPem, privateKeyPem }: Material,
  { expected = { service: 'web' }, roots = rootsOf(ca.rootPem), now = NOW }: Check = {},
): Credentials {
  return checkLeaf({ chainPem, privateKeyPem }, expected, roots, now)
}

const valid = ca.issue()
const anotherKey = ca.issue().privateKeyPem
/** A certificate in DER with trailing bytes. */
const padded = Buffer.concat([valid.certificate.raw, Buffer.alloc(2)])
const pem = (text: string): string => `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`

describe('checkLeaf', () => {
  it('returns the contents of a leaf, and its key', () => {
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
    // A leaf is logged.
    assert.ok(!JSON.stringify(leaf).includes('PRIVATE KEY'))
  })

  const rotated = newCa()
  const crossSigned = ca.crossSign(rotated)
  const deep = ca.intermediate().intermediate()
  const cases: [rule: string, material: Material, options?: Check][] = [
    ['a leaf of the old root of a rotation', valid, { roots: rootsOf(rotated.rootPem, ca.rootPem) }],
    [
      'a leaf of the new root of a rotation',
      rotated.issue(),
      { roots: rootsOf(ca.rootPem, rotated.rootPem) },
    ],
    ['a cross-signed intermediate under the old root', rotated.issue({ intermediates: [crossSigned] })],
    ['an intermediate of an intermediate', deep.issue()],
    [
      'intermediates in any order, and one that leads to no root',
      deep.issue({ intermediates: [otherCa.crossSign(newCa()), ...[...deep.intermediates].reverse()] }),
    ],
    ['the root in the chain', ca.issue({ intermediates: [ca.rootPem] })],
    [
      'a name that needs percent-encoding',
      ca.issue({ service: 'my ü/service' }),
      { expected: { service: 'my ü/service' } },
    ],
    [
      'a leaf of the expected namespace',
      ca.issue({ namespace: 'n' }),
      { expected: { service: 'web', namespace: 'n', partition: 'default' } },
    ],
    ['a leaf of any namespace if none is expected', ca.issue({ namespace: 'n' })],
    ['text around the PEM', { ...valid, chainPem: `a leaf:\n${valid.chainPem}the end\n` }],
    ['a PKCS#8 key', { ...valid, privateKeyPem: pkcs8(valid.privateKeyPem) }],
    ['a chain of 16 certificates', ca.issue({ intermediates: Array<string>(15).fill(ca.rootPem) })],
    ['a leaf in its last millisecond', ca.issue({ notAfter: new Date(NOW + 1000) }), { now: NOW + 999 }],
    ['a leaf in its first millisecond', ca.issue({ notBefore: new Date(NOW) }), { now: NOW }],
    ['a leaf without an extended key usage', ca.issue({ extendedKeyUsage: null })],
  ]
  for (const [rule, material, options] of cases) {
    it(`accepts ${rule}`, () => {
      assert.equal(check(material, options).leaf.id.kind, 'service')
    })
  }

  const [named, sameName] = [1, 2].map(() => newCa({ name: 'the same' })) as [TestCa, TestCa]
  const sameKey = newCa({ privateKeyPem: ca.privateKeyPem })
  const expired = TestCa.create({ trustDomain: TD, clock: () => NOW - 20 * 365 * 24 * HOUR })
  const refused: Record<string, [rule: string, material: Material, options?: Check][]> = {
    ERR_CONNECT_LEAF_MALFORMED: [
      ['no certificate', { ...valid, chainPem: 'none' }],
      ['an empty chain', { ...valid, chainPem: '' }],
      ['garbage in PEM', { ...valid, chainPem: pem('AAAA') }],
      ['PEM that is not base64', { ...valid, chainPem: pem('!!!!') }],
      ['half a certificate', { ...valid, chainPem: valid.chainPem.replace(/\n.{64}\n/, '\n') }],
      ['trailing bytes', { ...valid, chainPem: pem(padded.toString('base64').replace(/.{64}/g, '$&\n')) }],
      ['garbage after the leaf', { ...valid, chainPem: valid.chainPem + pem('AAAA') }],
      ['17 certificates', ca.issue({ intermediates: Array<string>(16).fill(ca.rootPem) })],
      ['no key', { ...valid, privateKeyPem: 'none' }],
      ['a public key', { ...valid, privateKeyPem: valid.certificatePem }],
      ['half a key', { ...valid, privateKeyPem: valid.privateKeyPem.replace(/\n.{20}/, '\n') }],
      ['two URIs', ca.issue({ uris: [`spiffe://${TD}/ns/default/dc/dc1/svc/web`, 'urn:a'] })],
      ['no URI', ca.issue({ uris: [] })],
      ['a signing identity', ca.issue({ uris: [`spiffe://${TD}`] })],
      ['a path that is not of Consul', ca.issue({ uris: [`spiffe://${TD}/web`] })],
      ['a CA', ca.issue({ isCa: true })],
      ['keyCertSign', ca.issue({ keyUsage: ['digitalSignature', 'keyCertSign'] })],
      ['no digitalSignature', ca.issue({ keyUsage: ['keyAgreement'] })],
      ['clientAuth alone', ca.issue({ extendedKeyUsage: ['clientAuth'] })],
      ['version 1', ca.issue({ version: 1 })],
      ['not valid yet, by a millisecond', ca.issue({ notBefore: new Date(NOW) }), { now: NOW - 1 }],
    ],
    ERR_CONNECT_LEAF_KEY: [['the key of another leaf', { ...valid, privateKeyPem: anotherKey }]],
    ERR_CONNECT_LEAF_SERVICE: [
      ['another service', ca.issue({ service: 'db' })],
      ['another namespace', valid, { expected: { service: 'web', namespace: 'n' } }],
      ['another partition', valid, { expected: { service: 'web', partition: 'p' } }],
      ['another trust domain', ca.issue({ trustDomain: 'other.consul' })],
      ['an agent', ca.issue({ uris: [`spiffe://${TD}/agent/client/dc/dc1/id/web`] })],
    ],
    ERR_CONNECT_LEAF_EXPIRED: [
      ['an expired leaf', ca.issue({ notBefore: new Date(NOW - 2 * HOUR), notAfter: new Date(NOW - HOUR) })],
      ['a leaf that expires in this millisecond', ca.issue({ notAfter: new Date(NOW) })],
    ],
    ERR_CONNECT_LEAF_UNTRUSTED: [
      ['another root of the same trust domain', otherCa.issue()],
      ['a self-signed leaf', ca.issue({ selfSigned: true })],
      ['a missing intermediate', ca.intermediate().issue({ intermediates: [] })],
      ['an intermediate of another root', otherCa.intermediate().issue()],
      ['the wrong intermediate', ca.intermediate().issue({ intermediates: ca.intermediate().intermediates })],
      ['a root with the same key and another name', valid, { roots: rootsOf(sameKey.rootPem) }],
      [
        'a root with the same name and another key',
        sameName.issue({ authorityKeyId: null }),
        { roots: rootsOf(named.rootPem) },
      ],
      ['a leaf as an intermediate', signedByLeaf()],
      [
        'a root that has expired',
        expired.issue({ notBefore: new Date(NOW - HOUR) }),
        { roots: rootsOf(expired.rootPem) },
      ],
      ['a root that is not valid yet', valid, { now: NOW - HOUR - 1000 }],
      [
        'an intermediate that has expired',
        ca.intermediate().issue({ notAfter: new Date(NOW + 300 * 24 * HOUR) }),
        { now: NOW + 8 * 24 * HOUR },
      ],
    ],
  }
  for (const [code, certificates] of Object.entries(refused)) {
    it(`refuses certificates with ${code}`, () => {
      const found = certificates.map(([rule, material, options]) => [rule, verdict(material, options)])
      assert.deepEqual(
        found,
        certificates.map(([rule]) => [rule, code]),
      )
    })
  }

  it('names the service in the error, and reveals neither the key nor the certificate', () => {
    for (const bad of [
      { ...valid, privateKeyPem: anotherKey },
      { ...valid, privateKeyPem: 'hunter2' },
      { chainPem: ca.issue({ service: 'db' }).chainPem, privateKeyPem: anotherKey },
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

function verdict(material: Material, options?: Check): ErrorCode | 'accepted' {
  try {
    check(material, options)
    return 'accepted'
  } catch (error) {
    assert.ok(error instanceof IdentityError, `threw ${String(error)}`)
    return error.code
  }
}

/** A leaf that is issued by another leaf, which is in its chain. */
function signedByLeaf(): IssuedCertificate {
  // Without a key usage, only the missing CA flag forbids the issuer to sign.
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
