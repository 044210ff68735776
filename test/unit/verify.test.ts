import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ConnectError, type ErrorCode, VerificationError } from '../../src/base/errors.js'
import { type CertificateFacts, parseCertificate } from '../../src/identity/certificate.js'
import { type ServiceId, SpiffeId } from '../../src/identity/spiffe.js'
import {
  type ExpectedIdentity,
  expectedAt,
  verifyExpected,
  verifyLeaf,
  verifyMember,
} from '../../src/identity/verify.js'
import { type IssueOptions, type KeyUsage, TestCa, extension } from '../../src/testing/index.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const OTHER = '99999999-2222-3333-4444-555555555555.consul'
const WEB = `spiffe://${TD}/ns/default/dc/dc1/svc/web`
const CONSULS_FOUR: KeyUsage[] = ['digitalSignature', 'keyEncipherment', 'dataEncipherment', 'keyAgreement']
const ca = TestCa.create({ trustDomain: TD })

const parse = (options: IssueOptions): CertificateFacts => parseCertificate(ca.issue(options).certificate.raw)

/** The code that a certificate is refused with, or `accepted`. */
function verdict(options: IssueOptions): ErrorCode | 'accepted' {
  try {
    verifyLeaf(parse(options))
    return 'accepted'
  } catch (error) {
    assert.ok(error instanceof ConnectError, `threw ${String(error)}`)
    return error.code
  }
}

describe('verifyLeaf', () => {
  const cases: Record<string, [rule: string, options: IssueOptions][]> = {
    accepted: [
      ["Consul's own", {}],
      ['DNS and IP names beside the URI', { dnsNames: ['web.example'], ips: ['10.0.0.1'] }],
      ['digitalSignature alone', { keyUsage: ['digitalSignature'] }],
      ['more key usage than needed', { keyUsage: [...CONSULS_FOUR, 'nonRepudiation', 'encipherOnly'] }],
      ['no extended key usage', { extendedKeyUsage: null }],
      [
        'more extended key usage than needed',
        { extendedKeyUsage: ['clientAuth', 'serverAuth', 'codeSigning'] },
      ],
      ['no basic constraints', { isCa: null }],
      ['an odd name, encoded', { service: 'my ü/service' }],
      ['an agent', { uris: [`spiffe://${TD}/agent/client/dc/dc1/id/a`] }],
      ['a mesh gateway', { uris: [`spiffe://${TD}/gateway/mesh/dc/dc1`] }],
      ['dates are not its business', { notBefore: new Date(0), notAfter: new Date(1000) }],
    ],
    ERR_CONNECT_CERTIFICATE_MALFORMED: [
      ['the names twice', { extraExtensions: [extension.subjectAltName({ uris: [WEB] })] }],
      ['the key usage twice', { extraExtensions: [extension.keyUsage(['digitalSignature'])] }],
      ['the constraints twice', { extraExtensions: [extension.basicConstraints(false)] }],
      ['version 1', { version: 1 }],
    ],
    ERR_CONNECT_CERTIFICATE_URI_COUNT: [
      ['no URI', { uris: [] }],
      ['a DNS name alone', { uris: [], dnsNames: ['web.example'] }],
      ['a DNS name that looks like one', { uris: [], dnsNames: [WEB] }],
      ['two', { uris: [WEB, `spiffe://${TD}/ns/default/dc/dc1/svc/db`] }],
      ['the same twice', { uris: [WEB, WEB] }],
      ['one more of another scheme', { uris: [WEB, 'https://example.com/'] }],
      ['one more of another scheme, first', { uris: ['https://example.com/', WEB] }],
    ],
    ERR_CONNECT_SPIFFE_SCHEME: [
      ['a web address', { uris: ['https://example.com/'] }],
      ['upper case', { uris: [WEB.replace('spiffe', 'SPIFFE')] }],
    ],
    ERR_CONNECT_SPIFFE_LENGTH: [
      ['an empty URI', { uris: [''] }],
      ['2049 bytes', { uris: [WEB.padEnd(2049, 'x')] }],
    ],
    ERR_CONNECT_SPIFFE_COMPONENT: [
      ['a port', { uris: [WEB.replace(TD, `${TD}:8443`)] }],
      ['user info', { uris: [WEB.replace(TD, `user@${TD}`)] }],
      ['a query', { uris: [`${WEB}?a`] }],
      ['a fragment', { uris: [`${WEB}#a`] }],
    ],
    ERR_CONNECT_SPIFFE_TRUST_DOMAIN: [
      ['an upper-case trust domain', { uris: [WEB.replace(TD, 'MESH.consul')] }],
      ['an empty trust domain', { uris: [WEB.replace(TD, '')] }],
      ['a trust domain with a NUL', { uris: [WEB.replace(TD, `${TD}\0.evil`)] }],
    ],
    ERR_CONNECT_SPIFFE_PATH: [
      ['a path of somebody else', { uris: [`spiffe://${TD}/web`] }],
      ['a trailing slash', { uris: [`${WEB}/`] }],
      ['a NUL at the end', { uris: [`${WEB}\0`] }],
      ['dot segments', { uris: [`spiffe://${TD}/ns/default/dc/dc1/svc/x/../web`] }],
      // CVE-2021-44532: the text form of the names would show the wanted URI on its own.
      ['a comma and a second URI in one', { uris: [`${WEB}, URI:spiffe://evil`] }],
    ],
    ERR_CONNECT_CERTIFICATE_SIGNING: [
      ['no path', { uris: [`spiffe://${TD}`] }],
      ['no path, and a CA', { uris: [`spiffe://${TD}`], isCa: true }],
    ],
    ERR_CONNECT_CERTIFICATE_CA: [
      ['the CA flag', { isCa: true }],
      ['keyCertSign', { keyUsage: [...CONSULS_FOUR, 'keyCertSign'] }],
      ['cRLSign', { keyUsage: [...CONSULS_FOUR, 'cRLSign'] }],
      ['keyCertSign alone', { keyUsage: ['keyCertSign'] }],
      ['keyCertSign without constraints', { isCa: null, keyUsage: ['digitalSignature', 'keyCertSign'] }],
    ],
    ERR_CONNECT_CERTIFICATE_KEY_USAGE: [
      ['no key usage', { keyUsage: null }],
      ['no bit of it', { keyUsage: [] }],
      ['other bits', { keyUsage: ['keyEncipherment', 'dataEncipherment', 'keyAgreement'] }],
      ['decipherOnly, in the second byte', { keyUsage: ['decipherOnly'] }],
    ],
    ERR_CONNECT_CERTIFICATE_EXTENDED_KEY_USAGE: [
      ['clientAuth alone', { extendedKeyUsage: ['clientAuth'] }],
      ['serverAuth alone', { extendedKeyUsage: ['serverAuth'] }],
      ['neither', { extendedKeyUsage: ['codeSigning'] }],
      // anyExtendedKeyUsage: SPIFFE asks for the two by name.
      ['any', { extendedKeyUsage: ['2.5.29.37.0'] }],
    ],
  }
  for (const [code, certificates] of Object.entries(cases)) {
    it(code, () => {
      const found = certificates.map(([rule, options]) => [rule, verdict(options)])
      assert.deepEqual(
        found,
        certificates.map(([rule]) => [rule, code]),
      )
    })
  }

  it('gives the identity, and the URI exactly as the certificate has it', () => {
    const uri = `spiffe://${TD}/ns/default/dc/dc1/svc/%77eb`
    const { id, uri: given } = verifyLeaf(parse({ uris: [uri] }))
    assert.equal(given, uri)
    assert.equal(id.toString(), WEB)
  })

  it('an error tells what was expected and what came', () => {
    assert.throws(() => verifyLeaf(parse({ keyUsage: ['keyAgreement', 'keyEncipherment'] })), {
      name: 'VerificationError',
      expected: 'the key usage digitalSignature',
      actual: 'the key usage keyEncipherment, keyAgreement',
    })
    assert.throws(() => verifyLeaf(parse({ keyUsage: null })), { actual: 'no key usage' })
    assert.throws(() => verifyLeaf(parse({ keyUsage: [] })), { actual: 'the key usage of no bit' })
    assert.throws(() => verifyLeaf(parse({ uris: [WEB, WEB] })), { actual: '2' })
  })
})

describe('verifyMember: a peer is a service of our trust domain', () => {
  const certified = (uri: string) => ({ id: SpiffeId.parse(uri), uri })

  it('a service of the trust domain is', () => {
    const member = verifyMember(certified(WEB), TD)
    assert.deepEqual(
      { ...member },
      {
        kind: 'service',
        trustDomain: TD,
        partition: 'default',
        namespace: 'default',
        datacenter: 'dc1',
        service: 'web',
      },
    )
  })

  const cases: [rule: string, uri: string, code: ErrorCode][] = [
    ['another trust domain', WEB.replace(TD, OTHER), 'ERR_CONNECT_PEER_TRUST_DOMAIN'],
    ['a trust domain below ours', WEB.replace(TD, `sub.${TD}`), 'ERR_CONNECT_PEER_TRUST_DOMAIN'],
    ['a trust domain that begins like ours', WEB.replace(TD, `${TD}.evil`), 'ERR_CONNECT_PEER_TRUST_DOMAIN'],
    ['an agent', `spiffe://${TD}/agent/client/dc/dc1/id/web`, 'ERR_CONNECT_PEER_KIND'],
    ['a server', `spiffe://${TD}/agent/server/dc/dc1`, 'ERR_CONNECT_PEER_KIND'],
    ['a mesh gateway', `spiffe://${TD}/gateway/mesh/dc/dc1`, 'ERR_CONNECT_PEER_KIND'],
    ['a signing identity', `spiffe://${TD}`, 'ERR_CONNECT_PEER_KIND'],
    // Whose it is comes first: nothing else in it is worth a word.
    [
      "another trust domain's agent",
      `spiffe://${OTHER}/agent/server/dc/dc1`,
      'ERR_CONNECT_PEER_TRUST_DOMAIN',
    ],
  ]
  for (const [rule, uri, code] of cases) {
    it(`${rule} is not`, () => {
      assert.throws(() => verifyMember(certified(uri), TD), { name: 'VerificationError', code, actual: uri })
    })
  }
})

describe('verifyExpected: the peer is the one that was dialled', () => {
  const web: ServiceId = {
    kind: 'service',
    trustDomain: TD,
    partition: 'p',
    namespace: 'n',
    datacenter: 'dc1',
    service: 'web',
  }
  const cases: [rule: string, expected: ExpectedIdentity, actual: string | undefined][] = [
    ['the service alone', { service: 'web' }, undefined],
    ['everything', { service: 'web', namespace: 'n', partition: 'p', datacenter: 'dc1' }, undefined],
    [
      'undefined compares nothing',
      { service: 'web', namespace: undefined, datacenter: undefined },
      undefined,
    ],
    ['another service', { service: 'db' }, 'service "web"'],
    ['another case', { service: 'WEB' }, 'service "web"'],
    ['a prefix', { service: 'we' }, 'service "web"'],
    ['an empty service', { service: '' }, 'service "web"'],
    ['another namespace', { service: 'web', namespace: 'default' }, 'namespace "n"'],
    ['another partition', { service: 'web', partition: 'default' }, 'partition "p"'],
    ['another datacenter', { service: 'web', datacenter: 'dc2' }, 'datacenter "dc1"'],
    ['two things wrong', { service: 'db', datacenter: 'dc2' }, 'service "web", datacenter "dc1"'],
  ]
  for (const [rule, expected, actual] of cases) {
    it(rule, () => {
      if (actual === undefined) verifyExpected(web, expected)
      else {
        assert.throws(
          () => {
            verifyExpected(web, expected)
          },
          (error) =>
            error instanceof VerificationError &&
            error.code === 'ERR_CONNECT_PEER_IDENTITY' &&
            error.actual === actual,
        )
      }
    })
  }

  it('what an upstream leaves out is our own, and what it says is not', () => {
    const own = { namespace: 'n', partition: 'p', datacenter: 'dc1' }
    assert.deepEqual(expectedAt(web, { service: 'db' }), { service: 'db', ...own })
    const said = { service: 'db', namespace: 'a', partition: 'b', datacenter: 'c' }
    assert.deepEqual(expectedAt(web, said), said)
  })
})
