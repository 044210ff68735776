// All messages of refused options, in one table: the path of the value, what was expected, and what was found.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { agentSettings } from '../../src/agent/settings.js'
import { authorizeOneOf, authorizeService } from '../../src/authorize/authorizers.js'
import { OptionError } from '../../src/base/errors.js'
import { readyBounds } from '../../src/base/options/ready-options.js'
import { parseProxyConfig } from '../../src/proxy/settings.js'
import { parseUpstream } from '../../src/resolve/upstream.js'
import { dialSettings, forwardSettings } from '../../src/service/options/dial-options.js'
import { listenSettings, secureSettings } from '../../src/service/options/listen-options.js'
import { serviceDefinition } from '../../src/service/options/register-options.js'
import { serviceSettings } from '../../src/service/options/service-options.js'

const service = (options: unknown): unknown => serviceSettings(options as never)
const agent = (options: object): unknown => agentSettings({ env: {}, ...options })
const dial = (options: unknown): unknown => dialSettings(options as never, 1)
const forward = (options: unknown): unknown => forwardSettings(options as never, 1)
const listen = (options: unknown): unknown => listenSettings(options as never, 1)
const register = (options: unknown): unknown => serviceDefinition('web', options as never)
const proxy = (config: object): unknown => parseProxyConfig({ service: 'web', ...config })

const LONG = 'x'.repeat(100)

describe('the message of a refused option', () => {
  const cases: [call: () => unknown, message: string][] = [
    [() => service(5), 'options: expected an object, got the number 5'],
    [() => service({ agent: 5 }), 'agent: expected an object, got the number 5'],
    [() => service({ authorize: true }), 'authorize: expected a function, got the boolean true'],
    [
      () => service({ dialTimeoutMs: 0 }),
      'dialTimeoutMs: expected a positive number of milliseconds, got the number 0',
    ],
    [
      () => service({ drainTimeoutMs: -1 }),
      'drainTimeoutMs: expected a number of milliseconds, or 0, got the number -1',
    ],
    [
      () => service({ maxConnectionsPerHost: 1.5 }),
      'maxConnectionsPerHost: expected a whole number above 0, got the number 1.5',
    ],
    [
      () => service({ minTlsVersion: 'TLSv1.1' }),
      `minTlsVersion: expected 'TLSv1.2' or 'TLSv1.3', got the string "TLSv1.1"`,
    ],
    [() => service({ domain: 'a b' }), 'domain: expected a DNS domain, such as consul, got the string "a b"'],
    [() => service({ hosts: [] }), 'hosts: expected an object, got an array'],
    [
      () => service({ crossServiceRedirects: 'no' }),
      'crossServiceRedirects: expected true or false, got the string "no"',
    ],
    [() => agent({ address: '' }), 'agent.address: expected a non-empty string, got an empty string'],
    [
      () => agent({ dnsAddress: 'consul' }),
      'agent.dnsAddress: expected host:port or [ipv6]:port, got the string "consul"',
    ],
    [
      () => agent({ token: 'se cret' }),
      'agent.token: expected a non-empty string of printable ASCII, got other characters',
    ],
    [
      () => agent({ token: 'a', tokenFile: 'b' }),
      'agent.tokenFile: expected either token or tokenFile, got both',
    ],
    [() => agent({ auth: { username: 'a' } }), 'agent.auth.password: expected a string, got undefined'],
    [() => agent({ tls: { ca: [] } }), 'agent.tls.ca: expected a PEM certificate, got an empty list'],
    [() => agent({ tls: { key: 'k' } }), 'agent.tls: expected cert and key together, got key alone'],
    [() => agent({ waitMs: 5 }), 'agent.waitMs: expected 1000 to 600000 milliseconds, got 5'],
    [
      () => dial({ timeout: 5 }),
      'options.timeout: expected one of signal, timeoutMs, allowHalfOpen, alpnProtocols, got an unknown option',
    ],
    [() => dial({ signal: {} }), 'signal: expected an AbortSignal, got an object'],
    [
      () => dial({ alpnProtocols: ['a', ''] }),
      'alpnProtocols[1]: expected a non-empty string, got an empty string',
    ],
    [() => forward({ port: 1, path: '/x' }), 'path: expected a path alone, got a path beside a port or host'],
    [() => forward({}), 'port: expected a port, or the path of a unix socket, got neither'],
    [() => listen({ port: 70_000 }), 'port: expected a port from 0 to 65535, got the number 70000'],
    [() => listen({ port: 0, maxPeerAge: 5 }), `maxPeerAge: expected 'certificate', got the number 5`],
    [
      () => secureSettings({ port: 1 } as never, 1),
      'options.port: expected one of signal, timeoutMs, handshakeTimeoutMs, allowHalfOpen, alpnProtocols, revoke, maxPeerAge, maxConnections, maxHandshakes, strictPaths, forwardClientCert, got an unknown option',
    ],
    [
      () => readyBounds({ timeoutMs: Number.NaN }),
      'timeoutMs: expected a positive number of milliseconds, got the number NaN',
    ],
    [() => register({ port: 0 }), 'port: expected the port of the listener, got the number 0'],
    [
      () => register({ port: 1, kind: 'gateway' }),
      'kind: expected native or proxy, got the string "gateway"',
    ],
    [() => register({ port: 1, tags: 'v1' }), 'tags: expected a list of strings, got the string "v1"'],
    [() => register({ port: 1, meta: { a: 1 } }), 'meta.a: expected a string, got the number 1'],
    [
      () => register({ port: 1, weights: { passing: 1 } }),
      'weights.warning: expected a whole number from 0 to 65535, got undefined',
    ],
    [
      () => register({ port: 1, check: { http: 'ftp://x' } }),
      'check.http: expected an http:// or https:// URL of at most 2048 characters, got the string "ftp://x"',
    ],
    [
      () => register({ port: 1, check: { tcp: 'a:1', interval: 5 } }),
      'check.interval: expected one of tcp, intervalMs, timeoutMs, got an unknown option',
    ],
    [() => parseUpstream(null), 'upstream: expected a service name or an object, got null'],
    [
      () => parseUpstream('https://api'),
      'upstream: expected a service name (for a URL, use fetch(), dispatcher(), or httpAgent()), got the string "https://api"',
    ],
    [
      () => parseUpstream({ service: 'a/b' }),
      'upstream.service: expected a Consul name (1 to 255 characters, no slash, no control character), got the string "a/b"',
    ],
    [
      () => parseUpstream({ service: 'a', tag: 'v1' }),
      'upstream.tag: expected one of service, datacenter, namespace, partition, tags, near, filter, onlyPassing, meshGateway, got an unknown option',
    ],
    [
      () => parseUpstream({ address: 'a:0', service: 'a' }),
      'upstream.address: expected host:port or [ipv6]:port, got the string "a:0"',
    ],
    [
      () => parseUpstream({ service: LONG + LONG + LONG }),
      `upstream.service: expected a Consul name (1 to 255 characters, no slash, no control character), got the string "${LONG.slice(0, 64)}"`,
    ],
    [() => authorizeService(5 as never), 'allowed[0]: expected an object, got the number 5'],
    [() => authorizeOneOf([]), 'allowed: expected a list with at least one item, got an empty list'],
    [() => proxy({ bind_port: 'x' }), 'bind_port: expected a port from 0 to 65535, got the string "x"'],
    [
      () => proxy({ upstreams: [{ destination_name: 'a' }] }),
      'upstreams[0].local_bind_port: expected a port from 1 to 65535, got none',
    ],
    [() => proxy({ upstreams: {} }), 'upstreams: expected a list, got an object'],
  ]
  for (const [call, message] of cases) {
    it(message, () => {
      assert.throws(call, (error: unknown) => {
        assert.ok(error instanceof OptionError)
        assert.equal(error.message, message)
        assert.equal(message, `${error.option}: expected ${error.expected}, got ${error.actual}`)
        return true
      })
    })
  }
})
