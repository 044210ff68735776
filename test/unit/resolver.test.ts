import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { ConnectError, DialError } from '../../src/base/errors.js'
import {
  type Endpoint,
  type ResolveRequest,
  type Resolver,
  endpointList,
  resolveEndpoints,
} from '../../src/resolve/resolver.js'
import { StaticResolver } from '../../src/resolve/static-resolver.js'
import { FORBIDDEN } from '../fixtures/errors.js'

const request: ResolveRequest = { signal: new AbortController().signal, datacenter: 'dc1', refresh: true }
const NO_SCOPE = { namespace: undefined, partition: undefined, datacenter: undefined }
const GOOD = { host: 'a', port: 1, identity: { service: 'web' } }
/** What `resolveEndpoints` returns for it. */
const GOOD_COPY = { ...GOOD, identity: { service: 'web', ...NO_SCOPE } }

function resolving(resolve: () => unknown): Promise<readonly Endpoint[]> {
  return resolveEndpoints({ name: 'own', resolve: resolve as Resolver['resolve'] }, request)
}

describe('resolveEndpoints', () => {
  it('returns the endpoints of the resolver, synchronous or asynchronous', async () => {
    const list = [GOOD, { ...GOOD, port: 65535, host: '::1', more: true }]
    const expected = [GOOD_COPY, { ...GOOD_COPY, port: 65535, host: '::1' }]
    assert.deepEqual(await resolving(() => list), expected)
    assert.deepEqual(await resolving(() => Promise.resolve(list)), expected)
  })

  it('returns a deeply frozen copy that does not change with the original', async () => {
    const identity = { service: 'web', datacenter: 'dc1' }
    const endpoint = { host: 'a', port: 1, identity, weight: 2 }
    const list = [endpoint]
    const copy = await resolving(() => list)
    assert.notEqual(copy, list)
    assert.equal(Object.isFrozen(copy), true)
    assert.ok(copy.every((each) => Object.isFrozen(each) && Object.isFrozen(each.identity)))
    Object.assign(endpoint, { host: 'b', port: 2, weight: 3 })
    Object.assign(identity, { service: 'db', datacenter: 'dc2' })
    list.push({ ...endpoint })
    assert.deepEqual(copy, [
      { host: 'a', port: 1, identity: { service: 'web', ...NO_SCOPE, datacenter: 'dc1' }, weight: 2 },
    ])
    // The objects of the resolver are not frozen.
    assert.ok(![list, endpoint, identity].some((value) => Object.isFrozen(value)))
  })

  it('reads each property once, so that it returns the values that it validated', async () => {
    const reads: string[] = []
    const record = <T extends object>(prefix: string, target: T): T =>
      new Proxy(target, {
        get: (_, key, receiver) => {
          reads.push(`${prefix}${String(key)}`)
          return Reflect.get(target, key, receiver) as unknown
        },
      })
    const identity = record('identity.', { service: 'web', namespace: 'n', partition: 'p', datacenter: 'd' })
    await resolving(() => [record('', { host: 'a', port: 1, weight: 1, identity })])
    assert.deepEqual([...reads].sort(), [...new Set(reads)].sort())
  })

  it('returns a list of endpointList() itself, which is frozen', async () => {
    const list = endpointList([{ ...GOOD, identity: { ...GOOD.identity } }])
    assert.equal(
      Object.isFrozen(list) && Object.isFrozen(list[0]) && Object.isFrozen(list[0]?.identity),
      true,
    )
    for (let i = 0; i < 2; i += 1) assert.equal(await resolving(() => list), list)
  })

  it('passes the request to the resolver', async () => {
    const requests: ResolveRequest[] = []
    const resolver: Resolver = {
      name: 'own',
      resolve: (received) => {
        requests.push(received)
        return [GOOD]
      },
    }
    await resolveEndpoints(resolver, request)
    assert.deepEqual(requests, [request])
    assert.equal(requests[0]?.signal, request.signal)
  })

  it('calls the resolver with its `this`', async () => {
    class OwnResolver implements Resolver {
      readonly name = 'own'
      readonly #list = [GOOD]
      resolve(): readonly Endpoint[] {
        return this.#list
      }
    }
    assert.deepEqual(await resolveEndpoints(new OwnResolver(), request), [GOOD_COPY])
  })

  it('refuses an empty list with ERR_CONNECT_NO_INSTANCES', async () => {
    await assert.rejects(
      resolving(() => []),
      { name: 'DialError', code: 'ERR_CONNECT_NO_INSTANCES', upstream: 'own', reason: 'empty' },
    )
  })

  const accepted: [rule: string, endpoint: Endpoint][] = [
    ['an IPv4 address', { ...GOOD, host: '10.0.0.1' }],
    ['an IPv6 address', { ...GOOD, host: '2001:db8::1' }],
    ['an IPv6 address with a zone', { ...GOOD, host: 'fe80::1%eth0' }],
    ['a host name', { ...GOOD, host: 'db_1.example-x.com' }],
    ['a host name of 255 characters', { ...GOOD, host: 'a'.repeat(255) }],
    ['the lowest port', { ...GOOD, port: 1 }],
    ['the highest port', { ...GOOD, port: 65535 }],
    ['no weight', { ...GOOD, weight: undefined }],
    ['a weight of 0', { ...GOOD, weight: 0 }],
    ['a fractional weight', { ...GOOD, weight: 0.5 }],
    ['a large weight', { ...GOOD, weight: 1e9 }],
    ['a scope', { ...GOOD, identity: { service: 'web', namespace: 'n', partition: 'p', datacenter: 'd' } }],
    ['the first failover group', { ...GOOD, priority: 0 }],
    ['the last failover group', { ...GOOD, priority: 1_000 }],
    ['a server name and a subset', { ...GOOD, serverName: 'v1.web.internal', subset: 'v1' }],
    ['an undefined scope', { ...GOOD, identity: { service: 'web', ...NO_SCOPE } }],
  ]
  for (const [rule, endpoint] of accepted) {
    it(`accepts ${rule}`, async () => {
      const { weight, identity, ...address } = endpoint
      assert.deepEqual(await resolving(() => [endpoint]), [
        { ...address, identity: { ...NO_SCOPE, ...identity }, ...(weight !== undefined && { weight }) },
      ])
    })
  }

  it('leaves out unknown properties', async () => {
    const more = { ...GOOD, zone: 'a', identity: { ...GOOD.identity, region: 'b' } }
    assert.deepEqual(await resolving(() => [more]), [GOOD_COPY])
  })

  const notLists: unknown[] = [
    undefined,
    null,
    true,
    'a:1',
    {},
    GOOD,
    { length: 1, 0: GOOD },
    new Set([GOOD]),
  ]
  for (const value of notLists) {
    it(`refuses ${inspect(value, { breakLength: Infinity })} instead of a list`, async () => {
      await assert.rejects(
        resolving(() => value),
        {
          name: 'DialError',
          code: 'ERR_CONNECT_RESOLVER',
          upstream: 'own',
          reason: undefined,
          message: 'dial own: its resolver returned something else than a list of endpoints',
        },
      )
    })
  }

  const invalid: Record<string, unknown[]> = {
    'is no endpoint { host, port, identity }': [null, undefined, 5, 'a:1'],
    'should have a host name or an address as its host, and has': [
      {},
      [GOOD],
      { ...GOOD, host: '' },
      { ...GOOD, host: 5 },
      { ...GOOD, host: undefined },
      { ...GOOD, host: 'a b' },
      { ...GOOD, host: 'a\n' },
      { ...GOOD, host: 'a\0' },
      { ...GOOD, host: 'a/b' },
      { ...GOOD, host: '[::1]' },
      { ...GOOD, host: 'a@b' },
      { ...GOOD, host: '*' },
      { ...GOOD, host: 'ü' },
      { ...GOOD, host: 'a'.repeat(256) },
      { ...GOOD, host: ['a'] },
    ],
    'should have a port from 1 to 65535, and has': [
      { ...GOOD, port: 0 },
      { ...GOOD, port: -1 },
      { ...GOOD, port: 65536 },
      { ...GOOD, port: 1.5 },
      { ...GOOD, port: NaN },
      { ...GOOD, port: '80' },
      { host: 'a', identity: GOOD.identity },
    ],
    'should have a weight of 0 or more, and has': [
      { ...GOOD, weight: -0.001 },
      { ...GOOD, weight: NaN },
      { ...GOOD, weight: Infinity },
      { ...GOOD, weight: '1' },
      { ...GOOD, weight: null },
    ],
    'should have a priority from 0 to 1000, and has': [
      { ...GOOD, priority: -1 },
      { ...GOOD, priority: 0.5 },
      { ...GOOD, priority: 1_001 },
      { ...GOOD, priority: '0' },
    ],
    'should have a host name as its serverName, and has': [
      { ...GOOD, serverName: '' },
      { ...GOOD, serverName: '192.0.2.1' },
      { ...GOOD, serverName: 5 },
    ],
    'should have a name as its subset, and has': [
      { ...GOOD, subset: '' },
      { ...GOOD, subset: 5 },
    ],
    // An endpoint without an expected identity is never dialed.
    'should have an identity { service }': [
      { host: 'a', port: 1 },
      { ...GOOD, identity: null },
      { ...GOOD, identity: 'web' },
    ],
    'should have the name of a service in its identity, and has': [
      { ...GOOD, identity: {} },
      { ...GOOD, identity: { service: '' } },
      { ...GOOD, identity: { service: 5 } },
    ],
    'should have names in its identity, and has': [
      { ...GOOD, identity: { service: 'web', namespace: '' } },
      { ...GOOD, identity: { service: 'web', namespace: 5 } },
      { ...GOOD, identity: { service: 'web', partition: null } },
      { ...GOOD, identity: { service: 'web', partition: '' } },
      { ...GOOD, identity: { service: 'web', datacenter: [] } },
      { ...GOOD, identity: { service: 'web', datacenter: '' } },
    ],
  }
  for (const [problem, endpoints] of Object.entries(invalid)) {
    for (const endpoint of endpoints) {
      it(`refuses ${inspect(endpoint, { breakLength: Infinity }).slice(0, 120)}: ${problem}`, async () => {
        // One invalid endpoint makes the whole list invalid, so that the mistake is visible.
        await assert.rejects(
          resolving(() => [GOOD, endpoint, 5]),
          (error) =>
            error instanceof DialError &&
            error.code === 'ERR_CONNECT_RESOLVER' &&
            error.message.startsWith(`dial own: its resolver returned a list whose item 1 ${problem}`),
        )
      })
    }
  }

  it('shows the invalid value in the error', async () => {
    await assert.rejects(
      resolving(() => [{ ...GOOD, host: 'a b' }]),
      { message: /^dial own: its resolver returned a list whose item 0 .*, and has the string "a b"$/ },
    )
  })

  it('validates a frozen list once, and a mutable list each time', async () => {
    let reads = 0
    const watched = Object.freeze({
      get host(): string {
        reads += 1
        return 'a'
      },
      port: 1,
      identity: GOOD.identity,
    })
    const frozen = Object.freeze([watched])
    const copy = await resolving(() => frozen)
    assert.deepEqual(copy, [GOOD_COPY])
    assert.notEqual(copy, frozen)
    for (let i = 0; i < 2; i += 1) assert.equal(await resolving(() => frozen), copy)
    assert.equal(reads, 1)
    const list: unknown[] = [watched]
    const copies = new Set<unknown>()
    for (let i = 0; i < 3; i += 1) copies.add(await resolving(() => list))
    assert.deepEqual([reads, copies.size], [4, 3])
    list.push({ ...GOOD, port: 0 })
    await assert.rejects(resolving(() => list))
  })

  it('refuses an invalid frozen list each time', async () => {
    const frozen = Object.freeze([{ ...GOOD, port: 0 }])
    for (let i = 0; i < 2; i += 1) {
      await assert.rejects(
        resolving(() => frozen),
        { code: 'ERR_CONNECT_RESOLVER' },
      )
    }
  })

  it('reports an error of the resolver, synchronous or asynchronous, as the cause', async () => {
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

  it('rejects with the error itself if it is a ConnectError', async () => {
    for (const cause of [FORBIDDEN, new ConnectError('ERR_CONNECT_RESOLVER', 'own')]) {
      await assert.rejects(
        resolving(() => Promise.reject(cause)),
        (error) => error === cause,
      )
    }
  })
})

describe('StaticResolver', () => {
  it('returns the addresses in order, each with the identity, as the same list each time', async () => {
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
