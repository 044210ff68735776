import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { OptionError } from '../../src/base/errors.js'
import type { Resolver } from '../../src/resolve/resolver.js'
import { isResolver, toIdentity, parseUpstream } from '../../src/resolve/upstream.js'

const NO_SCOPE = { datacenter: undefined, namespace: undefined, partition: undefined }
const SCOPE = { datacenter: 'd', namespace: 'n', partition: 'p' }

/** Defines a test for each refused value. `option` is the option that the error names. */
function refusals(read: (upstream: unknown) => unknown, cases: [option: string, upstream: unknown][]): void {
  for (const [option, upstream] of cases) {
    it(`refuses ${inspect(upstream, { breakLength: Infinity }).slice(0, 100)}: ${option}`, () => {
      assert.throws(
        () => read(upstream),
        (error) => error instanceof OptionError && error.option === option,
      )
    })
  }
}

describe('parseUpstream of a service', () => {
  it('uses a string as the name of the service', () => {
    for (const name of ['web', 'web.service.consul', 'my service', 'a:80', '*', 'ü'])
      assert.deepEqual(parseUpstream(name), { kind: 'service', service: name })
  })

  it('names the functions for URLs when it refuses a URL', () => {
    for (const url of ['http://api.service.consul/', 'https://api', 'tcp://127.0.0.1:8080']) {
      assert.throws(() => parseUpstream(url), {
        code: 'ERR_CONNECT_OPTION',
        message: `upstream: expected a service name (for a URL, use fetch(), dispatcher(), or httpAgent()), got the string "${url}"`,
      })
    }
  })

  it('reads all options of an object', () => {
    const bare = {
      tags: undefined,
      near: undefined,
      filter: undefined,
      onlyPassing: undefined,
      meshGateway: undefined,
    }
    assert.deepEqual(parseUpstream({ service: 'web' }), {
      kind: 'service',
      service: 'web',
      ...NO_SCOPE,
      ...bare,
    })
    const all = {
      service: 'web',
      ...SCOPE,
      tags: ['a', 'b'],
      near: '_agent',
      filter: 'Service.Meta.v == "2"',
      onlyPassing: false,
      meshGateway: 'remote',
    }
    assert.deepEqual(parseUpstream(all), { kind: 'service', ...all })
  })

  it('copies the list of tags', () => {
    const tags = ['a']
    const target = parseUpstream({ service: 'web', tags })
    tags.push('b')
    assert.deepEqual((target as { tags?: unknown }).tags, ['a'])
  })

  it('limits the tags to 32, and the filter to 2048 characters', () => {
    const tags = Array.from({ length: 32 }, (_, i) => `t${i}`)
    const filter = 'a'.repeat(2_048)
    const target = parseUpstream({ service: 'web', tags, filter })
    assert.deepEqual(target, { ...parseUpstream({ service: 'web' }), tags, filter })
    const refused = { name: 'OptionError', code: 'ERR_CONNECT_OPTION' }
    assert.throws(() => parseUpstream({ service: 'web', tags: [...tags, 'more'] }), {
      ...refused,
      option: 'upstream.tags',
      message: /at most 32 tags.*33/,
    })
    assert.throws(() => parseUpstream({ service: 'web', filter: `${filter}a` }), {
      ...refused,
      option: 'upstream.filter',
      message: /at most 2048 characters.*2049/,
    })
  })

  refusals(parseUpstream, [
    ['upstream', undefined],
    ['upstream', null],
    ['upstream', 5],
    ['upstream', ''],
    ['upstream', 'a/b'],
    ['upstream', ['web']],
    ['upstream', () => 'web'],
    ['upstream.service', {}],
    ['upstream.service', { service: 'a/b' }],
    ['upstream.datacenter', { service: 'web', datacenter: 'a/b' }],
    ['upstream.namespace', { service: 'web', namespace: 5 }],
    ['upstream.partition', { service: 'web', partition: '' }],
    ['upstream.tags', { service: 'web', tags: 'a' }],
    ['upstream.tags[1]', { service: 'web', tags: ['a', ''] }],
    ['upstream.tags[0]', { service: 'web', tags: [5] }],
    ['upstream.near', { service: 'web', near: true }],
    ['upstream.filter', { service: 'web', filter: '' }],
    ['upstream.filter', { service: 'web', filter: ['a'] }],
    ['upstream.onlyPassing', { service: 'web', onlyPassing: 'no' }],
    ['upstream.meshGateway', { service: 'web', meshGateway: 'Local' }],
    ['upstream.meshGateway', { service: 'web', meshGateway: true }],
    // Joined with the filter of a subset, it would select other instances.
    ['upstream.filter', { service: 'web', filter: 'a == 1) or (a == 2' }],
    ['upstream.filter', { service: 'web', filter: '(a == 1' }],
    ['upstream.dc', { service: 'web', dc: 'dc2' }],
    ['upstream.resolve', { resolve: () => [] }],
  ])
})

describe('parseUpstream of a prepared query', () => {
  it('reads the name or the id, the scope, and near', () => {
    assert.deepEqual(parseUpstream({ query: 'nearest' }), {
      kind: 'query',
      query: 'nearest',
      ...NO_SCOPE,
      near: undefined,
    })
    const all = { query: '6f2a', ...SCOPE, near: '_agent' }
    assert.deepEqual(parseUpstream(all), { kind: 'query', ...all })
  })

  refusals(parseUpstream, [
    ['upstream.query', { query: '' }],
    ['upstream.query', { query: undefined }],
    ['upstream.near', { query: 'q', near: 5 }],
    ['upstream.datacenter', { query: 'q', datacenter: '' }],
    // The query defines the service and its instances.
    ['upstream.service', { query: 'q', service: 'web' }],
    ['upstream.tags', { query: 'q', tags: ['a'] }],
    ['upstream.onlyPassing', { query: 'q', onlyPassing: true }],
    ['upstream.address', { query: 'q', address: 'a:1' }],
    ['upstream.dns', { query: 'q', dns: 'a.b' }],
  ])
})

describe('parseUpstream of a DNS name', () => {
  it('reads the name and the expected service', () => {
    assert.deepEqual(parseUpstream({ dns: 'redis.connect.consul', service: 'redis' }), {
      kind: 'dns',
      dns: 'redis.connect.consul',
      service: 'redis',
      ...NO_SCOPE,
    })
    const all = { dns: '_a._tcp.b.', service: 'redis', ...SCOPE }
    assert.deepEqual(parseUpstream(all), { kind: 'dns', ...all })
  })

  refusals(parseUpstream, [
    ['upstream.dns', { dns: 'a b', service: 'redis' }],
    ['upstream.dns', { dns: 5, service: 'redis' }],
    // The expected service cannot be derived from the name.
    ['upstream.service', { dns: 'redis.connect.consul' }],
    ['upstream.service', { dns: 'a.b', service: '' }],
    ['upstream.namespace', { dns: 'a.b', service: 'redis', namespace: '' }],
    ['upstream.near', { dns: 'a.b', service: 'redis', near: '_agent' }],
    ['upstream.address', { dns: 'a.b', service: 'redis', address: 'a:1' }],
  ])
})

describe('parseUpstream of addresses', () => {
  it('reads an address or a list, and the expected service', () => {
    assert.deepEqual(parseUpstream({ address: 'a:1', service: 'web' }), {
      kind: 'address',
      address: ['a:1'],
      service: 'web',
      ...NO_SCOPE,
    })
    const all = { address: ['a:1', '[::1]:2'], service: 'web', ...SCOPE }
    assert.deepEqual(parseUpstream(all), { kind: 'address', ...all })
  })

  refusals(parseUpstream, [
    ['upstream.address', { service: 'web', address: [] }],
    ['upstream.address', { service: 'web', address: 5 }],
    ['upstream.address', { service: 'web', address: 'a' }],
    ['upstream.address', { service: 'web', address: ['a:1', 'b'] }],
    ['upstream.address[1]', { service: 'web', address: ['a:1', 5] }],
    ['upstream.service', { address: 'a:1' }],
    ['upstream.tags', { service: 'web', address: 'a:1', tags: ['a'] }],
  ])
})

describe('parseUpstream', () => {
  // The kind depends on which properties exist: an undefined value must not change the kind of the upstream.
  refusals(parseUpstream, [
    ['upstream.service', { query: undefined, service: 'web' }],
    ['upstream.dns', { dns: undefined, service: 'web' }],
    ['upstream.address', { address: undefined, service: 'web' }],
    ['upstream.query', { query: null }],
    ['upstream.dns', { dns: null, service: 'web' }],
    ['upstream.address', { address: null, service: 'web' }],
  ])

  it('ignores inherited properties', () => {
    for (const inherited of [{ query: 'q' }, { dns: 'a.b' }, { address: 'a:1' }]) {
      const upstream = Object.assign(Object.create(inherited) as object, { service: 'web' })
      assert.deepEqual(parseUpstream(upstream), parseUpstream({ service: 'web' }))
    }
  })
})

describe('toIdentity', () => {
  it('reads a service name, or a service and its scope', () => {
    assert.deepEqual(toIdentity('my service'), { service: 'my service' })
    assert.deepEqual(toIdentity({ service: 'web' }), { service: 'web', ...NO_SCOPE })
    assert.deepEqual(toIdentity({ service: 'web', ...SCOPE }), { service: 'web', ...SCOPE })
  })

  refusals(toIdentity, [
    ['upstream', undefined],
    ['upstream', 'a/b'],
    ['upstream', []],
    ['upstream.service', {}],
    ['upstream.datacenter', { service: 'web', datacenter: 5 }],
    ['upstream.namespace', { service: 'web', namespace: '' }],
    ['upstream.partition', { service: 'web', partition: 'a/b' }],
    // Options that select instances are not part of the identity.
    ['upstream.tags', { service: 'web', tags: ['a'] }],
    ['upstream.near', { service: 'web', near: '_agent' }],
    ['upstream.address', { service: 'web', address: 'a:1' }],
    ['upstream.query', { query: 'q' }],
  ])
})

describe('isResolver', () => {
  class OwnResolver implements Resolver {
    readonly name = 'own'
    resolve(): [] {
      return []
    }
  }
  const cases: [rule: string, value: unknown, expected: boolean][] = [
    ['an object with a name and a method', { name: 'own', resolve: () => [] }, true],
    ['an instance of a class', new OwnResolver(), true],
    ['an empty name', { name: '', resolve: () => [] }, true],
    ['no name', { resolve: () => [] }, false],
    ['a name that is not a string', { name: 5, resolve: () => [] }, false],
    ['no method', { name: 'own' }, false],
    ['a list instead of the method', { name: 'own', resolve: [] }, false],
    ['a service', { service: 'web' }, false],
    ['a string', 'web', false],
    ['a function', () => [], false],
    ['null', null, false],
    ['undefined', undefined, false],
  ]
  for (const [rule, value, expected] of cases) {
    it(`returns ${expected} for ${rule}`, () => {
      assert.equal(isResolver(value), expected)
    })
  }
})
