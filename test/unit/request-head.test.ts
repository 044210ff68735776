import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Headers as UndiciHeaders } from 'undici'
import { RequestHead } from '../../src/http/routes/request-head.js'

function headOf(options: Record<string, unknown>): RequestHead {
  const given = { origin: 'https://web.service.consul:8443', method: 'GET', path: '/', ...options }
  return new RequestHead(given)
}

describe('RequestHead: the headers', () => {
  const forms: [form: string, headers: unknown, lines: string[]][] = [
    ['an object', { 'X-A': '1', b: '2' }, ['X-A', '1', 'b', '2']],
    ['an object with lists', { 'x-a': ['1', '2'], b: [] }, ['x-a', '1', 'x-a', '2']],
    ['an object with numbers and booleans', { a: 1, b: true }, ['a', '1', 'b', 'true']],
    ['an object with undefined', { a: undefined, b: '2' }, ['b', '2']],
    ['an object with null', { a: null, b: ['1', null] }, ['a', '', 'b', '1', 'b', '']],
    ['a flat array', ['X-A', '1', 'x-a', '2'], ['X-A', '1', 'x-a', '2']],
    ['a flat array with lists', ['a', ['1', '2']], ['a', '1', 'a', '2']],
    ['a Map', new Map([['a', '1']]), ['a', '1']],
    [
      'a Headers of Node.js',
      new Headers([
        ['A', '1'],
        ['a', '2'],
        ['set-cookie', 'b'],
      ]),
      ['a', '1, 2', 'set-cookie', 'b'],
    ],
    ['a Headers of undici', new UndiciHeaders({ A: '1' }), ['a', '1']],
    [
      'a generator of pairs',
      [
        ['a', '1'],
        ['b', '2'],
      ].values(),
      ['a', '1', 'b', '2'],
    ],
    ['nothing', undefined, []],
    ['null', null, []],
  ]
  for (const [form, headers, lines] of forms) {
    it(`are read from ${form}`, () => {
      assert.deepEqual(headOf({ headers }).headers, lines)
    })
  }

  it('are read once: an iterable may have an end', () => {
    const head = headOf({ headers: new Map([['a', '1']]).entries() })
    assert.deepEqual(head.lines('a'), ['1'])
    assert.deepEqual(head.lines('a'), ['1'])
    assert.deepEqual(head.headers, ['a', '1'])
  })

  it('are found in any case, each line by itself', () => {
    const head = headOf({ headers: ['X-A', '1', 'x-b', '2', 'x-a', '3', 'X-A-B', '4'] })
    assert.deepEqual(head.lines('x-a'), ['1', '3'])
    assert.deepEqual(head.lines('x-b'), ['2'])
    assert.deepEqual(head.lines('x-c'), [])
    // A value is no name.
    assert.deepEqual(headOf({ headers: ['a', 'b', 'c', 'd'] }).lines('b'), [])
  })
})

describe('RequestHead: the host', () => {
  it('is that of the header', () => {
    assert.deepEqual(headOf({ headers: { Host: 'other' } }).lines('host'), ['other'])
  })

  it('is that of the origin without the header, as undici sends it', () => {
    assert.deepEqual(headOf({}).lines('host'), ['web.service.consul:8443'])
    assert.deepEqual(headOf({ origin: new URL('http://web:80/x') }).lines('host'), ['web'])
    assert.deepEqual(headOf({}).headers, [])
  })
})

describe('RequestHead: the path', () => {
  const paths: [path: string, expected: string][] = [
    ['/', '/'],
    ['/a?b=c', '/a?b=c'],
    ['//a', '//a'],
    ['/a%2Fb/../c', '/a%2Fb/../c'],
    ['/http://x/y', '/http://x/y'],
    ['http://other/a?b', '/a?b'],
    ['https://other:8443/a', '/a'],
    ['http://other', '/'],
    ['http://other?a=b', '/?a=b'],
    ['http://other//a', '//a'],
  ]
  for (const [path, expected] of paths) {
    it(`of ${path} is ${expected}`, () => {
      assert.equal(headOf({ path }).path, expected)
    })
  }

  for (const path of ['', 'a', '*', 'ftp://other/a', '?a=b', 'other/http://x/']) {
    it(`is refused without a slash: ${JSON.stringify(path)}`, () => {
      assert.throws(() => headOf({ path }), { code: 'ERR_CONNECT_OPTION', option: 'path' })
    })
  }

  it('has the query of the option', () => {
    const query = { a: 1, b: ['x', 'y z'], c: '&', d: true }
    assert.equal(headOf({ path: '/p', query }).path, '/p?a=1&b=x&b=y%20z&c=%26&d=true')
    assert.equal(headOf({ path: '/p', query: {} }).path, '/p')
    assert.equal(headOf({ path: '/p?a=b', query: undefined }).path, '/p?a=b')
  })

  it('must not have a query or a fragment besides the option', () => {
    for (const path of ['/p?a=b', '/p?', '/p#f']) {
      assert.throws(() => headOf({ path, query: { c: 1 } }), { code: 'ERR_CONNECT_OPTION', option: 'query' })
    }
  })

  it('must be text, as must the method', () => {
    for (const value of [undefined, null, 7, {}]) {
      assert.throws(() => headOf({ path: value }), { code: 'ERR_CONNECT_OPTION', option: 'path' })
      assert.throws(() => headOf({ method: value }), { code: 'ERR_CONNECT_OPTION', option: 'method' })
    }
  })

  it('stands beside the method, which is kept', () => {
    assert.equal(headOf({ method: 'PURGE' }).method, 'PURGE')
  })
})
