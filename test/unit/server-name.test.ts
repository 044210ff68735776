import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { isServerName, serverName } from '../../src/identity/server-name.js'

const DOMAIN = '11111111-2222-3333-4444-555555555555.consul'
const identity = { service: 'api', namespace: 'default', partition: 'default', datacenter: 'dc2' }

describe('serverName', () => {
  const names: [rule: string, fields: object, name: string | undefined][] = [
    ['names the default partition in no label', {}, `api.default.dc2.internal.${DOMAIN}`],
    ['names the namespace', { namespace: 'n' }, `api.n.dc2.internal.${DOMAIN}`],
    ['names another partition', { partition: 'p' }, `api.default.p.dc2.internal-v1.${DOMAIN}`],
    ['is undefined for a service that no handshake can name', { service: 'ü' }, undefined],
    ['is undefined for a service that is too long', { service: 'a'.repeat(255) }, undefined],
  ]
  for (const [rule, fields, name] of names) {
    it(rule, () => {
      assert.equal(serverName({ ...identity, ...fields }, DOMAIN), name)
    })
  }
})

it('serverName begins with the subset', () => {
  assert.equal(serverName(identity, DOMAIN, 'v2'), `v2.api.default.dc2.internal.${DOMAIN}`)
})

describe('isServerName', () => {
  const values: [value: unknown, expected: boolean][] = [
    ['a', true],
    ['web_1~!.x', true],
    ['a'.repeat(255), true],
    ['a'.repeat(256), false],
    ['', false],
    ['a b', false],
    ['a\n', false],
    ['a\x7f', false],
    ['ü', false],
    // Node.js refuses IP addresses.
    ['192.0.2.1', false],
    ['2001:db8::1', false],
    ['192.0.2.1.x', true],
    [undefined, false],
    [5, false],
    [['a'], false],
  ]
  for (const [value, expected] of values) {
    it(`${expected ? 'accepts' : 'refuses'} ${inspect(value).slice(0, 40)}`, () => {
      assert.equal(isServerName(value), expected)
    })
  }
})
