import assert from 'node:assert/strict'
import { Duplex } from 'node:stream'
import { describe, it } from 'node:test'
import { TestCa } from '../../src/testing/index.js'
import { attachPeer, identify, peer } from '../../src/transport/verify-peer.js'
import { rootsOf } from '../fixtures/connections.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const ca = TestCa.create({ trustDomain: TD })
const roots = rootsOf(ca)

describe('identify', () => {
  it('reads the identity of a certificate', () => {
    const { certificate } = ca.issue({ service: 'my service', serial: 0xabcdn })
    assert.deepEqual(identify(certificate, roots).peer, {
      spiffeId: `spiffe://${TD}/ns/default/dc/dc1/svc/my%20service`,
      trustDomain: TD,
      partition: 'default',
      namespace: 'default',
      datacenter: 'dc1',
      service: 'my service',
      serialNumber: 'ab:cd',
      fingerprint256: certificate.fingerprint256,
      notAfter: new Date(certificate.validTo),
    })
  })

  it('checks the trust domain of a cached certificate against the current roots', () => {
    const { certificate } = ca.issue()
    identify(certificate, roots)
    const otherRoots = rootsOf(TestCa.create({ trustDomain: 'other.consul' }))
    assert.throws(() => identify(certificate, otherRoots), { code: 'ERR_CONNECT_PEER_TRUST_DOMAIN' })
    assert.equal(identify(certificate, roots).peer.service, 'web')
  })

  it('reads the issuers of a cached certificate again after the roots change', () => {
    const { certificate } = ca.issue()
    const { raw, fingerprint256 } = certificate
    const issuer = (text: string) => ({ raw: Buffer.from(text), fingerprint256: text })
    const chainUnder = (at: typeof roots, issuerCertificate?: ReturnType<typeof issuer>) =>
      identify({ raw, fingerprint256, issuerCertificate }, at).chain
    assert.deepEqual(chainUnder(roots, issuer('old')), [raw, Buffer.from('old')])
    assert.deepEqual(chainUnder(roots), [raw, Buffer.from('old')])
    assert.deepEqual(chainUnder(rootsOf(ca), issuer('new')), [raw, Buffer.from('new')])
  })

  it('refuses an invalid certificate on every call', () => {
    const { certificate } = ca.issue({ isCa: true })
    for (let i = 0; i < 2; i += 1) {
      assert.throws(() => identify(certificate, roots).peer, { code: 'ERR_CONNECT_CERTIFICATE_CA' })
    }
  })
})

describe('peer', () => {
  it('returns the attached peer, frozen, and undefined for a value without an attached peer', () => {
    const { peer: attached } = identify(ca.issue().certificate, roots)
    const socket = attachPeer(new Duplex(), attached)
    assert.equal(peer(socket), attached)
    assert.equal(socket.peer, attached)
    assert.ok(Object.isFrozen(attached))
    for (const value of [undefined, null, {}, new Duplex(), { peer: attached }])
      assert.equal(peer(value), undefined)
  })

  it('cannot be replaced after it is attached', () => {
    const socket = attachPeer(new Duplex(), identify(ca.issue().certificate, roots).peer)
    const otherPeer = identify(ca.issue({ service: 'db' }).certificate, roots).peer
    assert.throws(() => attachPeer(socket, otherPeer), TypeError)
    assert.equal(peer(socket)?.service, 'web')
  })
})
