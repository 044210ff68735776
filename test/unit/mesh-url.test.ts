import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { expectDomain, expectHosts, upstreamOfHost } from '../../src/http/mesh-url.js'
import { HostError, OptionError, type Upstream } from '../../src/index.js'

const options = { domain: 'consul', hosts: new Map<string, Upstream>() }

describe('upstreamOfHost', () => {
  for (const [host, upstream] of [
    ['billing.service.consul', { service: 'billing' }],
    ['billing.service.dc2.consul', { service: 'billing', datacenter: 'dc2' }],
    ['billing.connect.consul', { service: 'billing' }],
    ['billing.connect.dc2.consul', { service: 'billing', datacenter: 'dc2' }],
    ['nearest-billing.query.consul', { query: 'nearest-billing' }],
    ['nearest-billing.query.dc2.consul', { query: 'nearest-billing', datacenter: 'dc2' }],
    ['Billing.Service.CONSUL', { service: 'billing' }],
    ['billing.service.consul.', { service: 'billing' }],
    ['b_1.service.consul', { service: 'b_1' }],
    // `service`, `connect`, and `query` are valid names of datacenters and services.
    ['service.service.service.consul', { service: 'service', datacenter: 'service' }],
    ['query.connect.consul', { service: 'query' }],
  ] as const) {
    it(`accepts ${host}`, () => {
      assert.deepEqual(upstreamOfHost(host, undefined, options), upstream)
    })
  }

  for (const host of [
    '',
    '.',
    'consul',
    '.consul',
    'service.consul',
    '.service.consul',
    'billing',
    'billing.consul',
    'billing.service',
    'example.com',
    'localhost',
    '127.0.0.1',
    '::1',
    '[::1]',
    'billing.service.consul.example.com',
    'billing.service.consul..',
    'billing.service.xconsul',
    'billing.serviceconsul',
    'billing.node.consul',
    'billing.virtual.consul',
    'billing.ingress.consul',
    'blue.billing.service.consul',
    'billing.service.dc2.extra.consul',
    'billing..service.consul',
    'billing.service..consul',
    '-billing.service.consul',
    'billing-.service.consul',
    `${'a'.repeat(64)}.service.consul`,
    'bil ling.service.consul',
    'billing\u0000.service.consul',
    'billing/x.service.consul',
    'billing@x.service.consul',
    '%62illing.service.consul',
    'bílling.service.consul',
    'billing.service.consul:443',
  ]) {
    it(`refuses ${JSON.stringify(host)}`, () => {
      assert.throws(() => upstreamOfHost(host, undefined, options), {
        code: 'ERR_CONNECT_HOST',
        host,
        expected: '<name>.service[.<datacenter>].consul, or the same with .connect or .query',
      })
    })
  }

  for (const port of [undefined, null, '', 80, 443, '80', '443']) {
    it(`accepts the port ${JSON.stringify(port)}`, () => {
      assert.deepEqual(upstreamOfHost('a.service.consul', port, options), { service: 'a' })
    })
  }

  for (const port of [8080, '8080', 0, '0443', 4430]) {
    it(`refuses the port ${JSON.stringify(port)}`, () => {
      assert.throws(() => upstreamOfHost('a.service.consul', port, options), {
        code: 'ERR_CONNECT_HOST',
        message: `host "a.service.consul:${port}" has a port; expected a.service.consul without one: Consul supplies the port`,
      })
    })
  }

  for (const [host, problem] of [
    ['127.0.0.1', /is an IP address/],
    ['[::1]', /is an IP address/],
    ['billing', /is not a full name; write billing\.service\.consul/],
    ['example.com', /is not in the domain consul/],
    ['blue.billing.service.consul', /begins with a tag; use the option hosts/],
    ['billing.virtual.consul', /does not name a service/],
    ['bil ling.service.consul', /is not a host name/],
    ['x'.repeat(65_536), /has 65536 characters; a host name has at most 253/],
  ] as const) {
    it(`explains why it refuses ${JSON.stringify(host.slice(0, 40))}`, () => {
      assert.throws(
        () => upstreamOfHost(host, undefined, options),
        (error) => error instanceof HostError && problem.test(error.problem) && error.message.length < 600,
      )
    })
  }

  it('refuses 64 KiB of any character within 50 ms', () => {
    for (const character of ['.', '-', '_', 'a', ':', '[', ']', '%', '/', '@', ' ', '\0', 'é']) {
      for (const host of [character.repeat(65_536), `a${character.repeat(65_536)}.service.consul`]) {
        const start = performance.now()
        assert.throws(() => upstreamOfHost(host, undefined, options), HostError)
        assert.throws(() => expectDomain('domain', host), OptionError)
        assert.throws(() => expectHosts('hosts', { [host]: 'a' }), OptionError)
        assert.ok(performance.now() - start < 50, JSON.stringify(character))
      }
    }
  })

  it('accepts another domain, also with several labels', () => {
    const domain = 'mesh.example'
    assert.deepEqual(upstreamOfHost('a.service.dc1.mesh.example', '', { ...options, domain }), {
      service: 'a',
      datacenter: 'dc1',
    })
    assert.throws(() => upstreamOfHost('a.service.consul', '', { ...options, domain }), /\.mesh\.example/)
  })

  it('accepts the hosts of the option hosts, and mentions the option when a host is unknown', () => {
    const hosts = expectHosts('hosts', { 'Legacy.Example': { service: 'Legacy', tags: ['v1'] } })
    assert.deepEqual(upstreamOfHost('legacy.example', '', { ...options, hosts }), {
      service: 'Legacy',
      tags: ['v1'],
    })
    assert.throws(
      () => upstreamOfHost('other.example', '', { ...options, hosts }),
      /a name of the option hosts/,
    )
  })

  it('refuses every host outside of the domain', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.domain(), fc.ipV4(), fc.ipV6()), (host) => {
        fc.pre(!host.toLowerCase().replace(/\.$/, '').endsWith('.consul'))
        assert.throws(() => upstreamOfHost(host, undefined, options), { code: 'ERR_CONNECT_HOST' })
      }),
    )
  })

  it('accepts only valid DNS labels as names', () => {
    fc.assert(
      fc.property(fc.string(), fc.constantFrom('service', 'connect', 'query'), (name, kind) => {
        let upstream: Upstream
        try {
          upstream = upstreamOfHost(`${name}.${kind}.consul`, undefined, options)
        } catch {
          return
        }
        const found =
          (upstream as { service?: string; query?: string }).service ?? (upstream as { query: string }).query
        assert.match(found, /^[a-z0-9_-]{1,63}$/)
        assert.equal(found, name.toLowerCase())
      }),
    )
  })
})

describe('expectHosts, expectDomain', () => {
  for (const [hosts, found] of [
    [undefined, 'an object'],
    [[], 'an object'],
    [{ 'a:8080': 'a' }, 'host names without a port'],
    [{ 'a b': 'a' }, 'host names without a port'],
    [{ '': 'a' }, 'host names without a port'],
    [{ 'X.y': 'a', 'x.Y': 'b' }, 'each host once'],
    [{ a: '' }, "hosts['a']: expected an upstream"],
    [{ a: {} }, "hosts['a']: expected an upstream"],
    [{ a: { service: 'x', query: 'y' } }, "hosts['a']: expected an upstream"],
    [{ a: { address: 'nowhere', service: 'x' } }, "hosts['a']: expected an upstream"],
  ] as const) {
    it(`refuses the hosts ${JSON.stringify(hosts)}`, () => {
      assert.throws(
        () => expectHosts('hosts', hosts),
        (error: Error & { code?: string }) =>
          error.code === 'ERR_CONNECT_OPTION' && error.message.includes(found),
      )
    })
  }

  it('copies the upstreams', () => {
    const upstream = { service: 'a', tags: ['v1'] }
    const hosts = expectHosts('hosts', { a: upstream })
    upstream.tags[0] = 'v2'
    upstream.service = 'b'
    assert.deepEqual(hosts.get('a'), { service: 'a', tags: ['v1'] })
  })

  it('does not copy resolvers', () => {
    const resolver = { name: 'mine', resolve: () => [] }
    assert.equal(expectHosts('hosts', { a: resolver }).get('a'), resolver)
  })

  it('accepts a domain in any case, and refuses other values', () => {
    assert.equal(expectDomain('domain', 'Mesh.Example'), 'mesh.example')
    for (const domain of ['', '.', '.consul', 'consul.', 'a..b', 'a b', 1, undefined]) {
      assert.throws(() => expectDomain('domain', domain), { code: 'ERR_CONNECT_OPTION' })
    }
  })
})
