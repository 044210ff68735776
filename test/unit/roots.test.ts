import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { CaRoots } from '../../src/agent/endpoints/roots.js'
import { AgentError, IdentityError } from '../../src/base/errors.js'
import { type Roots, RootsStore, checkRoots } from '../../src/identity/roots.js'
import { TestCa } from '../../src/testing/index.js'
import { CONSUL_ROOTS } from '../fixtures/consul-answers.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const PATH = '/v1/agent/connect/ca/roots'
const [first, second] = [TestCa.create({ trustDomain: TD }), TestCa.create({ trustDomain: TD })]

function given(pems: readonly string[], trustDomain = TD): CaRoots {
  const roots = pems.map((certificatePem, i) => ({
    id: `root-${i}`,
    name: '',
    certificatePem,
    active: i === 0,
  }))
  return { trustDomain, activeRootId: 'root-0', roots }
}

describe('checkRoots', () => {
  it("takes Consul's own", () => {
    const [root] = CONSUL_ROOTS.Roots
    const { trustDomain, certificates, pems, activeRootId } = checkRoots(
      given([root!.RootCert], CONSUL_ROOTS.TrustDomain),
    )
    assert.equal(trustDomain, CONSUL_ROOTS.TrustDomain)
    assert.equal(certificates[0]?.serialNumber, '07')
    assert.deepEqual(pems, [root!.RootCert])
    assert.equal(activeRootId, 'root-0')
  })

  it('takes both roots of a rotation, in order', () => {
    const pems = [second.rootPem, first.rootPem]
    assert.deepEqual(checkRoots(given(pems)).pems, pems)
  })

  it('takes every certificate of a bundle as a trust anchor, each once', () => {
    const external = TestCa.create({ trustDomain: TD })
    const mesh = external.intermediate()
    const bundle = `# the mesh's CA\n${mesh.certificatePem}\n# and the one above\n${external.rootPem}`
    const { pems, certificates } = checkRoots(given([bundle, second.rootPem + external.rootPem]))
    assert.deepEqual(pems, [mesh.certificatePem, external.rootPem, second.rootPem])
    assert.equal(certificates.length, 3)
  })

  const leaf = first.issue().certificatePem
  const cases: [rule: string, roots: CaRoots, message: RegExp][] = [
    ['an empty list: TLS would trust the system', given([]), /returned no CA roots/],
    ['no PEM', given(['none']), /root-0 is not a PEM certificate/],
    ['garbage in PEM', given([first.rootPem.replace(/\n.{64}\n/, '\n')]), /root-0 cannot be parsed/],
    ['a leaf', given([leaf]), /root-0 is not a CA/],
    ['a leaf in a bundle', given([first.rootPem + leaf]), /root-0 is not a CA/],
    ['a bundle over 1 MiB', given([first.rootPem + ' '.repeat(1024 * 1024)]), /root-0 cannot be parsed/],
    ['one bad root among good ones', given([first.rootPem, leaf]), /root-1 is not a CA/],
    ['a CA flag without the right to sign', given([first.issue({ isCa: true }).certificatePem]), /not a CA/],
    ['an empty trust domain', given([first.rootPem], ''), /invalid trust domain: ""/],
    [
      'an upper-case trust domain',
      given([first.rootPem], 'Mesh.consul'),
      /invalid trust domain: "Mesh.consul"/,
    ],
    ['a trust domain with a path', given([first.rootPem], `${TD}/ns`), /trust domain/],
    ['a trust domain of 256 bytes', given([first.rootPem], 'a'.repeat(256)), /trust domain/],
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
      answer: async (body: unknown, index: number) => {
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

  it('has none before the first answer, then the first, then the next', async () => {
    const { store, answer, changes, request } = await open()
    const pems = (): readonly string[] | undefined => store.current?.pems
    assert.equal(pems(), undefined)
    assert.equal(request().query?.['index'], undefined)
    await answer(answer1, 5)
    assert.deepEqual(pems(), [first.rootPem])
    assert.equal(request().query?.['index'], 5)
    await answer(answer2, 6)
    assert.deepEqual(pems(), [first.rootPem, second.rootPem])
    assert.equal(changes.length, 2)
    assert.equal(changes[1], store.current)
    store.close()
  })
  const answer1 = answer([first.rootPem])
  const answer2 = answer([first.rootPem, second.rootPem])

  it('roots that only have other names are no change', async () => {
    const { store, answer, changes } = await open()
    await answer(answer1, 5)
    await answer({ ...(answer1 as object), ActiveRootID: 'renamed' }, 6)
    assert.equal(changes.length, 1)
    store.close()
  })

  it('tells which root is active, also when nothing else has changed', async () => {
    const { store, answer: give } = await open()
    await give(answer2, 5)
    await give(answer([first.rootPem, second.rootPem], 1), 6)
    assert.equal(store.current?.activeRootId, 'root-1')
    store.close()
  })

  it('another trust domain is a change', async () => {
    const { store, answer: give, changes } = await open()
    await give(answer1, 5)
    await give(answer([first.rootPem], 0, 'other.consul'), 6)
    assert.equal(changes.length, 2)
    assert.equal(store.current?.trustDomain, 'other.consul')
    store.close()
  })

  it('bad roots are told and tried again; the last good ones stay', async () => {
    const { store, answer: give, failures, changes, clock, count } = await open()
    await give(answer1, 5)
    await give(answer([]), 6)
    assert.deepEqual(store.current?.pems, [first.rootPem])
    assert.ok(failures[0] instanceof IdentityError && failures[0].code === 'ERR_CONNECT_ROOTS')
    assert.equal(store.lastError, failures[0])
    const before = count()
    await clock.advance(1000)
    assert.equal(count(), before + 1)
    await give(answer2, 7)
    assert.equal(changes.length, 2)
    assert.equal(store.lastError, undefined)
    store.close()
  })

  it('the agent is asked again after a failure, and all is well when it has the same', async () => {
    const { store, answer: give, fail, failures, clock } = await open()
    await give(answer1, 5)
    const away = new AgentError('ERR_CONNECT_AGENT_UNREACHABLE', 'away', { address: 'a', request: 'GET /' })
    await fail(away)
    assert.deepEqual(failures, [away])
    assert.equal(store.lastError, away)
    await clock.advance(1000)
    await give(answer1, 5)
    assert.equal(store.lastError, undefined)
    store.close()
  })

  it('closed, it asks no more and tells nothing', async () => {
    const { store, answer: give, changes, clock, count, request } = await open()
    await give(answer1, 5)
    store.close()
    assert.equal(request().signal?.aborted, true)
    const before = count()
    await give(answer2, 6)
    await clock.advance(600_000)
    assert.equal(count(), before)
    assert.equal(changes.length, 1)
    assert.equal(clock.pending, 0)
  })
})
