import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { CaRoots } from '../../src/agent/endpoints/roots.js'
import { IdentityError } from '../../src/base/errors.js'
import { type Roots, RootsStore, checkRoots } from '../../src/identity/roots.js'
import { TestCa } from '../../src/testing/index.js'
import { CONSUL_ROOTS } from '../fixtures/consul-answers.js'
import { AWAY } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const PATH = '/v1/agent/connect/ca/roots'
const [first, second] = [TestCa.create({ trustDomain: TD }), TestCa.create({ trustDomain: TD })]

function rootsAnswer(pems: readonly string[], trustDomain = TD): CaRoots {
  const roots = pems.map((certificatePem, i) => ({
    id: `root-${i}`,
    name: '',
    certificatePem,
    active: i === 0,
  }))
  return { trustDomain, activeRootId: 'root-0', roots }
}

describe('checkRoots', () => {
  it('accepts the roots of a real Consul agent', () => {
    const [root] = CONSUL_ROOTS.Roots
    const { trustDomain, certificates, pems, activeRootId } = checkRoots(
      rootsAnswer([root!.RootCert], CONSUL_ROOTS.TrustDomain),
    )
    assert.equal(trustDomain, CONSUL_ROOTS.TrustDomain)
    assert.equal(certificates[0]?.serialNumber, '07')
    assert.deepEqual(pems, [root!.RootCert])
    assert.equal(activeRootId, 'root-0')
  })

  it('accepts both roots of a rotation, in order', () => {
    const pems = [second.rootPem, first.rootPem]
    assert.deepEqual(checkRoots(rootsAnswer(pems)).pems, pems)
  })

  it('makes each certificate of a bundle a trust anchor, once', () => {
    const external = TestCa.create({ trustDomain: TD })
    const mesh = external.intermediate()
    const bundle = `# the CA of the mesh\n${mesh.certificatePem}\n# its issuer\n${external.rootPem}`
    const { pems, certificates } = checkRoots(rootsAnswer([bundle, second.rootPem + external.rootPem]))
    assert.deepEqual(pems, [mesh.certificatePem, external.rootPem, second.rootPem])
    assert.equal(certificates.length, 3)
  })

  const leaf = first.issue().certificatePem
  const cases: [rule: string, roots: CaRoots, message: RegExp][] = [
    // TLS would trust the public CAs.
    ['an empty list', rootsAnswer([]), /returned no CA roots/],
    ['a text without PEM', rootsAnswer(['none']), /root-0 is not a PEM certificate/],
    ['garbage in PEM', rootsAnswer([first.rootPem.replace(/\n.{64}\n/, '\n')]), /root-0 cannot be parsed/],
    ['a leaf', rootsAnswer([leaf]), /root-0 is not a CA/],
    ['a leaf in a bundle', rootsAnswer([first.rootPem + leaf]), /root-0 is not a CA/],
    [
      'a bundle over 1 MiB',
      rootsAnswer([first.rootPem + ' '.repeat(1024 * 1024)]),
      /root-0 cannot be parsed/,
    ],
    ['one bad root among good ones', rootsAnswer([first.rootPem, leaf]), /root-1 is not a CA/],
    [
      'a CA flag without the right to sign',
      rootsAnswer([first.issue({ isCa: true }).certificatePem]),
      /not a CA/,
    ],
    ['an empty trust domain', rootsAnswer([first.rootPem], ''), /invalid trust domain: ""/],
    [
      'an upper-case trust domain',
      rootsAnswer([first.rootPem], 'Mesh.consul'),
      /invalid trust domain: "Mesh.consul"/,
    ],
    ['a trust domain with a path', rootsAnswer([first.rootPem], `${TD}/ns`), /trust domain/],
    ['a trust domain of 256 bytes', rootsAnswer([first.rootPem], 'a'.repeat(256)), /trust domain/],
  ]
  for (const [rule, roots, message] of cases) {
    it(`refuses ${rule}`, () => {
      assert.throws(() => checkRoots(roots), { name: 'IdentityError', code: 'ERR_CONNECT_ROOTS', message })
    })
  }
})

describe('RootsStore', () => {
  const answer = (pems: readonly string[], active = 0, trustDomain = TD): unknown => ({
    TrustDomain: trustDomain,
    ActiveRootID: `root-${active}`,
    Roots: pems.map((RootCert, i) => ({ ID: `root-${i}`, Name: '', RootCert, Active: i === active })),
  })

  const answer1 = answer([first.rootPem])
  const answer2 = answer([first.rootPem, second.rootPem])

  async function open() {
    const [agent, clock] = [new FakeAgent(), new FakeClock()]
    const store = new RootsStore(agent, { clock, random: () => 0 })
    const [changes, failures]: [Roots[], Error[]] = [[], []]
    store.on('changed', (roots) => changes.push(roots))
    store.on('failed', (error) => failures.push(error))
    await clock.advance(0)
    return {
      store,
      clock,
      changes,
      failures,
      count: () => agent.count(PATH),
      respond: async (body: unknown, index: number) => {
        agent.last(PATH).answer({ body, index })
        await clock.advance(0)
      },
      fail: async (error: Error) => {
        agent.last(PATH).fail(error)
        await settle()
      },
      request: () => agent.last(PATH).request,
    }
  }

  it('has no roots before the first answer, and then those of the last answer', async () => {
    const { store, respond, changes, request } = await open()
    const pems = (): readonly string[] | undefined => store.current?.pems
    assert.equal(pems(), undefined)
    assert.equal(request().query?.['index'], undefined)
    await respond(answer1, 5)
    assert.deepEqual(pems(), [first.rootPem])
    assert.equal(request().query?.['index'], 5)
    await respond(answer2, 6)
    assert.deepEqual(pems(), [first.rootPem, second.rootPem])
    assert.equal(changes.length, 2)
    assert.equal(changes[1], store.current)
  })

  it('updates the active root without an event when nothing else changes', async () => {
    const { store, respond, changes } = await open()
    await respond(answer2, 5)
    await respond(answer([first.rootPem, second.rootPem], 1), 6)
    assert.equal(store.current?.activeRootId, 'root-1')
    assert.equal(changes.length, 1)
  })

  it('emits a change of the trust domain', async () => {
    const { store, respond, changes } = await open()
    await respond(answer1, 5)
    await respond(answer([first.rootPem], 0, 'other.consul'), 6)
    assert.equal(changes.length, 2)
    assert.equal(store.current?.trustDomain, 'other.consul')
  })

  it('reports invalid roots, retries, and keeps the last valid roots', async () => {
    const { store, respond, failures, changes, clock, count } = await open()
    await respond(answer1, 5)
    await respond(answer([]), 6)
    assert.deepEqual(store.current?.pems, [first.rootPem])
    assert.ok(failures[0] instanceof IdentityError && failures[0].code === 'ERR_CONNECT_ROOTS')
    assert.equal(store.lastError, failures[0])
    const before = count()
    await clock.advance(1000)
    assert.equal(count(), before + 1)
    await respond(answer2, 7)
    assert.equal(changes.length, 2)
    assert.equal(store.lastError, undefined)
  })

  it('retries after a failure, and clears the error when the roots are unchanged', async () => {
    const { store, respond, fail, failures, clock } = await open()
    await respond(answer1, 5)
    await fail(AWAY)
    assert.deepEqual(failures, [AWAY])
    assert.equal(store.lastError, AWAY)
    await clock.advance(1000)
    await respond(answer1, 5)
    assert.equal(store.lastError, undefined)
  })

  it('sends no requests and emits no events after close()', async () => {
    const { store, respond, changes, clock, count, request } = await open()
    await respond(answer1, 5)
    store.close()
    assert.equal(request().signal?.aborted, true)
    const before = count()
    await respond(answer2, 6)
    await clock.advance(600_000)
    assert.equal(count(), before)
    assert.equal(changes.length, 1)
    assert.equal(clock.pending, 0)
  })
})
