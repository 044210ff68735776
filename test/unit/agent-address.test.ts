import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { type AgentAddress, formatAddress, parseAddress } from '../../src/agent/address.js'
import { OptionError } from '../../src/base/errors.js'

const tcp = (scheme: 'http' | 'https', host: string, prefix = ''): AgentAddress => ({
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
    ['127.0.0.1:8500', tcp('http', '127.0.0.1:8500'), tcp('https', '127.0.0.1:8500')],
    ['127.0.0.1', tcp('http', '127.0.0.1:8500'), tcp('https', '127.0.0.1:8500')],
    ['consul.example', tcp('http', 'consul.example:8500'), tcp('https', 'consul.example:8500')],
    ['localhost:8501', tcp('http', 'localhost:8501'), tcp('https', 'localhost:8501')],
    ['[::1]:8500', tcp('http', '[::1]:8500'), tcp('https', '[::1]:8500')],
    ['[::1]', tcp('http', '[::1]:8500'), tcp('https', '[::1]:8500')],
    // An explicit port is kept, even when it is the default port of a scheme.
    ['consul.example:80', tcp('http', 'consul.example:80'), tcp('https', 'consul.example:80')],
    ['consul.example:443', tcp('http', 'consul.example:443'), tcp('https', 'consul.example:443')],
    // A scheme in the address wins over CONSUL_HTTP_SSL.
    ['http://a:1', tcp('http', 'a:1'), tcp('http', 'a:1')],
    ['https://a:1', tcp('https', 'a:1'), tcp('https', 'a:1')],
    ['HTTPS://a:1', tcp('https', 'a:1'), tcp('https', 'a:1')],
    // As in Consul's Go client, a URL without a port has the default port of its scheme.
    ['http://a', tcp('http', 'a:80'), tcp('http', 'a:80')],
    ['https://a', tcp('https', 'a:443'), tcp('https', 'a:443')],
    ['https://a:80', tcp('https', 'a:80'), tcp('https', 'a:80')],
    ['http://a:1/', tcp('http', 'a:1'), tcp('http', 'a:1')],
    ['http://a:1/consul', tcp('http', 'a:1', '/consul'), tcp('http', 'a:1', '/consul')],
    ['http://a:1/consul/', tcp('http', 'a:1', '/consul'), tcp('http', 'a:1', '/consul')],
    ['https://a/x/y//', tcp('https', 'a:443', '/x/y'), tcp('https', 'a:443', '/x/y')],
    ['a:1/consul', tcp('http', 'a:1', '/consul'), tcp('https', 'a:1', '/consul')],
    ['unix:///run/consul.sock', unix('http', '/run/consul.sock'), unix('https', '/run/consul.sock')],
    ['unix://run/consul.sock', unix('http', 'run/consul.sock'), unix('https', 'run/consul.sock')],
    ['unix:///a b?c#d', unix('http', '/a b?c#d'), unix('https', '/a b?c#d')],
  ]
  for (const [text, plain, withSsl] of cases) {
    it(`parses ${text}`, () => {
      assert.deepEqual(parseAddress('o', text, 'http'), plain)
      assert.deepEqual(parseAddress('o', text, 'https'), withSsl)
    })
  }

  const INVALID =
    'http:// unix:// ftp://a:1 tcp://a:1 ws://a:1 UNIX:///run/consul.sock file:///run/consul.sock ' +
    '::1 a:b a:99999 a:-1 http://a:1?x http://a:1/#x a:1?dc=x user@a:1 user:hunter2@a:1 ' +
    'http://user:hunter2@a:1 http://:hunter2@a:1 http://user:hunter2@[a http://user:hunter2@a:99999/'
  for (const text of [...INVALID.split(' '), '', ' ', 'a b:1']) {
    it(`rejects ${JSON.stringify(text)} without its password in the error`, () => {
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
    it(`formats the parsed ${text} as ${text}`, () => {
      assert.equal(formatAddress(parseAddress('o', text, 'http')), text)
    })
  }
})
