import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ConnectError, type ErrorCode } from '../../src/base/errors.js'
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
const CONSUL_KEY_USAGE: KeyUsage[] = [
  'digitalSignature',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
]
const ca = TestCa.create({ trustDomain: TD })

const parse = (options: IssueOptions): CertificateFacts => parseCertificate(ca.issue(options).certificate.raw)

/** The error code of a refused certificate, or `accepted`. */
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
      ['as issued by Consul', {}],
      ['DNS and IP names besides the URI', { dnsNames: ['web.example'], ips: ['10.0.0.1'] }],
      ['digitalSignature alone', { keyUsage: ['digitalSignature'] }],
      ['more key usage than needed', { keyUsage: [...CONSUL_KEY_USAGE, 'nonRepudiation', 'encipherOnly'] }],
      ['no extended key usage', { extendedKeyUsage: null }],
      [
        'more extended key usage than needed',
        { extendedKeyUsage: ['clientAuth', 'serverAuth', 'codeSigning'] },
      ],
      ['no basic constraints', { isCa: null }],
      ['a name that needs percent-encoding', { service: 'my ü/service' }],
      ['an agent', { uris: [`spiffe://${TD}/agent/client/dc/dc1/id/a`] }],
      ['a mesh gateway', { uris: [`spiffe://${TD}/gateway/mesh/dc/dc1`] }],
      [
        'a certificate that has expired, because dates are checked elsewhere',
        { notBefore: new Date(0), notAfter: new Date(1000) },
      ],
    ],
    ERR_CONNECT_CERTIFICATE_MALFORMED: [
      ['two subjectAltName extensions', { extraExtensions: [extension.subjectAltName({ uris: [WEB] })] }],
      ['two key usage extensions', { extraExtensions: [extension.keyUsage(['digitalSignature'])] }],
      ['two basic constraints extensions', { extraExtensions: [extension.basicConstraints(false)] }],
      ['version 1', { version: 1 }],
    ],
    ERR_CONNECT_CERTIFICATE_URI_COUNT: [
      ['no URI', { uris: [] }],
      ['only a DNS name', { uris: [], dnsNames: ['web.example'] }],
      ['a DNS name that looks like a SPIFFE URI', { uris: [], dnsNames: [WEB] }],
      ['two URIs', { uris: [WEB, `spiffe://${TD}/ns/default/dc/dc1/svc/db`] }],
      ['the same URI twice', { uris: [WEB, WEB] }],
      ['a second URI of another scheme', { uris: [WEB, 'https://example.com/'] }],
      ['a first URI of another scheme', { uris: ['https://example.com/', WEB] }],
    ],
    ERR_CONNECT_SPIFFE_SCHEME: [
      ['an https URI', { uris: ['https://example.com/'] }],
      ['a scheme in upper case', { uris: [WEB.replace('spiffe', 'SPIFFE')] }],
    ],
    ERR_CONNECT_SPIFFE_LENGTH: [
      ['an empty URI', { uris: [''] }],
      ['a URI of 2049 bytes', { uris: [WEB.padEnd(2049, 'x')] }],
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
      ['a path that is not of Consul', { uris: [`spiffe://${TD}/web`] }],
      ['a trailing slash', { uris: [`${WEB}/`] }],
      ['a NUL at the end', { uris: [`${WEB}\0`] }],
      ['dot segments', { uris: [`spiffe://${TD}/ns/default/dc/dc1/svc/x/../web`] }],
      // CVE-2021-44532: the text form of the names looks like two URIs.
      ['a URI with a comma and a second URI', { uris: [`${WEB}, URI:spiffe://evil`] }],
    ],
    ERR_CONNECT_CERTIFICATE_SIGNING: [
      ['no path', { uris: [`spiffe://${TD}`] }],
      ['no path, with the CA flag', { uris: [`spiffe://${TD}`], isCa: true }],
    ],
    ERR_CONNECT_CERTIFICATE_CA: [
      ['the CA flag', { isCa: true }],
      ['keyCertSign', { keyUsage: [...CONSUL_KEY_USAGE, 'keyCertSign'] }],
      ['cRLSign', { keyUsage: [...CONSUL_KEY_USAGE, 'cRLSign'] }],
      ['keyCertSign alone', { keyUsage: ['keyCertSign'] }],
      ['keyCertSign without constraints', { isCa: null, keyUsage: ['digitalSignature', 'keyCertSign'] }],
    ],
    ERR_CONNECT_CERTIFICATE_KEY_USAGE: [
      ['no key usage', { keyUsage: null }],
      ['an empty key usage', { keyUsage: [] }],
      [
        'a key usage without digitalSignature',
        { keyUsage: ['keyEncipherment', 'dataEncipherment', 'keyAgreement'] },
      ],
      ['decipherOnly, which is in the second byte', { keyUsage: ['decipherOnly'] }],
    ],
    ERR_CONNECT_CERTIFICATE_EXTENDED_KEY_USAGE: [
      ['clientAuth alone', { extendedKeyUsage: ['clientAuth'] }],
      ['serverAuth alone', { extendedKeyUsage: ['serverAuth'] }],
      ['neither clientAuth nor serverAuth', { extendedKeyUsage: ['codeSigning'] }],
      // SPIFFE requires both by name.
      ['anyExtendedKeyUsage', { extendedKeyUsage: ['2.5.29.37.0'] }],
    ],
  }
  for (const [code, certificates] of Object.entries(cases)) {
    it(code === 'accepted' ? 'accepts valid certificates' : `refuses certificates with ${code}`, () => {
      const found = certificates.map(([rule, options]) => [rule, verdict(options)])
      assert.deepEqual(
        found,
        certificates.map(([rule]) => [rule, code]),
      )
    })
  }

  it('returns the identity, and the URI exactly as in the certificate', () => {
    const uri = `spiffe://${TD}/ns/default/dc/dc1/svc/%77eb`
    const { id, uri: found } = verifyLeaf(parse({ uris: [uri] }))
    assert.equal(found, uri)
    assert.equal(id.toString(), WEB)
  })

  it('reports the expected and the actual value', () => {
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

describe('verifyMember', () => {
  const certified = (uri: string) => ({ id: SpiffeId.parse(uri), uri })

  it('accepts a service of the trust domain', () => {
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
    // The trust domain is checked first.
    [
      'an agent of another trust domain',
      `spiffe://${OTHER}/agent/server/dc/dc1`,
      'ERR_CONNECT_PEER_TRUST_DOMAIN',
    ],
  ]
  for (const [rule, uri, code] of cases) {
    it(`refuses ${rule}`, () => {
      assert.throws(() => verifyMember(certified(uri), TD), { name: 'VerificationError', code, actual: uri })
    })
  }
})

const web: ServiceId = {
  kind: 'service',
  trustDomain: TD,
  partition: 'p',
  namespace: 'n',
  datacenter: 'dc1',
  service: 'web',
}

describe('verifyExpected', () => {
  const cases: [rule: string, expected: ExpectedIdentity, actual: string | undefined][] = [
    ['accepts the service', { service: 'web' }, undefined],
    [
      'accepts an identity in which all parts match',
      { service: 'web', namespace: 'n', partition: 'p', datacenter: 'dc1' },
      undefined,
    ],
    ['ignores undefined parts', { service: 'web', namespace: undefined, datacenter: undefined }, undefined],
    ['refuses another service', { service: 'db' }, 'service "web"'],
    ['refuses the service in another case', { service: 'WEB' }, 'service "web"'],
    ['refuses a prefix of the service', { service: 'we' }, 'service "web"'],
    ['refuses an empty service', { service: '' }, 'service "web"'],
    ['refuses another namespace', { service: 'web', namespace: 'default' }, 'namespace "n"'],
    ['refuses another partition', { service: 'web', partition: 'default' }, 'partition "p"'],
    ['refuses another datacenter', { service: 'web', datacenter: 'dc2' }, 'datacenter "dc1"'],
    [
      'reports all parts that differ',
      { service: 'db', datacenter: 'dc2' },
      'service "web", datacenter "dc1"',
    ],
  ]
  for (const [rule, expected, actual] of cases) {
    it(rule, () => {
      if (actual === undefined) verifyExpected(web, expected)
      else {
        const refuse = (): void => {
          verifyExpected(web, expected)
        }
        assert.throws(refuse, { name: 'VerificationError', code: 'ERR_CONNECT_PEER_IDENTITY', actual })
      }
    })
  }
})

describe('expectedAt', () => {
  it('completes the identity of an upstream from our own identity', () => {
    const own = { namespace: 'n', partition: 'p', datacenter: 'dc1' }
    assert.deepEqual(expectedAt(web, { service: 'db' }), { service: 'db', ...own })
    const complete = { service: 'db', namespace: 'a', partition: 'b', datacenter: 'c' }
    assert.deepEqual(expectedAt(web, complete), complete)
  })
})
