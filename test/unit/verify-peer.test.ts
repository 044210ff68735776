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

  it('judges the trust domain each time', () => {
    const { certificate } = ca.issue()
    identify(certificate, roots)
    const others = rootsOf(TestCa.create({ trustDomain: 'other.consul' }))
    assert.throws(() => identify(certificate, others), { code: 'ERR_CONNECT_PEER_TRUST_DOMAIN' })
    assert.equal(identify(certificate, roots).peer.service, 'web')
  })

  it('reads the issuers of a known certificate again when the roots have changed', () => {
    const { certificate } = ca.issue()
    const { raw, fingerprint256 } = certificate
    const issuer = (text: string) => ({ raw: Buffer.from(text), fingerprint256: text })
    const chainUnder = (at: typeof roots, issuerCertificate?: ReturnType<typeof issuer>) =>
      identify({ raw, fingerprint256, issuerCertificate }, at).chain
    assert.deepEqual(chainUnder(roots, issuer('old')), [raw, Buffer.from('old')])
    assert.deepEqual(chainUnder(roots), [raw, Buffer.from('old')])
    assert.deepEqual(chainUnder(rootsOf(ca), issuer('new')), [raw, Buffer.from('new')])
  })

  it('refuses a certificate each time', () => {
    const { certificate } = ca.issue({ isCa: true })
    for (let i = 0; i < 2; i += 1) {
      assert.throws(() => identify(certificate, roots).peer, { code: 'ERR_CONNECT_CERTIFICATE_CA' })
    }
  })
})

describe('peer', () => {
  it('is what was attached, frozen, and undefined for anything else', () => {
    const { peer: known } = identify(ca.issue().certificate, roots)
    const socket = attachPeer(new Duplex(), known)
    assert.equal(peer(socket), known)
    assert.equal(socket.peer, known)
    assert.ok(Object.isFrozen(known))
    for (const stranger of [undefined, null, {}, new Duplex(), { peer: known }])
      assert.equal(peer(stranger), undefined)
  })

  it('cannot be replaced afterwards', () => {
    const socket = attachPeer(new Duplex(), identify(ca.issue().certificate, roots).peer)
    const other = identify(ca.issue({ service: 'db' }).certificate, roots).peer
    assert.throws(() => attachPeer(socket, other), TypeError)
    assert.equal(peer(socket)?.service, 'web')
  })
})
