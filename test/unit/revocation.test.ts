import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ServiceAuthorizer } from '../../src/authorize/service-authorizer.js'
import type { Outcome, RevokedError } from '../../src/authorize/authorizer.js'
import type { Peer } from '../../src/identity/peer.js'
import { type IssueOptions, type IssuedCertificate, TestCa } from '../../src/testing/index.js'
import { AdmittedConnections } from '../../src/transport/revocation.js'
import type { MeshSocket } from '../../src/transport/mesh-socket.js'
import { connectionFrom, generationOf, rootsOf } from '../fixtures/connections.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

/** Decides when a test says so. */
class ByHand extends ServiceAuthorizer {
  readonly asked: { readonly who: string; readonly answer: (authorized: boolean) => Promise<void> }[] = []

  override decide(peer: Peer): Promise<Outcome> {
    return new Promise((resolve) => {
      const answer = async (authorized: boolean): Promise<void> => {
        resolve({ authorized, reason: 'by hand', basis: 'authorizer' })
        await settle()
      }
      this.asked.push({ who: peer.service, answer })
    })
  }
}

function start(endsWithCertificate = false) {
  const authorization = new ByHand({} as never)
  const clock = new FakeClock()
  const revoked: RevokedError[] = []
  const failures: Error[] = []
  const admitted = new AdmittedConnections({
    service: 'api',
    authorization,
    timeoutMs: 1_000,
    endsWithCertificate,
    clock,
    revoked: (error) => revoked.push(error),
  })
  const ca = TestCa.create({ clock: () => clock.now() })
  const generation = generationOf(ca, rootsOf(ca), clock.now())
  const issued = new Map<string, IssuedCertificate>()
  /** The connections of a service share one certificate. */
  const open = (service = 'web', options: IssueOptions = {}): MeshSocket => {
    const certificate = issued.get(service) ?? ca.issue({ service, ...options })
    issued.set(service, certificate)
    const socket = connectionFrom(certificate, generation)
    // A listener's sockets have one from the start.
    socket.on('error', (error) => failures.push(error))
    admitted.add(socket)
    return socket
  }
  return { admitted, asked: authorization.asked, ca, clock, open, revoked, failures }
}

describe('Admitted', () => {
  it('decides once for each certificate, and ends those of the denied', async () => {
    const { admitted, asked, open, revoked, failures } = start()
    const [one, two, other] = [open(), open(), open('db')]
    const count = admitted.reauthorize()
    assert.deepEqual(
      asked.map(({ who }) => who),
      ['web', 'db'],
    )
    await asked[0]!.answer(false)
    assert.deepEqual([one.destroyed, two.destroyed, other.destroyed], [true, true, false])
    await asked[1]!.answer(true)
    assert.equal(await count, 2)
    // Who reads from a socket hears why it ended.
    assert.deepEqual(failures, revoked)
    assert.equal(other.destroyed, false)
    assert.deepEqual(
      revoked.map(({ peer, reason }) => [peer.service, reason]),
      [
        ['web', 'by hand'],
        ['web', 'by hand'],
      ],
    )
  })

  it('a decision that takes long holds up no other certificate', async () => {
    const { admitted, asked, open } = start()
    open()
    const other = open('db')
    void admitted.reauthorize()
    await asked[1]!.answer(false)
    assert.equal(other.destroyed, true)
  })

  it('a change during a decision is heeded by another after it, and by one alone', async () => {
    const { admitted, asked, open } = start()
    const socket = open()
    void admitted.reauthorize()
    const counts = [admitted.reauthorize(), admitted.reauthorize()]
    await settle()
    assert.equal(asked.length, 1)
    await asked[0]!.answer(true)
    assert.equal(asked.length, 2)
    await asked[1]!.answer(false)
    assert.deepEqual(await Promise.all(counts), [1, 1])
    assert.equal(socket.destroyed, true)
    await settle()
    assert.equal(asked.length, 2)
  })

  it('does not report a connection that has ended by itself', async () => {
    const { admitted, asked, open, revoked } = start()
    const [socket] = [open(), open()]
    const count = admitted.reauthorize()
    socket.destroy()
    await settle()
    await asked[0]!.answer(false)
    assert.equal(await count, 1)
    assert.equal(revoked.length, 1)
    assert.equal(await admitted.reauthorize(), 0)
    assert.equal(asked.length, 1)
  })

  it('ends connections when their certificate expires, and keeps no timer after the last of them', async () => {
    const { clock, open, revoked } = start(true)
    const notAfter = new Date(clock.now() + 5_000)
    const [one, two] = [open('web', { notAfter }), open('web')]
    const gone = open('db', { notAfter })
    gone.destroy()
    await settle()
    assert.equal(clock.pending, 1)
    await clock.advance(4_999)
    assert.equal(one.destroyed, false)
    await clock.advance(1)
    assert.deepEqual([one.destroyed, two.destroyed], [true, true])
    assert.deepEqual(new Set(revoked.map(({ basis }) => basis)), new Set(['expired']))
    assert.equal(clock.pending, 0)
  })

  it('ends the connections of a withdrawn root, and no others', async () => {
    const { admitted, ca, open, revoked } = start()
    const next = TestCa.create({ trustDomain: ca.trustDomain, clock: () => Date.UTC(2030, 0, 1) })
    const [direct, crossSigned] = [open('web'), open('db')]
    assert.equal(admitted.withdraw(rootsOf(next, ca)), 0)
    assert.equal(admitted.withdraw(rootsOf(ca)), 0)
    assert.equal(admitted.withdraw(rootsOf(next)), 2)
    assert.deepEqual([direct.destroyed, crossSigned.destroyed], [true, true])
    assert.deepEqual(
      revoked.map(({ basis, side }) => [basis, side]),
      [
        ['roots', 'inbound'],
        ['roots', 'inbound'],
      ],
    )
    await settle()
  })

  it('arms no timer where a connection may outlive its certificate', () => {
    const { clock, open } = start()
    open()
    assert.equal(clock.pending, 0)
  })
})
