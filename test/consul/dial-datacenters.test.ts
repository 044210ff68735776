import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { AgentError, DialError, type Upstream } from '../../src/index.js'
import { portOf, rejection } from '../fixtures/mesh.js'
import { startDatacenters } from './cluster.js'
import { type Instance, fleet } from './fleet.js'
import { skip } from './real-agent.js'
import {
  ROTATION_MS,
  agentJson,
  agentOptions,
  forget,
  intend,
  joiner,
  nextEvent,
  register,
  rotateCa,
  until,
} from './service-mesh.js'
import { SteadyDials, answerAs, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

/** Between the datacenters there may be more than one that must answer. */
const REPLICATION_MS = 30_000

test('two datacenters that are joined', { skip }, async (t) => {
  const { dc1, dc2 } = await startDatacenters(t)
  const [near, far] = [joiner(t, dc1), joiner(t, dc2)]
  const { TrustDomain } = await agentJson<{ TrustDomain: string }>(dc1, '/v1/agent/connect/ca/roots')
  const idOf = (name: string, dc: string): string => `spiffe://${TrustDomain}/ns/default/dc/${dc}/svc/${name}`
  const [web, farWeb] = [near('web'), far('web')]
  const ttlCheck = (_: number, name: string): object => ({
    Check: { CheckID: name, TTL: '600s', Status: 'passing' },
  })
  const [nearApi, farApi] = [near('api'), far('api')]
  await fleet(t, dc1, nearApi, 2, ttlCheck)
  const [away] = (await fleet(t, dc2, farApi, 3)).slice(2) as [Instance]
  // So that a name tells the datacenter: the first two of dc2 are not among them.
  for (const id of ['api-1', 'api-2']) {
    await agentJson(dc2, `/v1/agent/service/deregister/${id}`, { method: 'PUT' })
  }
  await until('only the third is left', async () => {
    return (await agentJson<unknown[]>(dc2, '/v1/health/connect/api')).length === 1
  })

  await t.test('an upstream is of our own, unless another is named', async () => {
    const here = ['api-1', 'api-2']
    assert.deepEqual(await answerers('api'), here)
    assert.deepEqual(await answerers({ service: 'api', datacenter: 'dc1' }), here)
    assert.deepEqual(await answerers({ service: 'api', datacenter: 'dc2' }), ['api-3'])
    assert.equal(await peerOf('api'), idOf('api', 'dc1'))
    assert.equal(await peerOf({ service: 'api', datacenter: 'dc2' }), idOf('api', 'dc2'))
  })

  await t.test('also from the other one', async () => {
    const theirs = await farWeb.dial({ service: 'api', datacenter: 'dc1' })
    assert.equal(theirs.peer.spiffeId, idOf('api', 'dc1'))
    theirs.destroy()
    assert.equal((await dialOnce(farWeb, 'api')).instance, 'api-3')
  })

  await t.test('or another is looked up in by default', async () => {
    const options = { agent: agentOptions(dc1, { datacenter: 'dc2' }) }
    assert.equal((await dialOnce(near('web', options), 'api')).instance, 'api-3')
  })

  await t.test('the same name in another datacenter is another service', async () => {
    const upstream = { address: away.address, service: 'api' }
    const error = await rejection(web.dial(upstream))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    assert.match(error.message, /expected datacenter "dc1", got datacenter "dc2"/)
    assert.equal((await dialOnce(web, { ...upstream, datacenter: 'dc2' })).instance, 'api-3')
  })

  await t.test('what has another address from elsewhere is dialled there', async () => {
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
    await until('it is known', async () => (await dialOnce(farWeb, 'two-faced')).instance === 'inside')
    assert.equal((await dialOnce(web, { service: 'two-faced', datacenter: 'dc2' })).instance, 'outside')
  })

  await t.test('a query of the other one, and a name of its DNS', async () => {
    const body = JSON.stringify({ Name: 'of-dc2', Service: { Service: 'api' } })
    await agentJson(dc2, '/v1/query', { method: 'POST', body })
    const query = { query: 'of-dc2', datacenter: 'dc2' }
    assert.equal(await peerOf(query), idOf('api', 'dc2'))
    const missing = await dialOnce(web, { query: 'of-dc2' })
    assert.ok(missing.error instanceof DialError && missing.error.reason === 'unknown', String(missing.error))
    const asking = near('web', { agent: agentOptions(dc1, { dnsAddress: dc1.dnsAddress }) })
    const name = { dns: 'api.connect.dc2.consul', service: 'api' }
    assert.equal((await dialOnce(asking, { ...name, datacenter: 'dc2' })).instance, 'api-3')
    // The name of the DNS says nothing of who must be there.
    assert.equal((await dialOnce(asking, name)).error?.code, 'ERR_CONNECT_PEER_IDENTITY')
  })

  await t.test('a query fails over, and comes back, and no dial fails', async (t) => {
    const Service = { Service: 'api', Failover: { Datacenters: ['dc2'] } }
    const body = JSON.stringify({ Name: 'anywhere', Service, DNS: { TTL: '1s' } })
    await agentJson(dc1, '/v1/query', { method: 'POST', body })
    const dials = new SteadyDials(t, web, { query: 'anywhere' }, { perSecond: 50 })
    const answeredBy = async (names: readonly string[]): Promise<void> => {
      const from = performance.now()
      await until(`only ${names.join(' and ')} answer`, () => {
        const last = dials.outcomes.filter(({ startedAt }) => startedAt > from).slice(-50)
        return last.length === 50 && Object.keys(shares(last)).toSorted().join() === names.join()
      })
    }
    const tell = async (word: 'pass' | 'fail'): Promise<void> => {
      for (const id of ['api-1', 'api-2']) {
        await agentJson(dc1, `/v1/agent/check/${word}/${id}`, { method: 'PUT' })
      }
    }
    await answeredBy(['api-1', 'api-2'])
    await tell('fail')
    await answeredBy(['api-3'])
    assert.equal(await peerOf({ query: 'anywhere' }), idOf('api', 'dc2'))
    await tell('pass')
    await answeredBy(['api-1', 'api-2'])
    const outcomes = await dials.stop()
    t.diagnostic(JSON.stringify({ dials: outcomes.length, shares: shares(outcomes) }))
    assertNoneFailed(outcomes)
  })

  await t.test('an intention of the primary denies in the secondary', async () => {
    const denied = async (): Promise<boolean> => {
      const { error } = await dialOnce(web, { service: 'api', datacenter: 'dc2' })
      return error?.code === 'ERR_CONNECT_REJECTED'
    }
    await intend(dc1, 'deny', 'web', 'api')
    await until('it is denied there', denied, REPLICATION_MS)
    await forget(dc1, 'web', 'api')
    await until('it is let in again', async () => !(await denied()), REPLICATION_MS)
  })

  await t.test(
    'a rotation of the primary’s certificate authority reaches both, and no dial fails',
    async (t) => {
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
    },
  )

  await t.test('one that is gone: what is known of it serves on, and what is not is refused', async (t) => {
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
    const said = error instanceof AgentError ? error : error?.cause
    assert.ok(said instanceof AgentError, String(error))
    assert.equal((await dialOnce(web, 'api')).error, undefined)
  })

  async function answerers(upstream: Upstream): Promise<string[]> {
    const outcomes = []
    for (let i = 0; i < 40; i += 1) outcomes.push(await dialOnce(web, upstream))
    assertNoneFailed(outcomes)
    return Object.keys(shares(outcomes)).toSorted()
  }

  async function peerOf(upstream: Upstream): Promise<string> {
    const socket = await web.dial(upstream)
    socket.destroy()
    return socket.peer.spiffeId
  }
})
