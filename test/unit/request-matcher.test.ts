import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { HeaderRule, HttpMatch, PathRule, QueryRule } from '../../src/agent/endpoints/http-rules.js'
import { type RequestHead, type RequestMatcher, compileMatch } from '../../src/matching/request-matcher.js'

const EVERY: HttpMatch = { path: undefined, headers: [], query: [], methods: [] }

function request(path: string, method = 'GET', headers: Record<string, string[]> = {}): RequestHead {
  return { path, method, lines: (name) => headers[name] ?? [] }
}

function compile(match: Partial<HttpMatch>): Promise<RequestMatcher> {
  return compileMatch({ ...EVERY, ...match }, (problem) => assert.fail(problem))
}

function path(kind: PathRule['kind'], value: string, ignoreCase = false): PathRule {
  return { kind, value, ignoreCase }
}

function header(name: string, kind: HeaderRule['kind'], value = '', invert = false): HeaderRule {
  return { name, kind, value, invert, ignoreCase: false }
}

function query(kind: QueryRule['kind'], value = '', name = 'v'): QueryRule {
  return { name, kind, value }
}

// All decisions of this file were made by Envoy 1.40 as well; see test/envoy/route-rules.test.ts.
describe('compileMatch', () => {
  it('matches every request without conditions', async () => {
    const matches = await compile({})
    assert.ok(matches(request('/')))
    assert.ok(matches(request('/x?y', 'POST')))
  })

  const paths: [rule: PathRule, matches: string[], others: string[]][] = [
    [
      path('exact', '/sp'),
      ['/sp', '/sp?', '/sp?q=/sp', '/sp??x'],
      ['/sp/', '/SP', '//sp', '/%73p', '/a/../sp'],
    ],
    [path('exact', '/sp?q'), [], ['/sp?q', '/sp']],
    [path('exact', '/SP', true), ['/sp', '/Sp?x'], ['/sp/', '/s']],
    [
      path('prefix', '/sp'),
      ['/sp', '/sp/x', '/spare', '/sp?q=/sp', '/sp;v=1', '/sp\\x'],
      ['/', '/s?p', '/SP'],
    ],
    [path('prefix', '/sp/'), ['/sp/', '/sp/x'], ['/sp', '/sp?/']],
    [path('prefix', '/sp?'), [], ['/sp?', '/sp?x']],
    [path('prefix', '/SP', true), ['/sp', '/Sp/x'], ['/s', '/s?p']],
    [path('prefix', '/'), ['/', '//', '/?x'], []],
    [path('regex', '/sp'), ['/sp', '/sp?x'], ['/sp/', '/SP', '/spare']],
    [path('regex', '/SP', true), ['/SP'], ['/sp']],
    [path('regex', '/s.*'), ['/sp', '/sp/x?y'], ['/SP', '/']],
    [path('regex', '(?i)/abc'), ['/ABC?x'], ['/abcd']],
    [path('regex', '/(a+)+$'), ['/aa?b'], [`/${'a'.repeat(10_000)}!`]],
  ]
  for (const [rule, matches, others] of paths) {
    const either = rule.ignoreCase ? ' in either case' : ''
    it(`compares the path without its query: ${rule.kind} ${rule.value}${either}`, async () => {
      const holds = await compile({ path: rule })
      for (const each of matches) assert.ok(holds(request(each)), each)
      for (const each of others) assert.ok(!holds(request(each)), each)
    })
  }

  it('decides a path with a fragment by the part before it', async () => {
    const holds = await compile({ path: path('exact', '/admin'), query: [query('exact', '1')] })
    assert.ok(holds(request('/admin?v=1#x')))
    assert.ok(!holds(request('/admin#?v=1')))
    assert.ok((await compile({ path: path('exact', '/admin') }))(request('/admin#x')))
  })

  const queries: [rule: QueryRule, matches: string[], others: string[]][] = [
    [
      query('present'),
      ['/?v', '/?v=', '/?v=1', '/?a&v', '/?&&v=1'],
      ['/', '/?', '/?V=1', '/?%76=1', '/?va=1', '/?x=v=1', '/?x=1;v=1', '/??v=1'],
    ],
    [
      query('exact', '1'),
      ['/?v=1', '/?v=1&v=2', '/?a&v=1', '/?&v=1'],
      ['/?v=2&v=1', '/?v&v=1', '/?v=%31', '/?v==1', '/?v=1?', '/?v=1%26', '/?v'],
    ],
    [query('exact', '%31'), ['/?v=%31'], ['/?v=1']],
    [query('exact', 'a+b'), ['/?v=a+b'], ['/?v=a%20b', '/?v=a%2Bb']],
    [query('exact', '1=2'), ['/?v=1=2'], ['/?v=1']],
    [query('exact', '1?'), ['/?v=1?'], ['/?v=1']],
    [query('exact', '%zz'), ['/?v=%zz'], []],
    [query('exact', 'é'), [], ['/?v=%C3%A9']],
    [query('regex', '.*'), ['/?v', '/?v='], ['/']],
    [query('regex', '[0-9]'), ['/?v=7'], ['/?v=77', '/?v']],
    [query('present', '', '?v'), ['/??v=1'], ['/?v']],
    [query('present', '', '%76'), ['/?%76=1'], ['/?v']],
  ]
  for (const [rule, matches, others] of queries) {
    it(`compares the first value of a parameter undecoded: ${rule.name} ${rule.kind} ${rule.value}`, async () => {
      const holds = await compile({ query: [rule] })
      for (const each of matches) assert.ok(holds(request(each)), each)
      for (const each of others) assert.ok(!holds(request(each)), each)
    })
  }

  const heads: [rule: HeaderRule, head: RequestHead, expected: boolean][] = [
    [header(':path', 'exact', '/q?x'), request('/q?x'), true],
    [header(':path', 'exact', '/q'), request('/q?x'), false],
    [header(':method', 'exact', 'GET'), request('/'), true],
    [header(':method', 'exact', 'get'), request('/'), false],
    [header(':authority', 'exact', 'A.b:80'), request('/', 'GET', { host: ['A.b:80'] }), true],
    [header(':authority', 'exact', 'a.b:80'), request('/', 'GET', { host: ['A.b:80'] }), false],
    [header('host', 'exact', 'A.b:80'), request('/', 'GET', { host: ['A.b:80'] }), true],
    [header(':status', 'present'), request('/'), false],
    [header('x-role', 'exact', 'a'), request('/', 'GET', { 'x-role': ['b', 'a'] }), true],
    [header('x-role', 'exact', 'a', true), request('/'), false],
    [header('x-role', 'present', '', true), request('/'), true],
  ]
  for (const [rule, head, expected] of heads) {
    const { name, kind, value, invert } = rule
    it(`decides ${name} ${kind} ${value}${invert ? ', inverted,' : ''} of ${head.method} ${head.path} as ${expected}`, async () => {
      assert.equal((await compile({ headers: [rule] }))(head), expected)
    })
  }

  it('compares methods as they are written', async () => {
    const holds = await compile({ methods: ['GET', 'POST'] })
    assert.deepEqual(
      ['GET', 'POST', 'HEAD', 'get', ''].map((method) => holds(request('/', method))),
      [true, true, false, false, false],
    )
  })

  it('matches if all conditions hold', async () => {
    const conditions: Partial<HttpMatch> = {
      path: path('prefix', '/a'),
      headers: [header('x-a', 'present'), header('x-b', 'exact', '1')],
      query: [query('present'), query('exact', '2', 'w')],
      methods: ['PUT'],
    }
    const holds = await compile(conditions)
    const lines = { 'x-a': ['0'], 'x-b': ['1'] }
    assert.ok(holds(request('/a?v&w=2', 'PUT', lines)))
    for (const head of [
      request('/b?v&w=2', 'PUT', lines),
      request('/a?w=2', 'PUT', lines),
      request('/a?v&w=3', 'PUT', lines),
      request('/a?v&w=2', 'GET', lines),
      request('/a?v&w=2', 'PUT', { 'x-b': ['1'] }),
      request('/a?v&w=2', 'PUT', { 'x-a': ['0'] }),
    ]) {
      assert.ok(!holds(head), JSON.stringify(head))
    }
  })

  for (const invalid of [
    { path: path('regex', '/a(?!b).*') },
    { headers: [header('x', 'regex', '(?!b)', true)] },
    { query: [query('regex', '(?!b)')] },
  ] satisfies Partial<HttpMatch>[]) {
    it(`reports an invalid expression of the ${Object.keys(invalid).join()}, and matches no request`, async () => {
      const problems: string[] = []
      const holds = await compileMatch({ ...EVERY, ...invalid }, (problem) => problems.push(problem))
      assert.equal(problems.length, 1)
      assert.match(problems[0]!, /^invalid expression ".*": invalid or unsupported Perl syntax: `\(\?!`$/)
      assert.ok(!holds(request('/a', 'GET', { x: ['a'] })))
      assert.ok(!holds(request('/a?v=b')))
    })
  }
})
