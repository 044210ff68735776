import assert from 'node:assert/strict'
import { Duplex } from 'node:stream'
import { describe, it } from 'node:test'
import { TestCa } from '../../src/testing/index.js'
import { attachPeer, identify, peer } from '../../src/transport/peer.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const ca = TestCa.create({ trustDomain: TD })

describe('identify', () => {
  it('tells who a certificate names', () => {
    const { certificate } = ca.issue({ service: 'my service', serial: 0xabcdn })
    assert.deepEqual(identify(certificate, TD), {
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

  it('what it remembers is facts: the trust domain is judged each time', () => {
    const { certificate } = ca.issue()
    identify(certificate, TD)
    assert.throws(() => identify(certificate, 'other.consul'), { code: 'ERR_CONNECT_PEER_TRUST_DOMAIN' })
    assert.equal(identify(certificate, TD).service, 'web')
  })

  it('a certificate that was refused once is refused again', () => {
    const { certificate } = ca.issue({ isCa: true })
    for (let i = 0; i < 2; i += 1) {
      assert.throws(() => identify(certificate, TD), { code: 'ERR_CONNECT_CERTIFICATE_CA' })
    }
  })
})

describe('peer', () => {
  it('is what was attached, frozen, and undefined for anything else', () => {
    const known = identify(ca.issue().certificate, TD)
    const socket = attachPeer(new Duplex(), known)
    assert.equal(peer(socket), known)
    assert.equal(socket.peer, known)
    assert.ok(Object.isFrozen(known))
    for (const stranger of [undefined, null, {}, new Duplex(), { peer: known }])
      assert.equal(peer(stranger), undefined)
  })

  it('cannot be replaced afterwards', () => {
    const socket = attachPeer(new Duplex(), identify(ca.issue().certificate, TD))
    const other = identify(ca.issue({ service: 'db' }).certificate, TD)
    assert.throws(() => attachPeer(socket, other), TypeError)
    assert.equal(peer(socket)?.service, 'web')
  })
})
