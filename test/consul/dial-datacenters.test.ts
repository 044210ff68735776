import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { AgentError, DialError, type Upstream } from '../../src/index.js'
import { portOf, rejection } from '../fixtures/mesh.js'
import { startDatacenters } from './cluster.js'
import { type Instance, fleet, withTtlCheck } from './fleet.js'
import { skip } from './real-agent.js'
import {
  ROTATION_MS,
  agentOptions,
  createQuery,
  deleteIntention,
  deregister,
  instances,
  intend,
  joiner,
  nextEvent,
  register,
  rotateCa,
  spiffeIds,
  until,
  updateCheck,
} from './service-mesh.js'
import {
  SteadyDials,
  answerAs,
  assertNoneFailed,
  dialMany,
  dialOnce,
  instanceNames,
  shares,
} from './steady-dials.js'

/** A change can pass several servers on its way between datacenters. */
const REPLICATION_MS = 30_000

test('two joined datacenters', { skip }, async (t) => {
  const { dc1, dc2 } = await startDatacenters(t)
  const [near, far] = [joiner(t, dc1), joiner(t, dc2)]
  const idOf = await spiffeIds(dc1)
  const [web, farWeb] = [near('web'), far('web')]
  const [nearApi, farApi] = [near('api'), far('api')]
  await fleet(t, dc1, nearApi, 2, withTtlCheck)
  const [away] = (await fleet(t, dc2, farApi, 3)).slice(2) as [Instance]
  // The instances of the two datacenters must have different names.
  for (const id of ['api-1', 'api-2']) await deregister(dc2, id)
  await until('dc2 has one instance', async () => (await instances(dc2, 'api')) === 1)

  await t.test('a dial uses the datacenter of the agent, or the one in its upstream', async () => {
    const local = ['api-1', 'api-2']
    assert.deepEqual(await answerers('api'), local)
    assert.deepEqual(await answerers({ service: 'api', datacenter: 'dc1' }), local)
    assert.deepEqual(await answerers({ service: 'api', datacenter: 'dc2' }), ['api-3'])
    assert.equal(await peerOf('api'), idOf('api', 'dc1'))
    assert.equal(await peerOf({ service: 'api', datacenter: 'dc2' }), idOf('api', 'dc2'))
  })

  await t.test('a dial from the secondary reaches the primary', async () => {
    const socket = await farWeb.dial({ service: 'api', datacenter: 'dc1' })
    assert.equal(socket.peer.spiffeId, idOf('api', 'dc1'))
    socket.destroy()
    assert.equal((await dialOnce(farWeb, 'api')).instance, 'api-3')
  })

  await t.test('the agent option datacenter changes the default', async () => {
    const options = { agent: agentOptions(dc1, { datacenter: 'dc2' }) }
    assert.equal((await dialOnce(near('web', options), 'api')).instance, 'api-3')
  })

  await t.test('an instance of another datacenter has the wrong identity', async () => {
    const upstream = { address: away.address, service: 'api' }
    const error = await rejection(web.dial(upstream))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    assert.match(error.message, /expected datacenter "dc1", got datacenter "dc2"/)
    assert.equal((await dialOnce(web, { ...upstream, datacenter: 'dc2' })).instance, 'api-3')
  })

  await t.test('a dial of another datacenter uses the WAN address', async () => {
    const service = far('two-faced')
    const [inside, outside] = await Promise.all(
      ['inside', 'outside'].map((name) => service.listen({ port: 0, host: '127.0.0.1' }, answerAs(name))),
    )
    const wan = { Address: '127.0.0.1', Port: portOf(outside!) }
    await register(dc2, {
      Name: 'two-faced',
      Address: '127.0.0.1',
      Port: portOf(inside!),
      Connect: { Native: true },
      TaggedAddresses: { wan },
    })
    await until(
      'the instance answers',
      async () => (await dialOnce(farWeb, 'two-faced')).instance === 'inside',
    )
    assert.equal((await dialOnce(web, { service: 'two-faced', datacenter: 'dc2' })).instance, 'outside')
  })

  await t.test('queries and DNS names reach the other datacenter', async () => {
    await createQuery(dc2, { Name: 'of-dc2', Service: { Service: 'api' } })
    const query = { query: 'of-dc2', datacenter: 'dc2' }
    assert.equal(await peerOf(query), idOf('api', 'dc2'))
    const missing = await dialOnce(web, { query: 'of-dc2' })
    assert.ok(missing.error instanceof DialError && missing.error.reason === 'unknown', String(missing.error))
    const dnsWeb = near('web', { agent: agentOptions(dc1, { dnsAddress: dc1.dnsAddress }) })
    const name = { dns: 'api.connect.dc2.consul', service: 'api' }
    assert.equal((await dialOnce(dnsWeb, { ...name, datacenter: 'dc2' })).instance, 'api-3')
    // The DNS name does not determine the expected identity.
    assert.equal((await dialOnce(dnsWeb, name)).error?.code, 'ERR_CONNECT_PEER_IDENTITY')
  })

  await t.test('a query fails over and back without a failed dial', async (t) => {
    const Service = { Service: 'api', Failover: { Datacenters: ['dc2'] } }
    await createQuery(dc1, { Name: 'anywhere', Service, DNS: { TTL: '1s' } })
    const dials = new SteadyDials(t, web, { query: 'anywhere' }, { perSecond: 50 })
    const answeredBy = async (names: readonly string[]): Promise<void> => {
      const from = performance.now()
      await until(`only ${names.join(' and ')} answer`, () => {
        const last = dials.outcomes.filter(({ startedAt }) => startedAt > from).slice(-50)
        return last.length === 50 && instanceNames(last).join() === names.join()
      })
    }
    const updateChecks = (action: 'pass' | 'fail'): Promise<unknown> =>
      Promise.all(['api-1', 'api-2'].map((id) => updateCheck(dc1, action, id)))
    await answeredBy(['api-1', 'api-2'])
    await updateChecks('fail')
    await answeredBy(['api-3'])
    assert.equal(await peerOf({ query: 'anywhere' }), idOf('api', 'dc2'))
    await updateChecks('pass')
    await answeredBy(['api-1', 'api-2'])
    const outcomes = await dials.stop()
    t.diagnostic(JSON.stringify({ dials: outcomes.length, shares: shares(outcomes) }))
    assertNoneFailed(outcomes)
  })

  await t.test('an intention of the primary applies in the secondary', async () => {
    const denied = async (): Promise<boolean> => {
      const { error } = await dialOnce(web, { service: 'api', datacenter: 'dc2' })
      return error?.code === 'ERR_CONNECT_REJECTED'
    }
    await intend(dc1, 'deny', 'web', 'api')
    await until('web is denied', denied, REPLICATION_MS)
    await deleteIntention(dc1, 'web', 'api')
    await until('web is allowed', async () => !(await denied()), REPLICATION_MS)
  })

  await t.test('a CA rotation in the primary reaches both without a failed dial', async (t) => {
    const dials = ['dc1', 'dc2'].map(
      (datacenter) => new SteadyDials(t, web, { service: 'api', datacenter }, { perSecond: 20 }),
    )
    const rotated = [web, nearApi, farWeb, farApi].map((each) =>
      nextEvent(each, 'rotated', () => true, ROTATION_MS),
    )
    const startedAt = performance.now()
    await rotateCa(dc1)
    await Promise.all(rotated)
    const ms = performance.now() - startedAt
    const outcomes = await Promise.all(dials.map((each) => each.stop()))
    t.diagnostic(JSON.stringify({ ms, dials: outcomes.map(({ length }) => length) }))
    for (const each of outcomes) assertNoneFailed(each)
  })

  await t.test(
    'without the secondary, dials use its known instances and fail for unknown services',
    async (t) => {
      await dc2.kill()
      const socket = await web.dial({ service: 'api', datacenter: 'dc2' })
      assert.equal(socket.peer.spiffeId, idOf('api', 'dc2'))
      socket.on('error', () => undefined).destroy()
      await once(socket, 'close')
      const { error, dialMs } = await dialOnce(
        web,
        { service: 'never', datacenter: 'dc2' },
        { timeoutMs: 5_000 },
      )
      t.diagnostic(JSON.stringify({ dialMs, error: String(error), cause: String(error?.cause) }))
      const cause = error instanceof AgentError ? error : error?.cause
      assert.ok(cause instanceof AgentError, String(error))
      assert.equal((await dialOnce(web, 'api')).error, undefined)
    },
  )

  async function answerers(upstream: Upstream): Promise<string[]> {
    return instanceNames(await dialMany(web, 40, upstream))
  }

  async function peerOf(upstream: Upstream): Promise<string> {
    const socket = await web.dial(upstream)
    socket.destroy()
    return socket.peer.spiffeId
  }
})
