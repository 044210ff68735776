import assert from 'node:assert/strict'
import { hostname } from 'node:os'
import { describe, it } from 'node:test'
import { authorizeIntentions } from '../../src/authorize/authorizers.js'
import { drainTimeout } from '../../src/base/options/close-options.js'
import { OptionError } from '../../src/base/errors.js'
import { dialSettings, forwardSettings, resolveBounds } from '../../src/service/options/dial-options.js'
import { listenSettings } from '../../src/service/options/listen-options.js'
import { serviceSettings } from '../../src/service/options/service-options.js'
import { readyBounds } from '../../src/base/options/ready-options.js'
import { type RegisterOptions, serviceDefinition } from '../../src/service/options/register-options.js'

const { signal } = new AbortController()
const agent = { env: {} }

/** Expects an OptionError for the named option from each call. */
function refuses(
  read: (options: never) => unknown,
  cases: readonly (readonly [options: unknown, option: string])[],
): void {
  const rejected = cases.map(([options]) => {
    try {
      read(options as never)
      return 'accepted'
    } catch (error) {
      assert.ok(error instanceof OptionError, `threw ${String(error)}`)
      return error.option
    }
  })
  assert.deepEqual(
    rejected,
    cases.map(([, option]) => option),
  )
}

/** Options with an invalid address to listen on, of forwardSettings and listenSettings. */
const INVALID_ADDRESSES = [
  [undefined, 'options'],
  [null, 'options'],
  [8080, 'options'],
  [{}, 'port'],
  [{ host: '127.0.0.1' }, 'port'],
  [{ port: 65536 }, 'port'],
  [{ port: '80' }, 'port'],
  [{ port: 1, host: '' }, 'host'],
  [{ path: '' }, 'path'],
  [{ path: '/x', port: 1 }, 'path'],
  [{ path: '/x', host: 'a' }, 'path'],
  [{ port: 1, signal: {} }, 'signal'],
] as const

describe('serviceSettings', () => {
  it('has the documented defaults', () => {
    const { agent: settings, ...rest } = serviceSettings({ agent })
    assert.deepEqual(rest, {
      authorize: authorizeIntentions,
      staleIntentionsMs: 600_000,
      dialTimeoutMs: 10_000,
      handshakeTimeoutMs: 10_000,
      drainTimeoutMs: 10_000,
      tls: { ecdhCurve: 'auto', minVersion: 'TLSv1.2' },
      crossServiceRedirects: false,
      maxConnectionsPerHost: 50,
      mux: false,
      hosts: { domain: 'consul', hosts: new Map() },
    })
    assert.equal(settings.address.host, '127.0.0.1:8500')
  })

  it('returns the given values', () => {
    const authorize = (): { authorized: boolean; reason: string } => ({ authorized: true, reason: '' })
    const bounds = { dialTimeoutMs: 1, handshakeTimeoutMs: 2, drainTimeoutMs: 3, staleIntentionsMs: 0 }
    const http = { crossServiceRedirects: true, maxConnectionsPerHost: 4, mux: true }
    const tls = { ecdhCurve: 'X25519:P-256', minVersion: 'TLSv1.3' } as const
    const { agent: settings, ...rest } = serviceSettings({
      ...bounds,
      ...http,
      ecdhCurve: tls.ecdhCurve,
      minTlsVersion: tls.minVersion,
      authorize,
      agent: { address: 'a:1', env: {} },
      domain: 'Mesh.example',
      hosts: { 'a.internal': 'a' },
    })
    const hosts = { domain: 'mesh.example', hosts: new Map([['a.internal', 'a']]) }
    assert.deepEqual(rest, { ...bounds, ...http, tls, authorize, hosts })
    assert.equal(settings.address.host, 'a:1')
  })

  it('rejects invalid values and unknown keys', () => {
    refuses(serviceSettings, [
      [null, 'options'],
      [[], 'options'],
      ['web', 'options'],
      [{ agent, dialTimeout: 5 }, 'options.dialTimeout'],
      [{ agent, authorize: true }, 'authorize'],
      [{ agent, dialTimeoutMs: 0 }, 'dialTimeoutMs'],
      [{ agent, handshakeTimeoutMs: -1 }, 'handshakeTimeoutMs'],
      [{ agent, drainTimeoutMs: Infinity }, 'drainTimeoutMs'],
      [{ agent, staleIntentionsMs: -1 }, 'staleIntentionsMs'],
      [{ agent, domain: '.consul' }, 'domain'],
      [{ agent, hosts: ['a'] }, 'hosts'],
      [{ agent, hosts: { 'a:80': 'a' } }, 'hosts'],
      [{ agent, hosts: { a: { service: 5 } } }, "hosts['a']"],
      [{ agent, staleIntentionsMs: Infinity }, 'staleIntentionsMs'],
      [{ agent, ecdhCurve: '' }, 'ecdhCurve'],
      [{ agent, ecdhCurve: ' ' }, 'ecdhCurve'],
      [{ agent, ecdhCurve: '?X25518' }, 'ecdhCurve'],
      [{ agent, ecdhCurve: '-X25519' }, 'ecdhCurve'],
      [{ agent, ecdhCurve: 'X25519:' }, 'ecdhCurve'],
      [{ agent, minTlsVersion: 'TLSv1.1' }, 'minTlsVersion'],
      [{ agent, ecdhCurve: 'X25519:P-255' }, 'ecdhCurve'],
      [{ agent: null }, 'agent'],
      [{ agent: { adress: 'x' } }, 'agent.adress'],
    ])
  })
})

describe('readyBounds, dialSettings, resolveBounds, drainTimeout', () => {
  it('have their defaults', () => {
    assert.deepEqual(readyBounds(), { signal: undefined, timeoutMs: 10_000 })
    assert.deepEqual(dialSettings(undefined, 77), {
      signal: undefined,
      timeoutMs: 77,
      socketSettings: { allowHalfOpen: false, expectsAnswer: true, alpnProtocols: undefined },
    })
    assert.deepEqual(resolveBounds(undefined, 77), { signal: undefined, timeoutMs: 77 })
    assert.deepEqual(resolveBounds({}, 77), { signal: undefined, timeoutMs: 77 })
    assert.equal(drainTimeout(undefined, 77), 77)
    assert.equal(drainTimeout({}, 77), 77)
  })

  it('return the given values', () => {
    assert.deepEqual(readyBounds({ signal, timeoutMs: 5 }), { signal, timeoutMs: 5 })
    const alpnProtocols = ['h2']
    assert.deepEqual(dialSettings({ signal, timeoutMs: 5, allowHalfOpen: true, alpnProtocols }, 77), {
      signal,
      timeoutMs: 5,
      socketSettings: { allowHalfOpen: true, expectsAnswer: false, alpnProtocols },
    })
    assert.deepEqual(resolveBounds({ signal, timeoutMs: 5 }, 77), { signal, timeoutMs: 5 })
    assert.equal(drainTimeout({ drainTimeoutMs: 5 }, 77), 5)
  })

  it('reject invalid values and unknown keys', () => {
    refuses(readyBounds, [
      [null, 'options'],
      [{ signal: {} }, 'signal'],
      [{ timeoutMs: 0 }, 'timeoutMs'],
      [{ timeout: 5 }, 'options.timeout'],
    ])
    refuses(
      (options) => dialSettings(options, 77),
      [
        ['x', 'options'],
        [{ signal: 5 }, 'signal'],
        [{ timeoutMs: NaN }, 'timeoutMs'],
        [{ allowHalfOpen: 'yes' }, 'allowHalfOpen'],
        [{ alpnProtocols: 'h2' }, 'alpnProtocols'],
        [{ alpnProtocols: [] }, 'alpnProtocols'],
        [{ alpnProtocols: [''] }, 'alpnProtocols[0]'],
        [{ alpnProtocols: ['x'.repeat(256)] }, 'alpnProtocols'],
        [{ halfOpen: true }, 'options.halfOpen'],
      ],
    )
    refuses(
      (options) => resolveBounds(options, 77),
      [
        ['x', 'options'],
        [{ signal: 5 }, 'signal'],
        [{ timeoutMs: -1 }, 'timeoutMs'],
        [{ allowHalfOpen: true }, 'options.allowHalfOpen'],
        [{ refresh: true }, 'options.refresh'],
      ],
    )
    refuses(
      (options) => drainTimeout(options, 77),
      [
        [5, 'options'],
        [[], 'options'],
        [{ drainTimeoutMs: -1 }, 'drainTimeoutMs'],
        [{ drainTimeoutMs: Infinity }, 'drainTimeoutMs'],
        [{ timeoutMs: 5 }, 'options.timeoutMs'],
      ],
    )
  })
})

describe('forwardSettings', () => {
  it('listens on the loopback interface by default', () => {
    const rest = { signal: undefined, timeoutMs: 10_000, dialTimeoutMs: 77, idleTimeoutMs: undefined }
    for (const [options, address] of [
      [{ port: 0 }, { port: 0, host: '127.0.0.1' }],
      [
        { port: 65535, host: '::' },
        { port: 65535, host: '::' },
      ],
      [{ path: '/run/x.sock' }, { path: '/run/x.sock' }],
    ] as const)
      assert.deepEqual(forwardSettings(options, 77), { address, ...rest })
  })

  it('returns the given values', () => {
    const address = { port: 1, host: 'h' }
    const rest = { signal, timeoutMs: Infinity, dialTimeoutMs: 5, idleTimeoutMs: 6 }
    assert.deepEqual(forwardSettings({ ...address, ...rest }, 77), { address, ...rest })
  })

  it('rejects invalid values, unknown keys, and contradictions', () => {
    refuses(
      (options) => forwardSettings(options, 77),
      [
        ...INVALID_ADDRESSES,
        [{ port: 1, dialTimeoutMs: 0 }, 'dialTimeoutMs'],
        [{ port: 1, idleTimeoutMs: 0 }, 'idleTimeoutMs'],
        [{ port: 1, idleTimeoutMs: Infinity }, 'idleTimeoutMs'],
        [{ port: 1, idleTimeout: 5 }, 'options.idleTimeout'],
        [{ port: 1, timeoutMs: 0 }, 'timeoutMs'],
        [{ port: 1, allowHalfOpen: true }, 'options.allowHalfOpen'],
      ],
    )
  })
})

describe('listenSettings', () => {
  const read = (options: never): unknown => listenSettings(options, 77)

  it('accepts a port, a port and a host, or a path', () => {
    const rest = {
      signal: undefined,
      timeoutMs: 10_000,
      handshakeTimeoutMs: 77,
      allowHalfOpen: false,
      alpnProtocols: undefined,
      revoke: true,
      maxPeerAge: undefined,
      maxConnections: Infinity,
      maxHandshakes: 512,
    }
    for (const [options, address] of [
      [{ port: 0 }, { port: 0, host: undefined }],
      [
        { port: 1, host: '::1' },
        { port: 1, host: '::1' },
      ],
      [{ path: '/run/web.sock' }, { path: '/run/web.sock' }],
    ] as const)
      assert.deepEqual(listenSettings(options, 77), { address, ...rest })
  })

  it('returns the given values', () => {
    const options = {
      signal,
      timeoutMs: Infinity,
      handshakeTimeoutMs: 5,
      allowHalfOpen: true,
      alpnProtocols: ['h2'],
      revoke: false,
      maxPeerAge: 'certificate',
      maxConnections: 7,
      maxHandshakes: 8,
    } as const
    const address = { port: 1, host: undefined }
    assert.deepEqual(listenSettings({ port: 1, ...options }, 77), { address, ...options })
  })

  it('rejects invalid values, unknown keys, and contradictions', () => {
    refuses(read, [
      ...INVALID_ADDRESSES,
      [{ port: 1, handshakeTimeoutMs: 0 }, 'handshakeTimeoutMs'],
      [{ port: 1, allowHalfOpen: 1 }, 'allowHalfOpen'],
      [{ port: 1, revoke: 'no' }, 'revoke'],
      [{ port: 1, maxPeerAge: 'never' }, 'maxPeerAge'],
      [{ port: 1, maxConnections: 0 }, 'maxConnections'],
      [{ port: 1, maxConnections: Infinity }, 'maxConnections'],
      [{ port: 1, maxHandshakes: 1.5 }, 'maxHandshakes'],
      [{ port: 1, alpnProtocols: ['h2', 5] }, 'alpnProtocols[1]'],
      [{ port: 1, backlog: 5 }, 'options.backlog'],
    ])
  })
})

describe('serviceDefinition', () => {
  it('is a native instance with a TTL check by default', () => {
    assert.deepEqual(serviceDefinition('web', { port: 8080, address: 'fe80::1%eth0' }, 'owner'), {
      definition: {
        ID: 'web-fe80--1-eth0-8080',
        Name: 'web',
        Port: 8080,
        Address: 'fe80::1%eth0',
        Connect: { Native: true },
        Meta: { 'connect-owner': 'owner' },
        Check: {
          CheckID: 'service:web-fe80--1-eth0-8080:owner',
          Name: 'process is alive',
          TTL: '15000ms',
          Status: 'passing',
          DeregisterCriticalServiceAfter: '600000ms',
        },
      },
      heartbeatMs: 5000,
      signal: undefined,
      timeoutMs: 10_000,
    })
  })

  it('is a proxy of an instance, with kind proxy', () => {
    const { definition } = serviceDefinition('web', { port: 8443, kind: 'proxy', destinationId: 'web-1' })
    const { ID, Name, Kind, Proxy: proxy, Checks, Connect } = definition
    const id = `web-proxy-${hostname()}-8443`
    assert.deepEqual(
      { ID, Name, Kind, proxy, Checks, Connect },
      {
        ID: id,
        Name: 'web-proxy',
        Kind: 'connect-proxy',
        proxy: { DestinationServiceName: 'web', DestinationServiceID: 'web-1' },
        Checks: [{ CheckID: `service:${id}:alias`, Name: 'alias of web-1', AliasService: 'web-1' }],
        Connect: undefined,
      },
    )
    const { Proxy } = serviceDefinition('web', { port: 8443, kind: 'proxy' }).definition
    assert.deepEqual(Proxy, { DestinationServiceName: 'web' })
  })

  it('writes all options in the spelling of the agent', () => {
    const options: RegisterOptions = {
      port: 1,
      address: '10.0.0.1',
      id: 'one',
      tags: ['a', 'b'],
      meta: { version: '1', empty: '' },
      weights: { passing: 10, warning: 0 },
      check: { ttlMs: 3000 },
      deregisterAfterMs: 0,
      signal,
      timeoutMs: Infinity,
    }
    const { definition, heartbeatMs, ...bounds } = serviceDefinition('web', options, 'owner')
    assert.deepEqual(definition, {
      ID: 'one',
      Name: 'web',
      Port: 1,
      Address: '10.0.0.1',
      Tags: ['a', 'b'],
      Meta: { version: '1', empty: '', 'connect-owner': 'owner' },
      Weights: { Passing: 10, Warning: 0 },
      Connect: { Native: true },
      Check: { CheckID: 'service:one:owner', Name: 'process is alive', TTL: '3000ms', Status: 'passing' },
    })
    assert.deepEqual({ heartbeatMs, ...bounds }, { heartbeatMs: 1000, signal, timeoutMs: Infinity })
  })

  it('writes a TCP or HTTP check with interval and timeout, and without a first status', () => {
    const readCheck = (check: NonNullable<RegisterOptions['check']>): unknown => {
      const { definition, heartbeatMs } = serviceDefinition('web', { port: 1, check })
      const { TCP, HTTP, Interval, Timeout, TTL, Status } = definition.Check
      return [TCP ?? HTTP, Interval, Timeout, TTL, Status, heartbeatMs]
    }
    assert.deepEqual(
      [
        readCheck({ tcp: 'a:1' }),
        readCheck({ tcp: 'a:1', intervalMs: 500, timeoutMs: 100 }),
        readCheck({ http: 'http://127.0.0.1:8080/health' }),
      ],
      [
        ['a:1', '10000ms', '5000ms', undefined, undefined, 10_000],
        ['a:1', '500ms', '100ms', undefined, undefined, 500],
        ['http://127.0.0.1:8080/health', '10000ms', '5000ms', undefined, undefined, 10_000],
      ],
    )
  })

  it('rejects invalid values, unknown keys, and contradictions', () => {
    refuses(
      (options) => serviceDefinition('web', options),
      [
        [undefined, 'options'],
        [{}, 'port'],
        [{ port: 0 }, 'port'],
        [{ port: 65536 }, 'port'],
        [{ port: 1, address: '' }, 'address'],
        [{ port: 1, id: '' }, 'id'],
        // The ID becomes the last segment of a path.
        [{ port: 1, id: '.' }, 'id'],
        [{ port: 1, id: '..' }, 'id'],
        [{ port: 1, tags: 'a' }, 'tags'],
        [{ port: 1, tags: ['a', ''] }, 'tags[1]'],
        [{ port: 1, meta: [] }, 'meta'],
        [{ port: 1, meta: { version: 1 } }, 'meta.version'],
        [{ port: 1, kind: 'connect-proxy' }, 'kind'],
        [{ port: 1, kind: 'proxy', destinationId: '' }, 'destinationId'],
        [{ port: 1, destinationId: 'web-1' }, 'destinationId'],
        [{ port: 1, weights: 5 }, 'weights'],
        [{ port: 1, weights: {} }, 'weights.passing'],
        [{ port: 1, weights: { passing: 1 } }, 'weights.warning'],
        [{ port: 1, weights: { passing: 1.5, warning: 1 } }, 'weights.passing'],
        [{ port: 1, weights: { passing: 1, warning: 65536 } }, 'weights.warning'],
        [{ port: 1, weights: { passing: 1, warning: -1 } }, 'weights.warning'],
        [{ port: 1, check: 'tcp' }, 'check'],
        [{ port: 1, check: {} }, 'check.ttlMs'],
        [{ port: 1, check: { ttlMs: 0 } }, 'check.ttlMs'],
        [{ port: 1, check: { ttlMs: 5, tcp: 'a:1' } }, 'check.ttlMs'],
        [{ port: 1, check: { ttlMs: 5, intervalMs: 5 } }, 'check.intervalMs'],
        [{ port: 1, check: { tcp: '' } }, 'check.tcp'],
        [{ port: 1, check: { tcp: 'a:1', intervalMs: 0 } }, 'check.intervalMs'],
        [{ port: 1, check: { tcp: 'a:1', timeoutMs: -1 } }, 'check.timeoutMs'],
        [{ port: 1, check: { http: 'a:1' } }, 'check.http'],
        [{ port: 1, check: { http: 'ftp://a' } }, 'check.http'],
        [{ port: 1, check: { http: 'http://a', tcp: 'a:1' } }, 'check.http'],
        [{ port: 1, check: { http: `http://a/${'x'.repeat(2048)}` } }, 'check.http'],
        [{ port: 1, deregisterAfterMs: -1 }, 'deregisterAfterMs'],
        [{ port: 1, timeoutMs: 0 }, 'timeoutMs'],
        [{ port: 1, signal: {} }, 'signal'],
        [{ port: 1, name: 'web' }, 'options.name'],
      ],
    )
  })
})
