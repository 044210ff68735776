import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { OptionError } from '../../src/errors.js'
import { healthResolver } from '../../src/resolve/health.js'
import type { Resolver } from '../../src/resolve/resolver.js'
import { type Upstream, toResolver, toTarget } from '../../src/resolve/upstream.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { settle } from '../fixtures/fake-clock.js'

const { signal } = new AbortController()
const NOWHERE = { datacenter: undefined, namespace: undefined, partition: undefined }

describe('toTarget', () => {
  it('a string is exactly the name of a service', () => {
    for (const name of ['web', 'web.service.consul', 'my service', 'a:80'])
      assert.deepEqual(toTarget(name), { service: name })
  })

  it('an object says more', () => {
    assert.deepEqual(toTarget({ service: 'web' }), { service: 'web', ...NOWHERE })
    const all = { service: 'web', datacenter: 'd', namespace: 'n', partition: 'p', address: 'a:1' }
    assert.deepEqual(toTarget(all), all)
  })

  const bad: [option: string, upstream: unknown][] = [
    ['upstream', undefined],
    ['upstream', null],
    ['upstream', 5],
    ['upstream', ''],
    ['upstream', 'a/b'],
    ['upstream', '..'],
    ['upstream', ['web']],
    ['upstream', () => 'web'],
    ['upstream.service', {}],
    ['upstream.service', { address: 'a:1' }],
    ['upstream.service', { service: '' }],
    ['upstream.datacenter', { service: 'web', datacenter: 'a/b' }],
    ['upstream.namespace', { service: 'web', namespace: 5 }],
    ['upstream.partition', { service: 'web', partition: '' }],
    ['upstream.address', { service: 'web', address: '' }],
    ['upstream.dc', { service: 'web', dc: 'dc2' }],
    ['upstream.query', { query: 'nearest' }],
    ['upstream.resolve', { resolve: () => [] }],
  ]
  it('refuses anything else, as does a dial', () => {
    const agent = new FakeAgent()
    for (const read of [toTarget, (upstream: unknown) => toResolver(agent, upstream as Upstream)]) {
      const found = bad.map(([, upstream]) => {
        try {
          read(upstream)
          return 'accepted'
        } catch (error) {
          return error instanceof OptionError ? error.option : String(error)
        }
      })
      assert.deepEqual(
        found,
        bad.map(([option]) => option),
      )
    }
  })
})

describe('toResolver', () => {
  it('a resolver is itself', () => {
    const resolver: Resolver = { name: 'mine', resolve: () => [] }
    assert.equal(toResolver(new FakeAgent(), resolver), resolver)
  })

  it('a resolver may be an instance of a class', () => {
    class Mine implements Resolver {
      readonly name = 'mine'
      resolve(): [] {
        return []
      }
    }
    const mine = new Mine()
    assert.equal(toResolver(new FakeAgent(), mine), mine)
  })

  const addresses: [address: string, host: string, port: number][] = [
    ['10.0.0.1:80', '10.0.0.1', 80],
    ['web.example:65535', 'web.example', 65535],
    ['[::1]:1', '::1', 1],
    ['[fe80::1%1]:8080', 'fe80::1%1', 8080],
  ]
  it('an address comes with the identity that is expected there, and asks no agent', async () => {
    const agent = new FakeAgent()
    for (const [address, host, port] of addresses) {
      const resolver = toResolver(agent, { service: 'web', namespace: 'n', address })
      assert.equal(resolver.name, `web at ${address}`)
      const identity = { ...NOWHERE, service: 'web', namespace: 'n' }
      assert.deepEqual(await resolver.resolve({ signal }), [{ host, port, identity }])
    }
    assert.equal(agent.requests.length, 0)
  })

  it('an IPv6 address may have the name of its interface', async () => {
    const resolver = toResolver(new FakeAgent(), { service: 'web', address: '[fe80::1%eth0]:80' })
    const [endpoint] = await resolver.resolve({ signal })
    assert.equal(endpoint?.host, 'fe80::1%eth0')
  })

  it('refuses an address that is none', () => {
    const bad = [
      'a',
      'a:',
      ':80',
      'a:0',
      'a:65536',
      'a:123456',
      'a:-1',
      'a:8 0',
      ' a:80',
      'a:80 ',
      'a b:80',
      '::1:80',
      '[::1]',
      '[]:80',
      '[x]:80',
      'a/b:80',
      'http://a:80',
      'a:80/',
    ]
    for (const address of bad) {
      assert.throws(
        () => toResolver(new FakeAgent(), { service: 'web', address }),
        { option: 'upstream.address' },
        address,
      )
    }
  })

  it('a name asks the agent for its instances', async () => {
    const agent = new FakeAgent()
    const resolver = toResolver(agent, 'my service')
    assert.equal(resolver.name, 'my service')
    void resolver.resolve({ signal })
    await settle()
    assert.equal(agent.requests[0]?.request.path, '/v1/health/connect/my%20service')
    assert.equal(agent.requests[0].request.signal, signal)
  })
})

describe('healthResolver', () => {
  const entry = (service: object = {}, node: object = {}): object => ({
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1', ...node },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true }, ...service },
  })
  async function resolve(target: Parameters<typeof healthResolver>[1], body: object[]): Promise<unknown> {
    const agent = new FakeAgent()
    const endpoints = healthResolver(agent, target).resolve({ signal })
    agent.requests[0]!.answer({ body })
    return endpoints
  }
  const identity = { service: 'web', datacenter: 'dc1', namespace: undefined, partition: undefined }

  it('gives address and identity together', async () => {
    assert.deepEqual(await resolve({ service: 'web' }, [entry(), entry({ Address: '::1', Port: 1 })]), [
      { host: '10.0.0.1', port: 8080, identity },
      { host: '::1', port: 1, identity },
    ])
    assert.deepEqual(await resolve({ service: 'web' }, []), [])
  })

  it("the identity is the instance's own, by name and by datacenter", async () => {
    const proxy = { Service: 'web-proxy', Connect: {}, Proxy: { DestinationServiceName: 'other' } }
    assert.deepEqual(
      await resolve({ service: 'web', datacenter: 'asked' }, [entry(proxy, { Datacenter: 'dc9' })]),
      [{ host: '10.0.0.1', port: 8080, identity: { ...identity, service: 'other', datacenter: 'dc9' } }],
    )
  })

  it('namespace and partition are those of the instance, and else those that were asked for', async () => {
    const asked = { service: 'web', namespace: 'n', partition: 'p' }
    assert.deepEqual(await resolve(asked, [entry(), entry({ Namespace: 'm', Partition: 'q' })]), [
      { host: '10.0.0.1', port: 8080, identity: { ...identity, namespace: 'n', partition: 'p' } },
      { host: '10.0.0.1', port: 8080, identity: { ...identity, namespace: 'm', partition: 'q' } },
    ])
  })

  it('an instance without a port cannot be dialled, and spoils nothing for the others', async () => {
    // Consul takes a registration without a port, and answers with 0.
    assert.deepEqual(await resolve({ service: 'web' }, [entry({ Port: 0 }), entry()]), [
      { host: '10.0.0.1', port: 8080, identity },
    ])
  })
})
