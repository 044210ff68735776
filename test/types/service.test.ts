// Type tests of service() and the methods of Service. The compiler checks them; nothing runs.
import type * as http from 'node:http'
import type * as https from 'node:https'
import type { TLSSocket } from 'node:tls'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  type Endpoint,
  type Forward,
  type Leaf,
  type Listener,
  type MeshHttpAgent,
  type MeshSocket,
  type Peer,
  type Registration,
  type Roots,
  Service,
  type ServiceOptions,
  type ServiceStats,
  authorizeIntentions,
  peer,
  service,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('types: service()', () => {
  it('accepts a name and options', () => {
    compiled(() => [
      service('web'),
      service('web', {}),
      service('web', {
        agent: { address: '127.0.0.1:8500', token: 'secret', env: process.env },
        authorize: authorizeIntentions,
        staleIntentionsMs: 0,
        dialTimeoutMs: 1_000,
        handshakeTimeoutMs: 1_000,
        drainTimeoutMs: 1_000,
        ecdhCurve: 'X25519:P-256',
        domain: 'consul',
        hosts: { 'blue.example': { service: 'api', tags: ['blue'] }, api: 'api' },
      }),
    ])
  })

  it('rejects unknown keys and values of other types', () => {
    compiled((name: string, options: ServiceOptions) => [
      // @ts-expect-error -- the name is missing
      service(),
      // @ts-expect-error -- the name is the first argument
      service({ name, ...options }),
      // @ts-expect-error -- unknown key
      service(name, { agnet: {} }),
      // @ts-expect-error -- durations are milliseconds
      service(name, { dialTimeoutMs: '10s' }),
      // @ts-expect-error -- hosts are keys with upstreams as values
      service(name, { hosts: ['api.example'] }),
      // @ts-expect-error -- a port is not an upstream
      service(name, { hosts: { api: 8080 } }),
    ])
  })

  it('accepts every way to reach the agent, and rejects others', () => {
    compiled(() => [
      service('web', { agent: { tokenFile: '/run/token', dnsAddress: '127.0.0.1:8600', timeoutMs: 1 } }),
      service('web', { agent: { auth: { username: 'u', password: 'p' } } }),
      service('web', { agent: { tls: { ca: ['PEM', 'PEM'], cert: 'PEM', key: 'PEM' } } }),
      service('web', { agent: { tls: { ca: 'PEM', serverName: 'agent', verify: false } } }),
      service('web', { agent: { namespace: 'n', partition: 'p', datacenter: 'dc2' } }),
      // @ts-expect-error -- the address is a key of the agent options
      service('web', { agent: '127.0.0.1:8500' }),
      // @ts-expect-error -- unknown key
      service('web', { agent: { adress: '127.0.0.1:8500' } }),
      // @ts-expect-error -- the scheme of the address turns TLS on
      service('web', { agent: { tls: true } }),
    ])
  })

  it('accepts read-only options, and does not allow changes of them', () => {
    const options = { dialTimeoutMs: 1_000, hosts: { api: { service: 'api', tags: ['blue'] } } } as const
    expectTypeOf(options).toExtend<ServiceOptions>()
    compiled((given: ServiceOptions) => {
      // @ts-expect-error -- read-only
      given.dialTimeoutMs = 1
      // @ts-expect-error -- read-only
      given.agent!.address = 'elsewhere'
    })
  })
})

describe('types: a Service', () => {
  it('has read-only properties, which are undefined before the first certificate', () => {
    compiled((web: Service, leaf: Leaf, roots: Roots) => {
      // @ts-expect-error -- read-only
      web.name = 'api'
      // @ts-expect-error -- read-only
      web.leaf = leaf
      // @ts-expect-error -- read-only
      web.roots = roots
      // @ts-expect-error -- read-only
      web.trustDomain = 'consul'
    })
    compiled((web: Service) => [
      web.leaf?.notAfter,
      web.roots?.pems,
      // @ts-expect-error -- may be undefined
      web.leaf.notAfter,
      // @ts-expect-error -- may be undefined
      web.roots.pems,
    ])
  })

  it('ready() accepts a signal and a timeout in an object', () => {
    compiled((web: Service, signal: AbortSignal) => [
      web.ready(),
      web.ready({ signal, timeoutMs: 1 }),
      // @ts-expect-error -- the options must be an object
      web.ready(signal),
      // @ts-expect-error -- unknown key
      web.ready({ timeout: 1 }),
    ])
  })

  it('dial() accepts an upstream and options', () => {
    compiled((web: Service, signal: AbortSignal, names: readonly string[]) => [
      web.dial('api'),
      web.dial('api', { signal, timeoutMs: 1, allowHalfOpen: true, alpnProtocols: names }),
      // @ts-expect-error -- a list is not an upstream
      web.dial(names),
      // @ts-expect-error -- unknown key
      web.dial('api', { timeoutms: 1 }),
      // @ts-expect-error -- expects a signal, not its controller
      web.dial('api', { signal: new AbortController() }),
    ])
  })

  it('dial() resolves to a stream with a read-only peer and without the API of TLSSocket', () => {
    expectTypeOf<MeshSocket>().toExtend<NodeJS.ReadWriteStream>()
    expectTypeOf<MeshSocket>().toExtend<AsyncIterable<unknown>>()
    // The implementation may change; getPeerCertificate() would bypass the verified identity.
    expectTypeOf<MeshSocket>().not.toHaveProperty('getPeerCertificate')
    compiled((socket: MeshSocket, other: Peer) => {
      // @ts-expect-error -- read-only
      socket.peer = other
      // @ts-expect-error -- read-only
      socket.peer.service = 'api'
    })
  })

  it('resolve() resolves to read-only endpoints', () => {
    expectTypeOf<Awaited<ReturnType<Service['resolve']>>>().not.toHaveProperty('push')
    compiled(async (web: Service) => {
      const endpoints = await web.resolve('api', { timeoutMs: 1 })
      expectTypeOf(endpoints[0]).toEqualTypeOf<Endpoint | undefined>()
      // @ts-expect-error -- read-only
      endpoints[0]!.port = 1
      // @ts-expect-error -- read-only
      endpoints[0]!.identity.service = 'web'
      // @ts-expect-error -- an option of dial()
      await web.resolve('api', { allowHalfOpen: true })
    })
  })

  it('stream() returns a stream at once, whose peer may be undefined', () => {
    compiled((web: Service) => [
      web.stream('api').connect(),
      web.stream('api').connect(5432, 'ignored', () => undefined),
      web.stream('api', { allowHalfOpen: true }).setKeepAlive(true, 1_000).unref().ref(),
      // @ts-expect-error -- undefined before the connection is open
      web.stream('api').peer.service,
      // @ts-expect-error -- unknown key
      web.stream('api', { timeout: 1 }),
    ])
  })

  it('fetch has the type of the global fetch, and works detached from the service', () => {
    expectTypeOf<Service['fetch']>().toEqualTypeOf<typeof globalThis.fetch>()
    compiled(async (web: Service, sdk: (options: { fetch: typeof fetch }) => void) => {
      const { fetch } = web
      sdk({ fetch })
      sdk(web)
      // @ts-expect-error -- an upstream is not a URL
      await fetch({ service: 'api' })
      // @ts-expect-error -- read-only
      web.fetch = globalThis.fetch
    })
  })

  it('dispatcher() accepts the options of an undici pool, except for how it connects', () => {
    compiled((web: Service) => [
      web.dispatcher(),
      web.dispatcher({ dialTimeoutMs: 1, pool: { connections: 1, allowH2: true, keepAliveTimeout: 1 } }),
      // @ts-expect-error -- options of undici belong in `pool`
      web.dispatcher({ connections: 1 }),
      // @ts-expect-error -- the service makes the connections
      web.dispatcher({ pool: { connect: {} } }),
    ])
  })

  it('httpAgent() returns an agent for node:http and node:https', () => {
    expectTypeOf<MeshHttpAgent>().toExtend<http.Agent & https.Agent>()
    compiled((web: Service) => [
      web.httpAgent(),
      web.httpAgent({ dialTimeoutMs: 1, pool: { keepAlive: false, maxSockets: 1, scheduling: 'fifo' } }),
      // @ts-expect-error -- options of Node.js belong in `pool`
      web.httpAgent({ keepAlive: true }),
      // @ts-expect-error -- the URL of a request selects the upstream
      web.httpAgent({ pool: { host: 'api' } }),
    ])
  })

  it('forward() accepts a local port or Unix socket', () => {
    expectTypeOf<Forward>().toExtend<AsyncDisposable>()
    compiled((web: Service) => [
      web.forward('api', { port: 0, host: '::1', dialTimeoutMs: 1, idleTimeoutMs: 1 }),
      web.forward({ query: 'api' }, { path: '/run/api.sock' }),
      // @ts-expect-error -- the address is missing
      web.forward('api'),
      // @ts-expect-error -- local clients have no identity, so intentions do not apply to them
      web.forward('api', { port: 0, revoke: true }),
    ])
  })

  it('listen() accepts an address, options, and a handler of verified connections', () => {
    expectTypeOf<Listener>().toExtend<AsyncDisposable>()
    compiled((api: Service, signal: AbortSignal, ignore: (socket: MeshSocket) => Promise<void>) => [
      api.listen({ port: 0 }, (socket) => {
        expectTypeOf(socket).toEqualTypeOf<MeshSocket>()
      }),
      api.listen({ path: '/run/api.sock', signal, handshakeTimeoutMs: 1, allowHalfOpen: true }, ignore),
      api.listen({ port: 0, host: '::', alpnProtocols: ['x'], revoke: false }, ignore),
      api.listen({ port: 0, maxPeerAge: 'certificate', maxConnections: 1, maxHandshakes: 1 }, ignore),
      // @ts-expect-error -- the handler is missing
      api.listen({ port: 8443 }),
      // @ts-expect-error -- expects 'certificate'
      api.listen({ port: 8443, maxPeerAge: 3_600_000 }, ignore),
      // @ts-expect-error -- unknown key
      api.listen({ port: 8443, maxConnection: 1 }, ignore),
      // @ts-expect-error -- the handler receives a connection, not a request
      api.listen({ port: 8443 }, (request: http.IncomingMessage) => request),
    ])
  })

  it('authorize() accepts only a verified peer', () => {
    compiled((api: Service, socket: TLSSocket, signal: AbortSignal) => [
      api.authorize(api.verifyPeer(socket)),
      api.authorize(api.verifyPeer(socket), { signal }),
      // @ts-expect-error -- a name is not verified
      api.authorize('web'),
      // @ts-expect-error -- expects a peer, not its socket
      api.authorize(socket),
      // @ts-expect-error -- the timeout is an option of the service
      api.authorize(api.verifyPeer(socket), { timeoutMs: 1 }),
      // @ts-expect-error -- reauthorizes every connection
      api.reauthorize(api.verifyPeer(socket)),
    ])
  })

  it('stats() returns read-only counts', () => {
    compiled((stats: ServiceStats) => {
      // @ts-expect-error -- read-only
      stats.connections = 0
      // @ts-expect-error -- rejections are counted by error code
      expectTypeOf(stats.rejections[0]!.basis).toBeString()
    })
  })

  it('close(), destroy(), and `await using` end it', () => {
    compiled(async (given: Service) => {
      await using web = given
      await web.close({ drainTimeoutMs: 1 })
      // @ts-expect-error -- unknown key
      await web.close({ timeoutMs: 1 })
      web.destroy(new Error('enough'))
      // @ts-expect-error -- needs `await using`
      using once = given
      expectTypeOf(once).toEqualTypeOf<Service>()
    })
  })

  it('is a class for instanceof', () => {
    compiled((given: object) => {
      if (given instanceof Service) expectTypeOf(given).toEqualTypeOf<Service>()
    })
  })
})

describe('types: register()', () => {
  it('accepts an instance of the service or a proxy', () => {
    compiled((api: Service, signal: AbortSignal) => [
      api.register({ port: 8443 }),
      api.register({ port: 8443, address: '10.0.0.7', id: 'api-1', kind: 'native', signal }),
      api.register({ port: 1, tags: ['blue'], meta: { version: '2' }, weights: { passing: 2, warning: 1 } }),
      api.register({ port: 8443, check: { ttlMs: 15_000 }, deregisterAfterMs: 60_000 }),
      api.register({ port: 8443, check: { tcp: '10.0.0.7:8443' } }),
      api.register({ port: 8443, check: { tcp: '10.0.0.7:8443', intervalMs: 1_000, timeoutMs: 500 } }),
      api.register({ port: 21_000, kind: 'proxy' }),
      api.register({ port: 21_000, kind: 'proxy', destinationId: 'api-1' }),
    ])
  })

  it('rejects incomplete registrations and the spelling of the Consul API', () => {
    compiled((api: Service) => [
      // @ts-expect-error -- the port is missing
      api.register({}),
      // @ts-expect-error -- unknown key
      api.register({ port: 8443, adress: '10.0.0.7' }),
      // @ts-expect-error -- values are strings, as in Consul
      api.register({ port: 8443, meta: { version: 2 } }),
      // @ts-expect-error -- `warning` is missing
      api.register({ port: 8443, weights: { passing: 2 } }),
      // @ts-expect-error -- unknown kind
      api.register({ port: 8443, kind: 'connect-proxy' }),
      // @ts-expect-error -- a check has a TTL or a TCP address
      api.register({ port: 8443, check: {} }),
      // @ts-expect-error -- the key is `ttlMs`
      api.register({ port: 8443, check: { ttl: '15s' } }),
    ])
  })

  it('resolves to a registration with a read-only id', () => {
    compiled((registration: Registration) => {
      // @ts-expect-error -- read-only
      registration.id = 'other'
    })
  })
})

describe('types: peer()', () => {
  it('accepts any socket, and may return undefined', () => {
    compiled((request: http.IncomingMessage, socket: MeshSocket) => [
      peer(request.socket)?.service,
      peer(socket),
      peer(undefined),
      peer(null),
      // @ts-expect-error -- undefined for a socket outside the mesh
      peer(request.socket).service,
      // @ts-expect-error -- an address is not a socket
      peer('10.0.0.7'),
    ])
  })
})

describe('types: options', () => {
  it('may be undefined under exactOptionalPropertyTypes', () => {
    compiled(async (web: Service, signal: AbortSignal | undefined, text: string | undefined) => {
      await web.dial('api', { signal, timeoutMs: undefined, alpnProtocols: undefined })
      await web.ready({ signal })
      await web.register({ port: 1, address: text, signal })
      service('web', { agent: { token: text }, hosts: undefined, domain: undefined })
      web.dispatcher({ pool: undefined })
      await web.listen({ port: 0, host: text, signal }, () => undefined)
    })
  })
})
