import './consul-binary.js'
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { deregister, updateCheck } from '../consul/service-mesh.js'
import { skip } from './envoy.js'
import { startSideBySide, untilReaches } from './side-by-side.js'

const Subsets = {
  v1: { Filter: 'Service.Meta.version == v1' },
  v2: { Filter: 'Service.Meta.version == v2' },
  none: { Filter: 'Service.Meta.version == v9' },
}

describe('A dial and Envoy reach the same instances', { skip }, () => {
  it('by the discovery chain of a tcp service', async (t) => {
    const { consul, instance, configure, reset, ours, theirs } = await startSideBySide(t)
    await instance('api', 'api-1', { version: 'v1' })
    await instance('api', 'api-2', { version: 'v2' })
    await instance('spare', 'spare-1', { version: 'v1' })
    await instance('spare', 'spare-2', { version: 'v2' })
    const table: Record<string, unknown> = {}
    const reach = async (t: { name: string }, ...ids: string[]): Promise<void> => {
      const [own, envoy] = [await untilReaches(ids, ours), await untilReaches(ids, theirs)]
      table[t.name] = { ours: own, envoy }
    }
    const resolver = (fields: object) => configure({ Kind: 'service-resolver', Name: 'api', ...fields })

    await t.test('without config entries', (t) => reach(t, 'api-1', 'api-2'))
    await t.test('with a default subset', async (t) => {
      await resolver({ DefaultSubset: 'v2', Subsets })
      await reach(t, 'api-2')
    })
    await t.test('with a default subset that no instance is in', async (t) => {
      await resolver({ DefaultSubset: 'none', Subsets })
      await reach(t, 'none')
    })
    await t.test('with a redirect', async (t) => {
      await resolver({ Redirect: { Service: 'spare' } })
      await reach(t, 'spare-1', 'spare-2')
    })
    await t.test('with a redirect to a subset', async (t) => {
      await configure({ Kind: 'service-resolver', Name: 'spare', Subsets })
      await resolver({ Redirect: { Service: 'spare', ServiceSubset: 'v1' } })
      await reach(t, 'spare-1')
    })
    await t.test('with a failover to a subset while no instance is in the first one', async (t) => {
      await resolver({
        DefaultSubset: 'none',
        Subsets,
        Failover: { '*': { Service: 'spare', ServiceSubset: 'v2' } },
      })
      await reach(t, 'spare-2')
    })
    await t.test('with a failover while the instance is healthy', async (t) => {
      await resolver({ DefaultSubset: 'v2', Subsets, Failover: { '*': { Service: 'spare' } } })
      await reach(t, 'api-2')
    })
    await t.test('with a failover while the instance is critical, and after its recovery', async (t) => {
      await updateCheck(consul, 'fail', 'check-api-2')
      await reach(t, 'spare-1', 'spare-2')
      await updateCheck(consul, 'pass', 'check-api-2')
      await reach({ name: `${t.name}: recovered` }, 'api-2')
    })
    await t.test('with a failover to several targets, of which the first has no instance', async (t) => {
      const Targets = [{ Service: 'missing' }, { ServiceSubset: 'v1' }, { Service: 'spare' }]
      await resolver({ DefaultSubset: 'none', Subsets, Failover: { '*': { Targets } } })
      await reach(t, 'api-1')
    })
    await t.test('with warnings, as the subset says', async (t) => {
      await updateCheck(consul, 'warn', 'check-api-1')
      await reset()
      await reach(t, 'api-1', 'api-2')
      const all = { Filter: 'Service.ID != none', OnlyPassing: true }
      await resolver({ DefaultSubset: 'all', Subsets: { all } })
      await reach({ name: `${t.name}: only passing` }, 'api-2')
      await updateCheck(consul, 'pass', 'check-api-1')
    })
    await t.test('after the instance was deregistered', async (t) => {
      await resolver({ DefaultSubset: 'v2', Subsets, Failover: { '*': { Service: 'spare' } } })
      await reach(t, 'api-2')
      await deregister(consul, 'api-2')
      await reach({ name: `${t.name}: failover` }, 'spare-1', 'spare-2')
    })
    t.diagnostic(JSON.stringify(table))
  })

  it('but a dial also fails over from an instance that passes its checks and is dead', async (t) => {
    const { instance, configure, ours, theirs } = await startSideBySide(t)
    const kill = await instance('api', 'api-1')
    await instance('spare', 'spare-1')
    await configure({ Kind: 'service-resolver', Name: 'api', Failover: { '*': { Service: 'spare' } } })
    await untilReaches(['api-1'], ours)
    await untilReaches(['api-1'], theirs)
    await kill()
    assert.deepEqual(await ours(), { 'spare-1': 24 })
    t.diagnostic(JSON.stringify({ ours: await ours(), envoy: await theirs() }))
  })
})
