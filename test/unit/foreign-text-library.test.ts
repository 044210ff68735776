// Texts from options, environments and agents.
import { expectDomain, expectHosts } from '../../src/adapters/host.js'
import { parseAddress } from '../../src/agent/address.js'
import { AgentApi } from '../../src/agent/api.js'
import { agentOptionsFromEnv } from '../../src/agent/env.js'
import { parseDuration } from '../../src/agent/query.js'
import { agentSettings } from '../../src/agent/settings.js'
import { SpiffeId } from '../../src/identity/spiffe.js'
import { expectAddress, expectName, expectSecret, isHost } from '../../src/options.js'
import { nameHint } from '../../src/resolve/name-hint.js'
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
  { name: 'secret', parse: (text) => expectSecret('option', text), characters: '!~\x7f' },
  { name: 'DNS domain', parse: (text) => expectDomain('option', text), characters: '.-_' },
  {
    name: 'host of the option hosts',
    parse: (text) => expectHosts('option', { [text]: 'web' }),
    characters: '.-_:',
  },
  {
    name: 'service name that is not found',
    // `dial` has checked the name before.
    parse: (text) => nameHint(expectName('upstream', text)),
    characters: '.:[]%_',
    prefixes: ['a.service.', '_a._b.', '['],
  },
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
