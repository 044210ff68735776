import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import type { Service } from '../../src/index.js'
import { nextEvent, portOf, readAll, rejection, startMesh, type TestMesh } from '../fixtures/mesh.js'
import { WAYS, at, dial, echo, openRaw } from '../fixtures/ways.js'

describe('an intention that turns to deny', () => {
  for (const version of ['1.8', '1.15'] as const) {
    for (const [what, { listen, open }] of Object.entries(WAYS)) {
      it(`ends ${what} of its source, and no other (Consul ${version})`, async (t) => {
        const mesh = await startMesh(t, { version })
        const { agent, join } = mesh
        const api = join('api')
        const port = portOf(await listen(api))
        const denied = await open(join('web'), port)
        const other = await open(join('other'), port)
        const revoked = nextEvent(api, 'revoked')
        agent.setIntention('web', 'api', 'deny')
        await denied.closed
        const [error] = await revoked
        assert.equal(error.code, 'ERR_CONNECT_REVOKED')
        assert.deepEqual([error.peer.service, error.basis], ['web', 'intention'])
        assert.match(error.reason, /denied by intention default\/web => default\/api/)
        assert.ok(error.ageMs >= 0 && error.ageMs < 60_000)
        await other.works()
        assert.deepEqual(api.stats().revocations, [{ basis: 'intention', count: 1 }])
        assert.equal(api.stats().connections, 1)
      })
    }
  }

  it('leaves all open with revoke: false, and lets no new one in', async (t) => {
    const { web, api, turn, port } = await connected(t, { revoke: false })
    const open = await openRaw(web, port)
    await turn('deny')
    await open.works()
    assert.equal((await rejection(openRaw(web, port))).code, 'ERR_CONNECT_REJECTED')
    // Who asks for it gets it.
    assert.equal(await api.reauthorize(), 1)
    await open.closed
  })

  it('ends connections of a listener that drains', async (t) => {
    const { web, api, agent, port } = await connected(t)
    const open = await openRaw(web, port)
    const closing = api.close({ drainTimeoutMs: 60_000 })
    agent.setIntention('web', 'api', 'deny')
    await Promise.all([open.closed, closing])
  })

  it('and back lets new ones in', async (t) => {
    const { web, turn, port } = await connected(t)
    await turn('deny')
    assert.equal((await rejection(openRaw(web, port))).code, 'ERR_CONNECT_REJECTED')
    await turn('allow')
    await (await openRaw(web, port)).works()
  })

  it('is heeded by a decision that is under way', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'allow')
    let slow: (() => void) | undefined
    const asked = new Promise<void>((resolve) => (slow = resolve))
    let goOn: () => void = () => undefined
    const held = new Promise<void>((resolve) => (goOn = resolve))
    const api = join('api', {
      authorize: async ({ intentions }) => {
        const decision = await intentions()
        slow?.()
        await held
        return decision
      },
    })
    const port = portOf(await api.listen(at, echo))
    const opening = rejection(openRaw(join('web'), port))
    await asked
    const told = nextEvent(api, 'decisions')
    agent.setIntention('web', 'api', 'deny')
    await told
    goOn()
    assert.equal((await opening).code, 'ERR_CONNECT_REJECTED')
    assert.deepEqual(api.stats().decisions, [{ authorized: false, basis: 'intention', count: 1 }])
  })

  it('of one of twenty sources ends its connections and no other', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await api.listen(at, echo))
    const closed = new Map<string, number>()
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const name = `source-${i}`
        const source = join(name)
        await source.ready()
        for (let k = 0; k < 10; k += 1) {
          const { closed: ended } = await openRaw(source, port)
          void ended.then(() => closed.set(name, (closed.get(name) ?? 0) + 1))
        }
      }),
    )
    assert.equal(api.stats().connections, 200)
    let left = 10
    const allRevoked = new Promise<void>((resolve) =>
      api.on('revoked', () => {
        if ((left -= 1) === 0) resolve()
      }),
    )
    agent.setIntention('source-7', 'api', 'deny')
    await allRevoked
    assert.equal(api.stats().connections, 190)
    assert.deepEqual(
      [...closed.keys()].filter((name) => name !== 'source-7'),
      [],
    )
  })
})

describe('other reasons to end a connection', () => {
  it('an allow that is taken away where the default denies', async (t) => {
    const { web, agent, port } = await connected(t, {}, 'deny')
    const open = await openRaw(web, port)
    agent.deleteIntention('web', 'api')
    await open.closed
  })

  it('a certificate that expires, with maxPeerAge', async (t) => {
    const mesh = await startMesh(t, { leafTtlMs: 3_000 })
    const api = mesh.join('api')
    const strict = portOf(await api.listen({ ...at, maxPeerAge: 'certificate' }, echo))
    const lenient = portOf(await api.listen(at, echo))
    const web = mesh.join('web')
    const [open, other] = [await openRaw(web, strict), await openRaw(web, lenient)]
    const [error] = await nextEvent(api, 'revoked')
    await open.closed
    assert.equal(error.basis, 'expired')
    assert.match(error.reason, /its certificate or an issuer expired at 20/)
    await other.works()
  })

  it('an authorizer that has changed its mind, when it is told', async (t) => {
    const { join } = await startMesh(t)
    const allowed = new Set(['web', 'other'])
    const api = join('api', {
      authorize: ({ peer }) => ({ authorized: allowed.has(peer.service), reason: 'the list' }),
    })
    const port = portOf(await api.listen(at, echo))
    const [open, other] = [await openRaw(join('web'), port), await openRaw(join('other'), port)]
    allowed.delete('web')
    assert.equal(await api.reauthorize(), 1)
    await open.closed
    await other.works()
  })

  it('an authorizer that is late with its second answer', async (t) => {
    const { join } = await startMesh(t)
    let answers = 0
    const api = join('api', {
      handshakeTimeoutMs: 200,
      authorize: () => {
        answers += 1
        return answers === 1 ? { authorized: true, reason: '' } : new Promise<never>(() => undefined)
      },
    })
    const port = portOf(await api.listen(at, echo))
    const open = await openRaw(join('web'), port)
    assert.equal(await api.reauthorize(), 1)
    await open.closed
    assert.deepEqual(api.stats().revocations, [{ basis: 'late', count: 1 }])
  })

  it('an agent that is away for too long', async (t) => {
    const { join, agent } = await startMesh(t)
    const api = join('api', { staleIntentionsMs: 300 })
    const port = portOf(await api.listen(at, echo))
    const open = await openRaw(join('web'), port)
    const stale = nextEvent(api, 'stale')
    await agent.stop()
    const [{ since, deniesAt, cause }] = await stale
    assert.equal(deniesAt.getTime() - since.getTime(), 300)
    assert.match(cause.message, /no answer from the agent/)
    await open.closed
    assert.equal(api.stats().revocations[0]?.basis, 'stale')
  })
})

async function connected(
  t: TestContext,
  options: { revoke?: boolean } = {},
  defaultPolicy: 'allow' | 'deny' = 'allow',
): Promise<{
  agent: TestMesh['agent']
  api: Service
  web: Service
  port: number
  turn: (action: 'allow' | 'deny') => Promise<void>
}> {
  const { agent, join } = await startMesh(t, { defaultPolicy })
  agent.setIntention('web', 'api', 'allow')
  const [api, web] = [join('api'), join('web')]
  const port = portOf(await api.listen({ ...at, ...options }, echo))
  // The first connection makes the intentions watched.
  await readAll((await dial(web, port)).end('x'))
  const turn = async (action: 'allow' | 'deny'): Promise<void> => {
    const told = nextEvent(api, 'decisions')
    agent.setIntention('web', 'api', action)
    await told
  }
  return { agent, api, web, port, turn }
}
