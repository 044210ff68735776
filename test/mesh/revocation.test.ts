import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import type { Service } from '../../src/index.js'
import { type TestMesh, nextEvent, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { WAYS, at, dial, echo, openRaw } from '../fixtures/ways.js'

describe('an intention that changes to deny', () => {
  for (const version of ['1.8', '1.15'] as const) {
    for (const [kind, { listen, open }] of Object.entries(WAYS)) {
      it(`ends ${kind} of its source, and no other (Consul ${version})`, async (t) => {
        const { agent, join } = await startMesh(t, { version })
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

  it('keeps open connections with revoke: false, and denies new ones', async (t) => {
    const { web, api, setIntention, port } = await connected(t, { revoke: false })
    const open = await openRaw(web, port)
    await setIntention('deny')
    await open.works()
    assert.equal((await rejection(openRaw(web, port))).code, 'ERR_CONNECT_REJECTED')
    // An explicit reauthorize() ends it all the same.
    assert.equal(await api.reauthorize(), 1)
    await open.closed
  })

  it('ends the connections of a listener that drains', async (t) => {
    const { web, api, agent, port } = await connected(t)
    const open = await openRaw(web, port)
    const closing = api.close({ drainTimeoutMs: 60_000 })
    agent.setIntention('web', 'api', 'deny')
    await Promise.all([open.closed, closing])
  })

  it('denies new connections until it changes back', async (t) => {
    const { web, setIntention, port } = await connected(t)
    await setIntention('deny')
    assert.equal((await rejection(openRaw(web, port))).code, 'ERR_CONNECT_REJECTED')
    await setIntention('allow')
    await (await openRaw(web, port)).works()
  })

  it('applies to a pending decision', async (t) => {
    const { agent, join } = await startMesh(t)
    agent.setIntention('web', 'api', 'allow')
    let isPending = false
    let release: (() => void) | undefined
    const released = new Promise<void>((resolve) => (release = resolve))
    const api = join('api', {
      authorize: async ({ intentions }) => {
        const decision = await intentions()
        isPending = true
        await released
        return decision
      },
    })
    const port = portOf(await api.listen(at, echo))
    const failed = rejection(openRaw(join('web'), port))
    await until('the decision is pending', () => isPending)
    const changed = nextEvent(api, 'decisions')
    agent.setIntention('web', 'api', 'deny')
    await changed
    release?.()
    assert.equal((await failed).code, 'ERR_CONNECT_REJECTED')
    assert.deepEqual(api.stats().decisions, [{ authorized: false, basis: 'intention', count: 1 }])
  })

  it('ends all connections of one of twenty sources, and no others', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await api.listen(at, echo))
    const closed: string[] = []
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const source = join(`source-${i}`)
        await source.ready()
        for (let k = 0; k < 10; k += 1)
          void (await openRaw(source, port)).closed.then(() => closed.push(source.name))
      }),
    )
    assert.equal(api.stats().connections, 200)
    agent.setIntention('source-7', 'api', 'deny')
    await until('ten connections have ended', () => closed.length === 10)
    assert.deepEqual(new Set(closed), new Set(['source-7']))
    assert.equal(api.stats().connections, 190)
    assert.deepEqual(api.stats().revocations, [{ basis: 'intention', count: 10 }])
  })
})

describe('a connection ends', () => {
  it('when an allowing intention is deleted and the default is deny', async (t) => {
    const { web, agent, port } = await connected(t, {}, 'deny')
    const open = await openRaw(web, port)
    agent.deleteIntention('web', 'api')
    await open.closed
  })

  it('when its certificate expires, with maxPeerAge', async (t) => {
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

  it('when the authorizer denies it at reauthorize()', async (t) => {
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

  it('when the authorizer times out at reauthorize()', async (t) => {
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

  it('when the agent is away for longer than staleIntentionsMs', async (t) => {
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
  setIntention: (action: 'allow' | 'deny') => Promise<void>
}> {
  const { agent, join } = await startMesh(t, { defaultPolicy })
  agent.setIntention('web', 'api', 'allow')
  const [api, web] = [join('api'), join('web')]
  const port = portOf(await api.listen({ ...at, ...options }, echo))
  // The first connection starts the watch of the intentions.
  await readAll((await dial(web, port)).end('x'))
  const setIntention = async (action: 'allow' | 'deny'): Promise<void> => {
    const changed = nextEvent(api, 'decisions')
    agent.setIntention('web', 'api', action)
    await changed
  }
  return { agent, api, web, port, setIntention }
}
