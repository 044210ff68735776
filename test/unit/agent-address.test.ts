import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { type AgentAddress, formatAddress, parseAddress } from '../../src/agent/address.js'
import { OptionError } from '../../src/base/errors.js'

const at = (scheme: 'http' | 'https', host: string, prefix = ''): AgentAddress => ({
  scheme,
  host,
  prefix,
  socketPath: undefined,
})
const unix = (scheme: 'http' | 'https', socketPath: string): AgentAddress => ({
  scheme,
  host: 'localhost',
  prefix: '',
  socketPath,
})

describe('parseAddress', () => {
  const cases: [text: string, plain: AgentAddress, withSsl: AgentAddress][] = [
    ['127.0.0.1:8500', at('http', '127.0.0.1:8500'), at('https', '127.0.0.1:8500')],
    ['127.0.0.1', at('http', '127.0.0.1:8500'), at('https', '127.0.0.1:8500')],
    ['consul.example', at('http', 'consul.example:8500'), at('https', 'consul.example:8500')],
    ['localhost:8501', at('http', 'localhost:8501'), at('https', 'localhost:8501')],
    ['[::1]:8500', at('http', '[::1]:8500'), at('https', '[::1]:8500')],
    ['[::1]', at('http', '[::1]:8500'), at('https', '[::1]:8500')],
    // A port that is named is the port, also when it is the default one of a scheme.
    ['consul.example:80', at('http', 'consul.example:80'), at('https', 'consul.example:80')],
    ['consul.example:443', at('http', 'consul.example:443'), at('https', 'consul.example:443')],
    // A scheme in the address wins over CONSUL_HTTP_SSL.
    ['http://a:1', at('http', 'a:1'), at('http', 'a:1')],
    ['https://a:1', at('https', 'a:1'), at('https', 'a:1')],
    ['HTTPS://a:1', at('https', 'a:1'), at('https', 'a:1')],
    // As in Go's client, a URL without a port means the scheme's own.
    ['http://a', at('http', 'a:80'), at('http', 'a:80')],
    ['https://a', at('https', 'a:443'), at('https', 'a:443')],
    ['https://a:80', at('https', 'a:80'), at('https', 'a:80')],
    ['http://a:1/', at('http', 'a:1'), at('http', 'a:1')],
    ['http://a:1/consul', at('http', 'a:1', '/consul'), at('http', 'a:1', '/consul')],
    ['http://a:1/consul/', at('http', 'a:1', '/consul'), at('http', 'a:1', '/consul')],
    ['https://a/x/y//', at('https', 'a:443', '/x/y'), at('https', 'a:443', '/x/y')],
    ['a:1/consul', at('http', 'a:1', '/consul'), at('https', 'a:1', '/consul')],
    ['unix:///run/consul.sock', unix('http', '/run/consul.sock'), unix('https', '/run/consul.sock')],
    ['unix://run/consul.sock', unix('http', 'run/consul.sock'), unix('https', 'run/consul.sock')],
    ['unix:///a b?c#d', unix('http', '/a b?c#d'), unix('https', '/a b?c#d')],
  ]
  for (const [text, plain, withSsl] of cases) {
    it(text, () => {
      assert.deepEqual(parseAddress('o', text, 'http'), plain)
      assert.deepEqual(parseAddress('o', text, 'https'), withSsl)
    })
  }

  const bad: string[] = [
    '',
    ' ',
    'http://',
    'unix://',
    'ftp://a:1',
    'tcp://a:1',
    'ws://a:1',
    'UNIX:///run/consul.sock',
    'file:///run/consul.sock',
    '::1',
    'a:b',
    'a:99999',
    'a:-1',
    'a b:1',
    'http://a:1?x',
    'http://a:1/#x',
    'a:1?dc=x',
    'user@a:1',
    'user:hunter2@a:1',
    'http://user:hunter2@a:1',
    'http://:hunter2@a:1',
    'http://user:hunter2@[a',
    'http://user:hunter2@a:99999/',
  ]
  for (const text of bad) {
    it(`refuses ${JSON.stringify(text)}, and shows no password`, () => {
      assert.throws(
        () => parseAddress('agent.address', text, 'http'),
        (error) => {
          assert.ok(error instanceof OptionError)
          assert.equal(error.option, 'agent.address')
          assert.doesNotMatch(inspect(error, { depth: 9 }), /hunter2/)
          return true
        },
      )
    })
  }
})

describe('formatAddress', () => {
  for (const text of [
    'http://a:80',
    'https://[::1]:8501/consul',
    'http://a:1/x/y',
    'unix:///run/consul.sock',
  ]) {
    it(`${text}, and parsing it gives the same`, () => {
      const address = parseAddress('o', text, 'http')
      assert.equal(formatAddress(address), text)
      assert.deepEqual(parseAddress('o', formatAddress(address), 'http'), address)
    })
  }
})
