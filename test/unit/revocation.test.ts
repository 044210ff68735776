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

/** An authorizer whose decisions are made by the test. */
class ManualAuthorizer extends ServiceAuthorizer {
  readonly requests: { readonly service: string; readonly answer: (authorized: boolean) => Promise<void> }[] =
    []

  override decide(peer: Peer): Promise<Outcome> {
    return new Promise((resolve) => {
      const answer = async (authorized: boolean): Promise<void> => {
        resolve({ authorized, reason: 'manual', basis: 'authorizer', requests: undefined })
        await settle()
      }
      this.requests.push({ service: peer.service, answer })
    })
  }
}

function start(endsWithCertificate = false) {
  const authorization = new ManualAuthorizer({} as never)
  const clock = new FakeClock()
  const revoked: RevokedError[] = []
  const failures: Error[] = []
  const admitted = new AdmittedConnections({
    service: 'api',
    authorization,
    decidesRequests: false,
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
    socket.on('error', (error) => failures.push(error))
    admitted.add(socket)
    return socket
  }
  return { admitted, requests: authorization.requests, ca, clock, open, revoked, failures }
}

describe('AdmittedConnections', () => {
  it('decides once for each certificate, and closes the connections of denied peers', async () => {
    const { admitted, requests, open, revoked, failures } = start()
    const [web1, web2, db] = [open(), open(), open('db')]
    const count = admitted.reauthorize(true)
    assert.deepEqual(
      requests.map(({ service }) => service),
      ['web', 'db'],
    )
    await requests[0]!.answer(false)
    assert.deepEqual([web1.destroyed, web2.destroyed, db.destroyed], [true, true, false])
    await requests[1]!.answer(true)
    assert.equal(await count, 2)
    // The sockets emit the errors that are reported.
    assert.deepEqual(failures, revoked)
    assert.equal(db.destroyed, false)
    assert.deepEqual(
      revoked.map(({ peer, reason }) => [peer.service, reason]),
      [
        ['web', 'manual'],
        ['web', 'manual'],
      ],
    )
  })

  it('does not delay other certificates while a decision is pending', async () => {
    const { admitted, requests, open } = start()
    open()
    const db = open('db')
    void admitted.reauthorize(true)
    await requests[1]!.answer(false)
    assert.equal(db.destroyed, true)
  })

  it('makes one more decision after changes during a pending decision', async () => {
    const { admitted, requests, open } = start()
    const socket = open()
    void admitted.reauthorize(true)
    const counts = [admitted.reauthorize(true), admitted.reauthorize(true)]
    await settle()
    assert.equal(requests.length, 1)
    await requests[0]!.answer(true)
    assert.equal(requests.length, 2)
    await requests[1]!.answer(false)
    assert.deepEqual(await Promise.all(counts), [1, 1])
    assert.equal(socket.destroyed, true)
    await settle()
    assert.equal(requests.length, 2)
  })

  it('does not report a connection that ended before the decision', async () => {
    const { admitted, requests, open, revoked } = start()
    const [socket] = [open(), open()]
    const count = admitted.reauthorize(true)
    socket.destroy()
    await settle()
    await requests[0]!.answer(false)
    assert.equal(await count, 1)
    assert.equal(revoked.length, 1)
    assert.equal(await admitted.reauthorize(true), 0)
    assert.equal(requests.length, 1)
  })

  it('closes connections when their certificate expires, and cancels the timer after the last connection', async () => {
    const { clock, open, revoked } = start(true)
    const notAfter = new Date(clock.now() + 5_000)
    const sockets = [open('web', { notAfter }), open('web')]
    open('db', { notAfter }).destroy()
    await settle()
    assert.equal(clock.pending, 1)
    await clock.advance(4_999)
    assert.equal(sockets[0]!.destroyed, false)
    await clock.advance(1)
    assert.ok(sockets.every(({ destroyed }) => destroyed))
    assert.deepEqual(new Set(revoked.map(({ basis }) => basis)), new Set(['expired']))
    assert.equal(clock.pending, 0)
  })

  it('sets no timer if connections may outlive their certificate', () => {
    const { clock, open } = start()
    open()
    assert.equal(clock.pending, 0)
  })
})
