import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { HashPolicy } from '../../src/agent/endpoints/chain-load-balancer.js'
import { xxHash64 } from '../../src/base/xxhash64.js'
import { type RequestHash, requestHash } from '../../src/resolve/balancing/request-hash.js'

const COOKIE_BYTES = [1, 2, 3, 4, 5, 6, 7, 0xff]
const COOKIE_VALUE = '01020304050607ff'

type Headers = Readonly<Record<string, string | readonly string[]>>

function policy(source: HashPolicy['source'], name = '', fields: Partial<HashPolicy> = {}): HashPolicy {
  return { source, name, terminal: false, newCookie: undefined, ...fields }
}

function hash(policies: readonly HashPolicy[], headers: Headers = {}, path = '/'): RequestHash {
  const lines = (name: string): readonly string[] => [headers[name] ?? []].flat()
  return requestHash(policies, { lines, path }, (size) => Uint8Array.from(COOKIE_BYTES.slice(0, size)))
}

/** What Envoy computes for policies with these hashes. */
function combined(first: bigint, second: bigint): bigint {
  return BigInt.asUintN(64, first << 1n) ^ (first >> 63n) ^ second
}

const user = policy('header', 'x-user')
const cookie = policy('cookie', 'user')
const parameter = policy('query_parameter', 'user')
const sourceIp = policy('source_ip')

describe('requestHash', () => {
  const texts: [
    rule: string,
    policy: HashPolicy,
    headers: Headers,
    path: string,
    text: string | undefined,
  ][] = [
    ['the value of a header', user, { 'x-user': 'ann' }, '/', 'ann'],
    ['a header without the spaces around it', user, { 'x-user': '\t ann b ' }, '/', 'ann b'],
    ['an empty header', user, { 'x-user': '' }, '/', ''],
    ['nothing without the header', user, {}, '/', undefined],
    ['the lines that Envoy joins', policy('header', 'accept'), { accept: ['b ', 'a'] }, '/', 'b,a'],
    ['the value of a cookie', cookie, { cookie: 'user=ann' }, '/', 'ann'],
    ['a cookie among others', cookie, { cookie: 'a=b; user=ann ;c=d' }, '/', 'ann '],
    ['a cookie of a further line', cookie, { cookie: ['a=b', 'user=ann'] }, '/', 'ann'],
    ['the first cookie of the name', cookie, { cookie: 'user=ann; user=bob' }, '/', 'ann'],
    ['a cookie without its quotes', cookie, { cookie: 'user="ann"' }, '/', 'ann'],
    ['a cookie with one quote', cookie, { cookie: 'user="' }, '/', '"'],
    ['a cookie with a separator', cookie, { cookie: 'user=ann=b' }, '/', 'ann=b'],
    ['nothing for an empty cookie', cookie, { cookie: 'user=; user=ann' }, '/', undefined],
    ['nothing for a cookie with empty quotes', cookie, { cookie: 'user=""' }, '/', undefined],
    ['nothing for other cookies', cookie, { cookie: 'User=ann; user ; auser=b; user =c' }, '/', undefined],
    ['a query parameter', parameter, {}, '/a?b=c&user=ann&user=bob', 'ann'],
    ['an encoded query parameter', parameter, {}, '/?user=a%20n+n%3d', 'a%20n+n%3d'],
    ['a query parameter with separators', parameter, {}, '/?user=ann=?b', 'ann=?b'],
    ['a query parameter without a value', parameter, {}, '/?user', ''],
    ['an empty query parameter', parameter, {}, '/?user=&user=ann', ''],
    ['nothing without the query parameter', parameter, {}, '/user=ann?User=ann&auser=b', undefined],
    ['nothing without a query', parameter, {}, '/user', undefined],
    ['the address of the application', sourceIp, {}, '/', '127.0.0.1'],
    [
      'the last forwarded address',
      sourceIp,
      { 'x-forwarded-for': ['10.0.0.1', 'a, 10.0.0.2 '] },
      '/',
      '10.0.0.2',
    ],
    ['a forwarded IPv6 address', sourceIp, { 'x-forwarded-for': '2001:0DB8:0::1' }, '/', '2001:db8::1'],
    [
      'the local address after another text',
      sourceIp,
      { 'x-forwarded-for': '10.0.0.1, a' },
      '/',
      '127.0.0.1',
    ],
  ]
  for (const [rule, policy, headers, path, text] of texts) {
    it(`hashes ${rule}`, () => {
      const expected = { hash: text === undefined ? undefined : xxHash64(text), newCookies: [] }
      assert.deepEqual(hash([policy], headers, path), expected)
    })
  }

  it('hashes several lines of a header in any order', () => {
    const expected = xxHash64('c', xxHash64('b', xxHash64('a')))
    for (const lines of [
      ['a', 'b', 'c'],
      ['c', ' b', 'a'],
    ]) {
      assert.equal(hash([user], { 'x-user': lines }).hash, expected)
    }
  })

  it('hashes the bytes that Node.js sends', () => {
    assert.equal(hash([user], { 'x-user': 'größe' }).hash, xxHash64(Buffer.from('größe', 'latin1')))
  })

  it('has no hash without policies', () => {
    assert.deepEqual(hash([]), { hash: undefined, newCookies: [] })
  })

  describe('with several policies', () => {
    const terminal = { ...user, terminal: true }
    const path = '/?user=bob'
    const [ann, bob] = [xxHash64('ann'), xxHash64('bob')]
    const cases: [rule: string, policies: HashPolicy[], headers: Headers, expected: bigint | undefined][] = [
      ['combines those that apply', [user, parameter], { 'x-user': 'ann' }, combined(ann, bob)],
      ['depends on their order', [parameter, user], { 'x-user': 'ann' }, combined(bob, ann)],
      ['skips those that do not apply', [user, cookie, parameter], {}, bob],
      ['does not cancel equal ones', [user, user], { 'x-user': 'ann' }, combined(ann, ann)],
      ['ends with a terminal one that applies', [terminal, parameter], { 'x-user': 'ann' }, ann],
      ['continues after a terminal one that does not apply', [terminal, parameter], {}, bob],
      ['ends with a terminal one if an earlier one applied', [parameter, terminal, sourceIp], {}, bob],
    ]
    for (const [rule, policies, headers, expected] of cases) {
      it(rule, () => {
        assert.equal(hash(policies, headers, path).hash, expected)
      })
    }
  })

  describe('with a cookie that is set', () => {
    const newCookie = { path: '/app', ttlMs: 60_000 }
    const setting = { ...cookie, newCookie }

    it('hashes the value of the new cookie', () => {
      for (const headers of [{}, { cookie: 'user=' }]) {
        assert.deepEqual(hash([setting], headers), {
          hash: xxHash64(COOKIE_VALUE),
          newCookies: [{ name: 'user', value: COOKIE_VALUE, path: '/app', ttlMs: 60_000 }],
        })
      }
    })

    it('keeps the cookie of the request', () => {
      assert.deepEqual(hash([setting], { cookie: 'user=ann' }), { hash: xxHash64('ann'), newCookies: [] })
    })

    it('sets no cookie of a policy that is skipped', () => {
      const headers = { 'x-user': 'ann' }
      assert.deepEqual(hash([{ ...user, terminal: true }, setting], headers), {
        hash: xxHash64('ann'),
        newCookies: [],
      })
    })

    it('sets a cookie for each policy', () => {
      const other = { ...policy('cookie', 'other'), newCookie: { path: undefined, ttlMs: 0 } }
      assert.deepEqual(
        hash([setting, other]).newCookies.map(({ name }) => name),
        ['user', 'other'],
      )
    })
  })
})
