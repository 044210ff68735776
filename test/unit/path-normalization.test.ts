import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { PathRules } from '../../src/agent/endpoints/mesh-entry.js'
import { isAmbiguous, normalizePath } from '../../src/matching/path-normalization.js'

const RULES: PathRules = { normalize: true, mergeSlashes: false, escapedSlashes: 'keep' }

function normalized(path: string, rules: Partial<PathRules> = {}): string {
  const found = normalizePath(path, { ...RULES, ...rules })
  if ('path' in found) return found.path
  return 'location' in found ? `307 ${found.location}` : '400'
}

// The answers are those of Envoy 1.40; the suite `envoy` compares thousands of further paths.
describe('normalizePath', () => {
  const cases: [path: string, expected: string][] = [
    ['/', '/'],
    ['/a/b.html?x=/../y', '/a/b.html?x=/../y'],
    ['/a/./b', '/a/b'],
    ['/a/../b', '/b'],
    ['/a/..', '/'],
    ['/a/.', '/a/'],
    ['/../../a', '/a'],
    ['/a//../b', '/a/b'],
    ['//a/..//b', '///b'],
    ['/a/%2e%2E/b', '/b'],
    ['/a/.../b', '/a/.../b'],
    ['/a\\..\\b', '/b'],
    ['/%61dmin', '/admin'],
    ['/%41%2d%7e', '/A-~'],
    ['/a%2fb%5Cc', '/a%2fb%5Cc'],
    ['/a%3Fb', '/a%3Fb'],
    ['/%zz%', '/%zz%'],
    ['/%%41b', '/%25Ab'],
    ['/%%34%31', '/%2541'],
    ['/%252e', '/%252e'],
    ['/a"<b>`{|}^', '/a%22%3Cb%3E%60%7B%7C%7D%5E'],
    ['/a/..;/b', '/b'],
    ['/a/..;v=1/b', '/b'],
    ['/a/.;x', '/a/'],
    ['/a/%2e%2e;/b', '/a/..;/b'],
    ['/a;x/../b', '/b'],
    ['/a%00', '400'],
    ['/a#b', '400'],
    ['/a b', '400'],
    ['/\xe9', '400'],
    ['/a\x7f', '400'],
    ['/a?\xff', '400'],
  ]
  for (const [path, expected] of cases) {
    it(`makes ${JSON.stringify(path)} ${expected}`, () => {
      assert.equal(normalized(path), expected)
    })
  }

  it('leaves paths as they are if the mesh says so, except those that no path may have', () => {
    const rules = { normalize: false }
    for (const path of ['/a/../b', '/%61', '/a\\b', '/a"b', '/a%00'])
      assert.equal(normalized(path, rules), path)
    for (const path of ['/a#b', '/\xe9']) assert.equal(normalized(path, rules), '400')
  })

  it('merges slashes after dot segments', () => {
    const rules = { mergeSlashes: true }
    assert.equal(normalized('/a//b///c?x=//', rules), '/a/b/c?x=//')
    assert.equal(normalized('//a/..//b', rules), '/b')
    assert.equal(normalized('//', rules), '//')
  })

  it('treats escaped slashes as the mesh says, before everything else', () => {
    for (const path of ['/a%2fb', '/a%2Fb', '/a%5cb', '/a%5Cb']) {
      assert.equal(normalized(path, { escapedSlashes: 'reject' }), '400')
      assert.equal(normalized(path, { escapedSlashes: 'unescape' }), '/a/b')
      assert.equal(normalized(path, { escapedSlashes: 'redirect' }), '307 /a/b')
    }
    assert.equal(normalized('/a/..%2fb?y=%2f', { escapedSlashes: 'redirect' }), '307 /b?y=%2f')
    assert.equal(normalized('/a?b=%2f', { escapedSlashes: 'reject' }), '/a?b=%2f')
    assert.equal(normalized('/a%5cb', { escapedSlashes: 'unescape', normalize: false }), '/a\\b')
  })
})

describe('isAmbiguous', () => {
  const ambiguous = [
    ...['//a', '/a//b', '/a/./b', '/a/..', '/.', '/a\\b', '/a;x', '/a%2fb', '/a%5Cb', '/%2E%2e/a', '/a%3bx'],
    ...['/a%00', '/a%252e'],
  ]
  for (const path of ambiguous) {
    it(`is true for ${path}`, () => {
      assert.equal(isAmbiguous(path), true)
    })
  }

  for (const path of [
    '/',
    '/a/',
    '/a/b.c',
    '/.well-known/x',
    '/a...b',
    '/%C3%A9',
    '/a?b=//..;%2f\\',
    '/a%20b',
  ]) {
    it(`is false for ${path}`, () => {
      assert.equal(isAmbiguous(path), false)
    })
  }
})
