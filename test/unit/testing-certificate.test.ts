import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { describe, it } from 'node:test'
import forge from 'node-forge'
import { extension, TestCa, type IssuedCertificate, type IssueOptions } from '../../src/testing/index.js'

const { asn1 } = forge
const trustDomain = '11111111-2222-3333-4444-555555555555.consul'
const ca = TestCa.create({ trustDomain })

const oids = {
  keyUsage: '2.5.29.15',
  san: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  aki: '2.5.29.35',
  eku: '2.5.29.37',
}

interface Facts {
  version: number
  /** The extensions in order, with their values in hexadecimal. */
  extensions: [oid: string, value: string][]
}

/** Parses the certificate independently of the code that created it. */
function read(certificate: X509Certificate): Facts {
  const parts = children(children(asn1.fromDer(certificate.raw.toString('latin1')))[0])
  const tagged = (tag: number) =>
    parts.find((part) => part.tagClass === asn1.Class.CONTEXT_SPECIFIC && part.type.valueOf() === tag)
  const version = tagged(0)
  const extensions = tagged(3)
  return {
    version: version ? Number.parseInt(forge.util.bytesToHex(bytes(children(version)[0])), 16) + 1 : 1,
    extensions: children(children(extensions)[0]).map((item) => {
      const fields = children(item)
      return [asn1.derToOid(bytes(fields[0])), forge.util.bytesToHex(bytes(fields.at(-1)))]
    }),
  }
}

function children(node: forge.asn1.Asn1 | undefined): forge.asn1.Asn1[] {
  return Array.isArray(node?.value) ? node.value : []
}

function bytes(node: forge.asn1.Asn1 | undefined): string {
  return typeof node?.value === 'string' ? node.value : ''
}

function valuesOf(issued: IssuedCertificate, oid: string): string[] {
  return read(issued.certificate).extensions.flatMap(([name, value]) => (name === oid ? [value] : []))
}

void describe('a leaf without options', () => {
  const leaf = ca.issue()

  it('has the names, usages, and key IDs of a leaf of Consul', () => {
    assert.equal(leaf.certificate.subject, 'CN=web.svc.default.11111111.consul')
    assert.equal(leaf.certificate.subjectAltName, `URI:spiffe://${trustDomain}/ns/default/dc/dc1/svc/web`)
    assert.deepEqual(
      read(leaf.certificate).extensions.map(([oid]) => oid),
      [oids.keyUsage, oids.eku, oids.basicConstraints, '2.5.29.14', oids.aki, oids.san],
    )
    assert.deepEqual(valuesOf(leaf, oids.keyUsage), ['030203b8'])
    assert.deepEqual(leaf.certificate.keyUsage, ['1.3.6.1.5.5.7.3.2', '1.3.6.1.5.5.7.3.1'])
    assert.equal(leaf.certificate.ca, false)
    assert.deepEqual(valuesOf(leaf, oids.aki), [`30228020${ca.keyId.toString('hex')}`])
  })

  it('is valid for 72 hours from a minute ago, and has a SEC1 key', () => {
    const { validFrom, validTo } = leaf.certificate
    const age = Date.now() - Date.parse(validFrom)
    assert.ok(age >= 60_000 && age < 120_000, `age ${age}`)
    assert.equal(Date.parse(validTo) - Date.parse(validFrom), 72 * 3_600_000)
    assert.match(leaf.privateKeyPem, /^-----BEGIN EC PRIVATE KEY-----\n/)
    assert.ok(leaf.certificate.checkPrivateKey(createPrivateKey(leaf.privateKeyPem)))
  })

  it('is signed by a self-signed root', () => {
    assert.ok(leaf.certificate.checkIssued(ca.root))
    assert.ok(leaf.certificate.verify(ca.root.publicKey))
    assert.ok(ca.root.checkIssued(ca.root))
    assert.ok(ca.root.verify(ca.root.publicKey))
    assert.equal(ca.root.ca, true)
    assert.equal(ca.root.subjectAltName, `URI:spiffe://${trustDomain}`)
    assert.equal(leaf.chainPem, leaf.certificatePem)
  })
})

void describe('an invalid leaf contains', () => {
  const uri = `spiffe://${trustDomain}/ns/default/dc/dc1/svc/web`
  const uris: Record<string, readonly string[]> = {
    'no URI': [],
    'two URIs': [uri, `${uri}2`],
    'another scheme': [uri.replace('spiffe', 'https')],
    'user info': [uri.replace('://', '://me@')],
    'a port': [uri.replace('.consul', '.consul:8443')],
    'a query': [`${uri}?a=b`],
    'a fragment': [`${uri}#a`],
    'an upper-case trust domain': ['spiffe://ABC.consul/ns/default/dc/dc1/svc/web'],
    'a percent sign in the trust domain': ['spiffe://a%62c.consul/ns/default/dc/dc1/svc/web'],
    'a URI that is too long': [`${uri}/${'a'.repeat(2048)}`],
    'no path': [`spiffe://${trustDomain}`],
    'dots in the path': [`spiffe://${trustDomain}/ns/default/../svc/web`],
    'an empty segment': [`spiffe://${trustDomain}/ns//dc/dc1/svc/web`],
    'a trailing slash': [`${uri}/`],
  }
  for (const [name, list] of Object.entries(uris)) {
    it(name, () => {
      const [value] = valuesOf(ca.issue({ uris: list }), oids.san)
      const found = value === undefined ? [] : children(asn1.fromDer(forge.util.hexToBytes(value)))
      assert.deepEqual(
        found.map((item) => [item.type.valueOf(), item.value]),
        list.map((text) => [6, text]),
      )
    })
  }

  const extensions: Record<string, [options: IssueOptions, oid: string, values: string[]]> = {
    'cA true': [{ isCa: true }, oids.basicConstraints, ['30030101ff']],
    'no basic constraints': [{ isCa: null }, oids.basicConstraints, []],
    keyCertSign: [{ keyUsage: ['digitalSignature', 'keyCertSign'] }, oids.keyUsage, ['03020284']],
    cRLSign: [{ keyUsage: ['digitalSignature', 'cRLSign'] }, oids.keyUsage, ['03020182']],
    decipherOnly: [{ keyUsage: ['decipherOnly'] }, oids.keyUsage, ['0303070080']],
    'no key usage': [{ keyUsage: null }, oids.keyUsage, []],
    'key usage of nothing': [{ keyUsage: [] }, oids.keyUsage, ['030100']],
    'no digitalSignature': [{ keyUsage: ['keyEncipherment'] }, oids.keyUsage, ['03020520']],
    'no serverAuth': [{ extendedKeyUsage: ['clientAuth'] }, oids.eku, ['300a06082b06010505070302']],
    'no clientAuth': [{ extendedKeyUsage: ['serverAuth'] }, oids.eku, ['300a06082b06010505070301']],
    'no extended key usage': [{ extendedKeyUsage: null }, oids.eku, []],
    'a wrong authority key id': [{ authorityKeyId: Buffer.from('00', 'hex') }, oids.aki, ['3003800100']],
    'no authority key id': [{ authorityKeyId: null }, oids.aki, []],
  }
  for (const [name, [options, oid, values]] of Object.entries(extensions)) {
    it(name, () => {
      assert.deepEqual(valuesOf(ca.issue(options), oid), values)
    })
  }

  it('names beside the URI', () => {
    const { certificate } = ca.issue({ dnsNames: ['web.example'], ips: ['127.0.0.1'] })
    assert.equal(certificate.subjectAltName, `DNS:web.example, URI:${uri}, IP Address:127.0.0.1`)
  })

  it('two extensions with alternative names', () => {
    const second = extension.subjectAltName({ uris: [`${uri}2`] })
    assert.equal(valuesOf(ca.issue({ extraExtensions: [second] }), oids.san).length, 2)
  })

  it('a validity in the past or in the future', () => {
    const hour = 3_600_000
    const old = ca.issue({
      notBefore: new Date(Date.now() - 2 * hour),
      notAfter: new Date(Date.now() - hour),
    })
    assert.ok(Date.parse(old.certificate.validTo) < Date.now())
    const early = ca.issue({ notBefore: new Date(Date.now() + hour) })
    assert.ok(Date.parse(early.certificate.validFrom) > Date.now())
  })

  it('a time after 2049', () => {
    const { certificate } = ca.issue({ notAfter: new Date('2051-02-03T04:05:06Z') })
    assert.equal(certificate.validTo, 'Feb  3 04:05:06 2051 GMT')
  })

  it('another trust domain', () => {
    const { certificate } = ca.issue({ trustDomain: 'other.consul' })
    assert.match(certificate.subjectAltName ?? '', /^URI:spiffe:\/\/other\.consul\//)
    assert.ok(certificate.verify(ca.root.publicKey))
  })

  it('X.509 version 1', () => {
    const { certificate } = ca.issue({ version: 1 })
    assert.deepEqual(read(certificate), { version: 1, extensions: [] })
    assert.equal(read(ca.issue().certificate).version, 3)
  })

  it('a chain of more than 16 certificates', () => {
    const intermediates = Array.from({ length: 16 }, () => ca.certificatePem)
    assert.equal(ca.issue({ intermediates }).chainPem.match(/BEGIN/g)?.length, 17)
  })

  it('its own signature', () => {
    const { certificate } = ca.issue({ selfSigned: true })
    assert.equal(certificate.issuer, certificate.subject)
    assert.ok(certificate.verify(certificate.publicKey))
    assert.ok(!certificate.verify(ca.root.publicKey))
  })

  it('the signature of another CA of the same trust domain', () => {
    const { certificate } = TestCa.create({ trustDomain }).issue()
    assert.ok(!certificate.verify(ca.root.publicKey))
    assert.equal(certificate.subjectAltName, `URI:${uri}`)
  })

  it('a given key and serial number', () => {
    const key = createPrivateKey(ca.issue().privateKeyPem)
    const { certificate } = ca.issue({ privateKey: key, serial: 0xffn })
    assert.ok(certificate.publicKey.equals(createPublicKey(key)))
    assert.equal(certificate.serialNumber, 'FF')
  })
})

void describe('an intermediate CA', () => {
  it('issues leaves whose chain leads to the root', () => {
    const lower = ca.intermediate().intermediate()
    const { chainPem, certificate } = lower.issue()
    const chain = (chainPem.match(/-----BEGIN[^]+?END CERTIFICATE-----\n/g) ?? []).map(
      (pem) => new X509Certificate(pem),
    )
    assert.equal(chain.length, 3)
    assert.equal(lower.rootPem, ca.rootPem)
    assert.deepEqual(chain[0]?.raw, certificate.raw)
    for (const [index, link] of chain.entries()) {
      const issuer = chain[index + 1] ?? ca.root
      assert.ok(link.checkIssued(issuer) && link.verify(issuer.publicKey))
    }
  })

  it('can be another root, cross-signed', () => {
    const other = TestCa.create({ trustDomain })
    const crossed = new X509Certificate(ca.crossSign(other))
    assert.equal(crossed.subject, other.root.subject)
    assert.ok(crossed.publicKey.equals(other.root.publicKey))
    assert.ok(crossed.checkIssued(ca.root) && crossed.verify(ca.root.publicKey))
    assert.ok(other.issue().certificate.checkIssued(crossed))
  })
})

void it('issues certificates by the clock of the CA', () => {
  const past = TestCa.create({ clock: () => Date.parse('2020-01-01T00:01:00Z') })
  assert.equal(past.issue().certificate.validFrom, 'Jan  1 00:00:00 2020 GMT')
})
