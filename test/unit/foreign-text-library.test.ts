// Texts from options, environments and agents.
import { parseAddress } from '../../src/agent/address.js'
import { AgentApi } from '../../src/agent/api.js'
import { agentOptionsFromEnv } from '../../src/agent/env.js'
import { parseDuration } from '../../src/agent/query.js'
import { agentSettings } from '../../src/agent/settings.js'
import { SpiffeId } from '../../src/identity/spiffe.js'
import { expectAddress, expectName, isHost } from '../../src/options.js'
import { toTarget } from '../../src/resolve/upstream.js'
import { foreignTextSuite } from '../fixtures/foreign-text.js'

const api = new AgentApi({ env: {} })

foreignTextSuite('library', [
  {
    name: 'host and port',
    parse: (text) => expectAddress('option', text),
    characters: ':[]%.-',
    prefixes: ['[', '[::', '[fe80::1%', 'a:'],
  },
  { name: 'host', parse: isHost, characters: ':.%-_[]' },
  { name: 'Consul name', parse: (text) => expectName('option', text), characters: '/.\u{d800}' },
  {
    name: 'agent address',
    parse: (text) => parseAddress('agent.address', text, 'http'),
    characters: ':/[]@?#%.-',
    prefixes: ['http://', 'unix://', 'unix:///', 'http://a/', 'a/', '[', 'a:'],
  },
  {
    name: 'address of the DNS server of the agent',
    parse: (text) => agentSettings({ dnsAddress: text, env: {} }),
    characters: ':[]%.',
    prefixes: ['['],
  },
  {
    name: 'variables of the environment',
    parse: (text) =>
      agentSettings({ env: { CONSUL_HTTP_ADDR: text, CONSUL_HTTP_AUTH: text, CONSUL_DATACENTER: text } }),
    characters: ':/[]@.',
  },
  {
    name: 'CONSUL_HTTP_SSL',
    parse: (text) => agentOptionsFromEnv({ CONSUL_HTTP_SSL: text }),
    characters: 'tf',
  },
  {
    name: 'path of a request to the agent',
    parse: (text) => {
      void api.request({ path: text, signal: AbortSignal.abort() }).catch(() => undefined)
    },
    characters: '/.%2eF\\',
    prefixes: ['/v1/', '/v1/agent/..', '/v1/%'],
  },
  {
    name: 'duration of Go',
    parse: parseDuration,
    characters: '.nsumhµ',
    prefixes: ['1', '1.', '1m'],
  },
  {
    name: 'SPIFFE ID',
    parse: (text) => SpiffeId.parse(text),
    characters: '/%:@?#.',
    prefixes: ['spiffe://', 'spiffe://a/ns/', 'spiffe://a/ns/default/dc/dc1/svc/'],
  },
  {
    name: 'upstream',
    parse: (text) => toTarget(text),
    characters: '/.:',
  },
  {
    name: 'address of an upstream',
    parse: (text) => toTarget({ address: text, service: 'web' }),
    characters: ':[]%.',
    prefixes: ['['],
  },
  {
    name: 'DNS name of an upstream',
    parse: (text) => toTarget({ dns: text, service: 'web' }),
    characters: '.-_',
    prefixes: ['a.'],
  },
  {
    name: 'filter of an upstream',
    parse: (text) => toTarget({ service: 'web', filter: text }),
    characters: '()"=.`',
    nested: [
      ['(', ')'],
      ['not (', ')'],
    ],
  },
])
