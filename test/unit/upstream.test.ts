import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { OptionError } from '../../src/base/errors.js'
import type { Resolver } from '../../src/resolve/resolver.js'
import { Routes } from '../../src/resolve/routes.js'
import { type Upstream, isResolver, toIdentity, toTarget } from '../../src/resolve/upstream.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock } from '../fixtures/fake-clock.js'

const NOWHERE = { datacenter: undefined, namespace: undefined, partition: undefined }
const SOMEWHERE = { datacenter: 'd', namespace: 'n', partition: 'p' }

/** The option that each value is refused for. */
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

describe('toTarget: a service', () => {
  it('a string is exactly the name of one', () => {
    for (const name of ['web', 'web.service.consul', 'my service', 'a:80', '*', 'ü'])
      assert.deepEqual(toTarget(name), { kind: 'service', service: name })
  })

  it('says what to use for a URL', () => {
    for (const url of ['http://api.service.consul/', 'https://api', 'tcp://127.0.0.1:8080']) {
      assert.throws(() => toTarget(url), {
        code: 'ERR_CONNECT_OPTION',
        message: `upstream: expected a service name (for a URL, use fetch(), dispatcher(), or httpAgent()), got the string "${url}"`,
      })
    }
  })

  it('an object says more', () => {
    const bare = { tags: undefined, near: undefined, filter: undefined, onlyPassing: undefined }
    assert.deepEqual(toTarget({ service: 'web' }), { kind: 'service', service: 'web', ...NOWHERE, ...bare })
    const all = {
      service: 'web',
      ...SOMEWHERE,
      tags: ['a', 'b'],
      near: '_agent',
      filter: 'Service.Meta.v == "2"',
      onlyPassing: false,
    }
    assert.deepEqual(toTarget(all), { kind: 'service', ...all })
    assert.deepEqual(toTarget({ service: 'web', tags: [] }), {
      kind: 'service',
      service: 'web',
      ...NOWHERE,
      ...bare,
      tags: [],
    })
  })

  it('what is read is a copy: a list that is changed later changes nothing', () => {
    const tags = ['a']
    const target = toTarget({ service: 'web', tags })
    tags.push('b')
    assert.deepEqual((target as { tags?: unknown }).tags, ['a'])
  })

  it('at most 32 tags, and a filter of at most 2048 characters', () => {
    const tags = Array.from({ length: 32 }, (_, i) => `t${i}`)
    const filter = 'a'.repeat(2_048)
    const target = toTarget({ service: 'web', tags, filter })
    assert.deepEqual(target, { ...toTarget({ service: 'web' }), tags, filter })
    const refused = { name: 'OptionError', code: 'ERR_CONNECT_OPTION' }
    assert.throws(() => toTarget({ service: 'web', tags: [...tags, 'more'] }), {
      ...refused,
      option: 'upstream.tags',
      message: /at most 32 tags.*33/,
    })
    assert.throws(() => toTarget({ service: 'web', filter: `${filter}a` }), {
      ...refused,
      option: 'upstream.filter',
      message: /at most 2048 characters.*2049/,
    })
  })

  refusals(toTarget, [
    ['upstream', undefined],
    ['upstream', null],
    ['upstream', 5],
    ['upstream', ''],
    ['upstream', 'a/b'],
    ['upstream', '..'],
    ['upstream', ['web']],
    ['upstream', () => 'web'],
    ['upstream.service', {}],
    ['upstream.service', { service: '' }],
    ['upstream.service', { service: 'a/b' }],
    ['upstream.service', { service: 'a\n' }],
    ['upstream.service', { service: 5 }],
    ['upstream.datacenter', { service: 'web', datacenter: 'a/b' }],
    ['upstream.namespace', { service: 'web', namespace: 5 }],
    ['upstream.partition', { service: 'web', partition: '' }],
    ['upstream.tags', { service: 'web', tags: 'a' }],
    ['upstream.tags[1]', { service: 'web', tags: ['a', ''] }],
    ['upstream.tags[0]', { service: 'web', tags: [5] }],
    ['upstream.near', { service: 'web', near: '' }],
    ['upstream.near', { service: 'web', near: true }],
    ['upstream.near', { service: 'web', near: 'a/b' }],
    ['upstream.filter', { service: 'web', filter: '' }],
    ['upstream.filter', { service: 'web', filter: ['a'] }],
    ['upstream.onlyPassing', { service: 'web', onlyPassing: 'no' }],
    ['upstream.onlyPassing', { service: 'web', onlyPassing: 0 }],
    ['upstream.dc', { service: 'web', dc: 'dc2' }],
    ['upstream.tag', { service: 'web', tag: 'a' }],
    ['upstream.resolve', { resolve: () => [] }],
    ['upstream.name', { name: 'mine' }],
  ])
})

describe('toTarget: a prepared query', () => {
  it('by name or id, from somewhere, sorted from somewhere', () => {
    assert.deepEqual(toTarget({ query: 'nearest' }), {
      kind: 'query',
      query: 'nearest',
      ...NOWHERE,
      near: undefined,
    })
    const all = { query: '6f2a', ...SOMEWHERE, near: '_agent' }
    assert.deepEqual(toTarget(all), { kind: 'query', ...all })
  })

  refusals(toTarget, [
    ['upstream.query', { query: '' }],
    ['upstream.query', { query: 'a/b' }],
    ['upstream.query', { query: undefined }],
    ['upstream.near', { query: 'q', near: 5 }],
    ['upstream.datacenter', { query: 'q', datacenter: '' }],
    // The query says which service, and which of its instances.
    ['upstream.service', { query: 'q', service: 'web' }],
    ['upstream.tags', { query: 'q', tags: ['a'] }],
    ['upstream.onlyPassing', { query: 'q', onlyPassing: true }],
    ['upstream.address', { query: 'q', address: 'a:1' }],
    ['upstream.dns', { query: 'q', dns: 'a.b' }],
  ])
})

describe('toTarget: a name of DNS', () => {
  it('with the service that must be there', () => {
    assert.deepEqual(toTarget({ dns: 'redis.connect.consul', service: 'redis' }), {
      kind: 'dns',
      dns: 'redis.connect.consul',
      service: 'redis',
      ...NOWHERE,
    })
    const all = { dns: '_a._tcp.b.', service: 'redis', ...SOMEWHERE }
    assert.deepEqual(toTarget(all), { kind: 'dns', ...all })
  })

  refusals(toTarget, [
    ['upstream.dns', { dns: '', service: 'redis' }],
    ['upstream.dns', { dns: 'a b', service: 'redis' }],
    ['upstream.dns', { dns: 'a..b', service: 'redis' }],
    ['upstream.dns', { dns: '.', service: 'redis' }],
    ['upstream.dns', { dns: 'a:80', service: 'redis' }],
    ['upstream.dns', { dns: 5, service: 'redis' }],
    // The name says nothing of who is there.
    ['upstream.service', { dns: 'redis.connect.consul' }],
    ['upstream.service', { dns: 'a.b', service: '' }],
    ['upstream.namespace', { dns: 'a.b', service: 'redis', namespace: '' }],
    ['upstream.near', { dns: 'a.b', service: 'redis', near: '_agent' }],
    ['upstream.address', { dns: 'a.b', service: 'redis', address: 'a:1' }],
  ])
})

describe('toTarget: addresses', () => {
  it('one or several, with the service that must be there', () => {
    assert.deepEqual(toTarget({ address: 'a:1', service: 'web' }), {
      kind: 'address',
      address: ['a:1'],
      service: 'web',
      ...NOWHERE,
    })
    const all = { address: ['a:1', '[::1]:2'], service: 'web', ...SOMEWHERE }
    assert.deepEqual(toTarget(all), { kind: 'address', ...all })
  })

  refusals(toTarget, [
    ['upstream.address', { service: 'web', address: '' }],
    ['upstream.address', { service: 'web', address: [] }],
    ['upstream.address', { service: 'web', address: 5 }],
    ['upstream.address', { service: 'web', address: 'a' }],
    ['upstream.address', { service: 'web', address: 'http://a:80' }],
    ['upstream.address', { service: 'web', address: ['a:1', 'b'] }],
    ['upstream.address[1]', { service: 'web', address: ['a:1', 5] }],
    ['upstream.service', { address: 'a:1' }],
    ['upstream.tags', { service: 'web', address: 'a:1', tags: ['a'] }],
  ])
})

describe('toTarget: which kind', () => {
  it('is told by a property of its own, whatever it holds', () => {
    // One that is left out is not named at all: it must not turn into another kind of upstream.
    const cases: [option: string, upstream: object][] = [
      ['upstream.service', { query: undefined, service: 'web' }],
      ['upstream.dns', { dns: undefined, service: 'web' }],
      ['upstream.address', { address: undefined, service: 'web' }],
      ['upstream.query', { query: null }],
      ['upstream.dns', { dns: null, service: 'web' }],
      ['upstream.address', { address: null, service: 'web' }],
    ]
    for (const [option, upstream] of cases) {
      assert.throws(
        () => toTarget(upstream),
        (error) => error instanceof OptionError && error.option === option,
        inspect(upstream),
      )
    }
  })

  it('is not told by what is inherited', () => {
    for (const inherited of [{ query: 'q' }, { dns: 'a.b' }, { address: 'a:1' }]) {
      const upstream = Object.assign(Object.create(inherited) as object, { service: 'web' })
      assert.deepEqual(toTarget(upstream), toTarget({ service: 'web' }))
    }
  })
})

describe('toIdentity', () => {
  it('a name, or a service and where it is', () => {
    assert.deepEqual(toIdentity('my service'), { service: 'my service' })
    assert.deepEqual(toIdentity({ service: 'web' }), { service: 'web', ...NOWHERE })
    assert.deepEqual(toIdentity({ service: 'web', ...SOMEWHERE }), { service: 'web', ...SOMEWHERE })
  })

  refusals(toIdentity, [
    ['upstream', undefined],
    ['upstream', null],
    ['upstream', ''],
    ['upstream', 'a/b'],
    ['upstream', []],
    ['upstream.service', {}],
    ['upstream.service', { service: '' }],
    ['upstream.datacenter', { service: 'web', datacenter: 5 }],
    ['upstream.namespace', { service: 'web', namespace: '' }],
    ['upstream.partition', { service: 'web', partition: 'a/b' }],
    // Which instance is dialled is no part of who it is.
    ['upstream.tags', { service: 'web', tags: ['a'] }],
    ['upstream.near', { service: 'web', near: '_agent' }],
    ['upstream.address', { service: 'web', address: 'a:1' }],
    ['upstream.query', { query: 'q' }],
  ])
})

describe('isResolver', () => {
  class Mine implements Resolver {
    readonly name = 'mine'
    resolve(): [] {
      return []
    }
  }
  const cases: [rule: string, value: unknown, isOne: boolean][] = [
    ['an object', { name: 'mine', resolve: () => [] }, true],
    ['an instance of a class', new Mine(), true],
    ['a name that is empty', { name: '', resolve: () => [] }, true],
    ['no name', { resolve: () => [] }, false],
    ['a name that is none', { name: 5, resolve: () => [] }, false],
    ['no method', { name: 'mine' }, false],
    ['a list in its place', { name: 'mine', resolve: [] }, false],
    ['a service', { service: 'web' }, false],
    ['a string', 'web', false],
    ['a function', () => [], false],
    ['null', null, false],
    ['undefined', undefined, false],
  ]
  for (const [rule, value, isOne] of cases) {
    it(`${rule}: ${isOne ? 'yes' : 'no'}`, () => {
      assert.equal(isResolver(value), isOne)
    })
  }
})

describe('an upstream that is wrong', () => {
  it('is refused before anything is begun, whoever is asked', () => {
    const [agent, clock] = [new FakeAgent(), new FakeClock()]
    const routes = new Routes(agent, { clock, random: () => 0 })
    for (const upstream of [
      undefined,
      null,
      5,
      '',
      {},
      { service: 'web', dc: 'dc2' },
      { resolve: () => [] },
    ]) {
      assert.throws(() => routes.lease(upstream as Upstream), OptionError)
    }
    assert.deepEqual([agent.requests.length, clock.pending], [0, 0])
  })
})
