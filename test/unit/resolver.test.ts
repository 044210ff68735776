import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { AgentError, ConnectError, DialError, DnsError } from '../../src/base/errors.js'
import {
  type Endpoint,
  type ResolveRequest,
  type Resolver,
  endpointList,
  resolveEndpoints,
} from '../../src/resolve/resolver.js'
import { StaticResolver } from '../../src/resolve/static-resolver.js'

const request: ResolveRequest = {
  signal: new AbortController().signal,
  datacenter: 'dc1',
  refresh: false,
}
const NOWHERE = { namespace: undefined, partition: undefined, datacenter: undefined }
const good = { host: 'a', port: 1, identity: { service: 'web' } }
/** What becomes of it. */
const copied = { ...good, identity: { service: 'web', ...NOWHERE } }

function resolving(resolve: () => unknown): Promise<readonly Endpoint[]> {
  return resolveEndpoints({ name: 'mine', resolve: resolve as Resolver['resolve'] }, request)
}

describe('resolveEndpoints', () => {
  it('gives what the resolver gives, at once or later', async () => {
    const list = [good, { ...good, port: 65535, host: '::1', more: true }]
    const expected = [copied, { ...copied, port: 65535, host: '::1' }]
    assert.deepEqual(await resolving(() => list), expected)
    assert.deepEqual(await resolving(() => Promise.resolve(list)), expected)
  })

  it('gives a copy, frozen through and through, that nobody can change afterwards', async () => {
    const identity = { service: 'web', datacenter: 'dc1' }
    const mine = { host: 'a', port: 1, identity, weight: 2 }
    const list = [mine]
    const copy = await resolving(() => list)
    assert.notEqual(copy, list)
    assert.equal(Object.isFrozen(copy), true)
    for (const endpoint of copy) {
      assert.equal(Object.isFrozen(endpoint), true)
      assert.equal(Object.isFrozen(endpoint.identity), true)
    }
    Object.assign(mine, { host: 'b', port: 2, weight: 3 })
    Object.assign(identity, { service: 'db', datacenter: 'dc2' })
    list.push({ ...mine })
    assert.deepEqual(copy, [
      { host: 'a', port: 1, identity: { service: 'web', ...NOWHERE, datacenter: 'dc1' }, weight: 2 },
    ])
    // What is the resolver's own stays as it is.
    assert.deepEqual(
      [list, mine, identity].map((value) => Object.isFrozen(value)),
      [false, false, false],
    )
  })

  it('reads each property once: what is examined is what is given', async () => {
    const reads: string[] = []
    const once = <T extends object>(of: string, target: T): T =>
      new Proxy(target, {
        get: (_, key, receiver) => {
          reads.push(`${of}${String(key)}`)
          return Reflect.get(target, key, receiver) as unknown
        },
      })
    const identity = once('identity.', { service: 'web', namespace: 'n', partition: 'p', datacenter: 'd' })
    await resolving(() => [once('', { host: 'a', port: 1, weight: 1, identity })])
    assert.deepEqual([...reads].sort(), [...new Set(reads)].sort())
  })

  it('a list of our own is given as it is, and frozen', async () => {
    const list = endpointList([{ ...good, identity: { ...good.identity } }])
    assert.equal(
      Object.isFrozen(list) && Object.isFrozen(list[0]) && Object.isFrozen(list[0]?.identity),
      true,
    )
    for (let i = 0; i < 2; i += 1) assert.equal(await resolving(() => list), list)
  })

  it('passes on what is asked', async () => {
    const given: ResolveRequest[] = []
    const spy: Resolver = {
      name: 'spy',
      resolve: (asked) => {
        given.push(asked)
        return [good]
      },
    }
    for (const refresh of [false, true]) await resolveEndpoints(spy, { ...request, refresh })
    assert.deepEqual(given, [
      { ...request, refresh: false },
      { ...request, refresh: true },
    ])
    assert.equal(given[0]?.signal, request.signal)
  })

  it('calls the resolver as its own method', async () => {
    class Mine implements Resolver {
      readonly name = 'mine'
      readonly #list = [good]
      resolve(): readonly Endpoint[] {
        return this.#list
      }
    }
    assert.deepEqual(await resolveEndpoints(new Mine(), request), [copied])
  })

  it('an empty list is an error of its own', async () => {
    await assert.rejects(
      resolving(() => []),
      {
        name: 'DialError',
        code: 'ERR_CONNECT_NO_INSTANCES',
        upstream: 'mine',
        reason: 'empty',
      },
    )
  })

  const accepted: [rule: string, endpoint: Endpoint][] = [
    ['an IPv4 address', { ...good, host: '10.0.0.1' }],
    ['an IPv6 address', { ...good, host: '2001:db8::1' }],
    ['an IPv6 address of an interface', { ...good, host: 'fe80::1%eth0' }],
    ['a name', { ...good, host: 'db_1.example-x.com' }],
    ['a name of 255 characters', { ...good, host: 'a'.repeat(255) }],
    ['the lowest port', { ...good, port: 1 }],
    ['the highest port', { ...good, port: 65535 }],
    ['no weight', { ...good, weight: undefined }],
    ['a weight of 0', { ...good, weight: 0 }],
    ['a weight between', { ...good, weight: 0.5 }],
    ['a great weight', { ...good, weight: 1e9 }],
    ['a place', { ...good, identity: { service: 'web', namespace: 'n', partition: 'p', datacenter: 'd' } }],
    [
      'no place',
      {
        ...good,
        identity: { service: 'web', namespace: undefined, partition: undefined, datacenter: undefined },
      },
    ],
  ]
  for (const [rule, endpoint] of accepted) {
    it(`takes ${rule}`, async () => {
      const { weight, identity, ...address } = endpoint
      assert.deepEqual(await resolving(() => [endpoint]), [
        { ...address, identity: { ...NOWHERE, ...identity }, ...(weight !== undefined && { weight }) },
      ])
    })
  }

  it('takes more than is known, and leaves it out', async () => {
    const more = { ...good, zone: 'a', identity: { ...good.identity, region: 'b' } }
    assert.deepEqual(await resolving(() => [more]), [copied])
  })

  const bad: unknown[] = [
    undefined,
    null,
    true,
    'a:1',
    {},
    good,
    { length: 1, 0: good },
    new Set([good]),
    [null],
    ['a:1'],
    [[good]],
    [good, undefined],
    [{}],
    [{ ...good, host: '' }],
    [{ ...good, host: 5 }],
    [{ ...good, host: undefined }],
    [{ ...good, host: 'a b' }],
    [{ ...good, host: 'a\n' }],
    [{ ...good, host: 'a\0' }],
    [{ ...good, host: 'a/b' }],
    [{ ...good, host: '[::1]' }],
    [{ ...good, host: 'a@b' }],
    [{ ...good, host: '*' }],
    [{ ...good, host: 'ü' }],
    [{ ...good, host: 'a'.repeat(256) }],
    [{ ...good, host: ['a'] }],
    [{ ...good, port: 0 }],
    [{ ...good, port: -1 }],
    [{ ...good, port: 65536 }],
    [{ ...good, port: 1.5 }],
    [{ ...good, port: NaN }],
    [{ ...good, port: '80' }],
    [{ host: 'a', identity: good.identity }],
    [{ host: 'a', port: 1 }],
    // An address without an expectation is never dialled.
    [{ ...good, identity: null }],
    [{ ...good, identity: {} }],
    [{ ...good, identity: 'web' }],
    [{ ...good, identity: { service: '' } }],
    [{ ...good, identity: { service: 5 } }],
    [{ ...good, identity: { service: 'web', namespace: '' } }],
    [{ ...good, identity: { service: 'web', namespace: 5 } }],
    [{ ...good, identity: { service: 'web', partition: null } }],
    [{ ...good, identity: { service: 'web', partition: '' } }],
    [{ ...good, identity: { service: 'web', datacenter: [] } }],
    [{ ...good, identity: { service: 'web', datacenter: '' } }],
    [{ ...good, weight: -1 }],
    [{ ...good, weight: -0.001 }],
    [{ ...good, weight: NaN }],
    [{ ...good, weight: Infinity }],
    [{ ...good, weight: '1' }],
    [{ ...good, weight: null }],
    // One that is wrong spoils the list: nobody is to wonder why it is never dialled.
    [good, { ...good, port: 0 }, good],
  ]
  for (const answer of bad) {
    it(`refuses ${inspect(answer, { breakLength: Infinity }).slice(0, 120)}`, async () => {
      await assert.rejects(
        resolving(() => answer),
        {
          name: 'DialError',
          code: 'ERR_CONNECT_RESOLVER',
          upstream: 'mine',
          reason: undefined,
        },
      )
    })
  }

  const told: [item: unknown, problem: string][] = [
    [5, 'is no endpoint { host, port, identity }'],
    [null, 'is no endpoint { host, port, identity }'],
    [{ ...good, host: 'a b' }, 'should have a host name or an address as its host, and has the string "a b"'],
    [{ ...good, host: undefined }, 'should have a host name or an address as its host, and has undefined'],
    [{ ...good, port: 0 }, 'should have a port from 1 to 65535, and has the number 0'],
    [{ ...good, port: '80' }, 'should have a port from 1 to 65535, and has the string "80"'],
    [{ ...good, weight: -1 }, 'should have a weight of 0 or more, and has the number -1'],
    [{ ...good, identity: 'web' }, 'should have an identity { service }'],
    [
      { ...good, identity: { service: '' } },
      'should have the name of a service in its identity, and has an empty string',
    ],
    [
      { ...good, identity: { service: 'web', datacenter: 5 } },
      'should have names in its identity, and has the number 5',
    ],
  ]
  for (const [item, problem] of told) {
    it(`tells which item, and what is wrong with it: ${problem}`, async () => {
      for (const [list, i] of [
        [[item, good], 0],
        [[good, good, item, 5], 2],
      ] as const) {
        await assert.rejects(
          resolving(() => list),
          { message: `dial mine: its resolver returned a list whose item ${i} ${problem}` },
        )
      }
    })
  }

  it('tells of what is no list at all', async () => {
    await assert.rejects(
      resolving(() => good),
      { message: 'dial mine: its resolver returned something else than a list of endpoints' },
    )
  })

  it('examines a frozen list once, and one that can change each time', async () => {
    let looks = 0
    const watched = Object.freeze({
      get host(): string {
        looks += 1
        return 'a'
      },
      port: 1,
      identity: good.identity,
    })
    const frozen = Object.freeze([watched])
    const copy = await resolving(() => frozen)
    assert.deepEqual(copy, [copied])
    assert.notEqual(copy, frozen)
    for (let i = 0; i < 2; i += 1) assert.equal(await resolving(() => frozen), copy)
    assert.equal(looks, 1)
    const list: unknown[] = [watched]
    const copies = new Set<unknown>()
    for (let i = 0; i < 3; i += 1) copies.add(await resolving(() => list))
    assert.deepEqual([looks, copies.size], [4, 3])
    list.push({ ...good, port: 0 })
    await assert.rejects(resolving(() => list))
  })

  it('a frozen list that is not in order is refused each time', async () => {
    const frozen = Object.freeze([{ ...good, port: 0 }])
    for (let i = 0; i < 2; i += 1) {
      await assert.rejects(
        resolving(() => frozen),
        { code: 'ERR_CONNECT_RESOLVER' },
      )
    }
  })

  it('what a resolver throws, at once or later, is the cause', async () => {
    const cause = new Error('no DNS')
    const fail = (): never => {
      throw cause
    }
    for (const resolve of [fail, () => Promise.reject(cause)]) {
      await assert.rejects(
        resolving(resolve),
        (error) =>
          error instanceof DialError &&
          error.code === 'ERR_CONNECT_RESOLVER' &&
          error.cause === cause &&
          error.message.endsWith('failed: no DNS'),
      )
    }
  })

  it('an error of ours is told as it is', async () => {
    const forbidden = new AgentError('ERR_CONNECT_AGENT_FORBIDDEN', 'no', { address: 'a', request: 'GET /' })
    const none = new DialError('ERR_CONNECT_NO_INSTANCES', 'mine', 'none', { reason: 'unknown' })
    for (const ours of [
      forbidden,
      none,
      new DnsError('a', 'b', 'c'),
      new ConnectError('ERR_CONNECT_RESOLVER', 'mine'),
    ]) {
      await assert.rejects(
        resolving(() => Promise.reject(ours)),
        (error) => error === ours,
      )
    }
  })
})

describe('StaticResolver', () => {
  it('gives the addresses in their order, each with the identity, and always the same list', async () => {
    const resolver = new StaticResolver({
      address: ['10.0.0.1:80', '[::1]:81', 'a.example:82'],
      service: 'web',
      namespace: 'n',
      partition: 'p',
      datacenter: 'd',
    })
    assert.equal(resolver.name, 'web at 10.0.0.1:80, [::1]:81, a.example:82')
    const identity = { service: 'web', namespace: 'n', partition: 'p', datacenter: 'd' }
    const list = await resolveEndpoints(resolver, request)
    assert.deepEqual(list, [
      { host: '10.0.0.1', port: 80, identity },
      { host: '::1', port: 81, identity },
      { host: 'a.example', port: 82, identity },
    ])
    assert.equal(
      Object.isFrozen(list) && Object.isFrozen(list[0]) && Object.isFrozen(list[0]?.identity),
      true,
    )
    assert.equal(await resolveEndpoints(resolver, { ...request, refresh: true }), list)
  })
})
