import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { PathRule } from '../../src/agent/endpoints/http-rules.js'
import { rewritePath } from '../../src/http/routes/path-rewrite.js'

function rule(kind: PathRule['kind'], value: string, ignoreCase = false): PathRule {
  return { kind, value, ignoreCase }
}

describe('rewritePath', () => {
  // All were rewritten by Envoy 1.40 as well.
  const rewrites: [rule: PathRule | undefined, rewrite: string, paths: Record<string, string>][] = [
    [
      rule('prefix', '/sp'),
      '/',
      { '/sp': '/', '/sp/x': '//x', '/spare': '/are', '/sp?q=/sp': '/?q=/sp', '/sp?': '/?' },
    ],
    [rule('prefix', '/SP', true), '/', { '/sp/x?y': '//x?y', '/SP': '/' }],
    [rule('prefix', '/sp/'), '/z/', { '/sp/x': '/z/x' }],
    [rule('prefix', '/sp'), 'x', { '/sp': 'x', '/sp/x': 'x/x' }],
    [rule('prefix', '/sp'), '//h/', { '/sp': '//h/', '/sp/x': '//h//x' }],
    [rule('prefix', '/sp'), '/z?w=1', { '/sp/x?y': '/z?w=1/x?y' }],
    [rule('prefix', '/sp'), '/%41%', { '/sp': '/%41%' }],
    [rule('prefix', '/sp'), '/é', { '/sp': '/\xc3\xa9' }],
    [rule('exact', '/sp'), '/z', { '/sp': '/z', '/sp?q=/sp': '/z?q=/sp', '/sp?': '/z?' }],
    [rule('regex', '/s.*'), '/z', { '/sp': '/z', '/sp/x?y': '/z?y' }],
    [undefined, '/z', { '/sp': '/zsp', '/': '/z', '/sp/x?y': '/zsp/x?y', '/?y': '/z?y' }],
  ]
  for (const [matched, rewrite, paths] of rewrites) {
    const name = matched === undefined ? 'no path' : `${matched.kind} ${matched.value}`
    it(`replaces what ${name} matched by ${rewrite}`, () => {
      const found = Object.keys(paths).map((path) => rewritePath(path, matched, rewrite))
      assert.deepEqual(found, Object.values(paths))
    })
  }
})
