// Types of `service` and of what a Service has and does; the compiler is who checks them.
import type * as http from 'node:http'
import type * as https from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type { Dispatcher } from 'undici'
import {
  type AgentOptions,
  type CloseOptions,
  type Decision,
  type DialOptions,
  type DispatcherOptions,
  type Endpoint,
  type ServiceStats,
  type Forward,
  type ForwardOptions,
  type HttpAgentOptions,
  type Leaf,
  type ListenOptions,
  type Listener,
  type MeshHttpAgent,
  type MeshSocket,
  type MeshStream,
  type Peer,
  type ReadyOptions,
  type RegisterOptions,
  type Registration,
  type ResolveOptions,
  type Roots,
  Service,
  type ServiceOptions,
  type Upstream,
  authorizeIntentions,
  peer,
  service,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('service()', () => {
  it('takes a name, and options that may be left out', () => {
    expectTypeOf(service).parameters.toEqualTypeOf<[name: string, options?: ServiceOptions | undefined]>()
    expectTypeOf(service).returns.toEqualTypeOf<Service>()
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

  it('does without options that it does not know, or that are of another type', () => {
    compiled((name: string, options: ServiceOptions) => [
      // @ts-expect-error -- a service has a name
      service(),
      // @ts-expect-error -- the name comes first, by itself
      service({ name, ...options }),
      // @ts-expect-error -- a misspelt key
      service(name, { agnet: {} }),
      // @ts-expect-error -- durations are numbers of milliseconds
      service(name, { dialTimeoutMs: '10s' }),
      // @ts-expect-error -- an authorizer is a function
      service(name, { authorize: 'api' }),
      // @ts-expect-error -- groups are one text with colons
      service(name, { ecdhCurve: ['X25519'] }),
      // @ts-expect-error -- each host leads somewhere
      service(name, { hosts: ['api.example'] }),
      // @ts-expect-error -- to an upstream, which is no port
      service(name, { hosts: { api: 8080 } }),
      // @ts-expect-error -- options are one object
      service(name, 1_000),
    ])
  })

  it('knows how an agent can be reached', () => {
    compiled(() => [
      service('web', { agent: { tokenFile: '/run/token', dnsAddress: '127.0.0.1:8600', timeoutMs: 1 } }),
      service('web', { agent: { auth: { username: 'u', password: 'p' } } }),
      service('web', { agent: { tls: { ca: ['PEM', 'PEM'], cert: 'PEM', key: 'PEM' } } }),
      service('web', { agent: { tls: { ca: 'PEM', serverName: 'agent', verify: false } } }),
      service('web', { agent: { namespace: 'n', partition: 'p', datacenter: 'dc2' } }),
      // @ts-expect-error -- an address is one of the agent's options
      service('web', { agent: '127.0.0.1:8500' }),
      // @ts-expect-error -- a misspelt key
      service('web', { agent: { adress: '127.0.0.1:8500' } }),
      // @ts-expect-error -- it is an address, whose port may be left out
      service('web', { agent: { address: 8500 } }),
      // @ts-expect-error -- a user and a password by name
      service('web', { agent: { auth: 'u:p' } }),
      // @ts-expect-error -- TLS is chosen by the scheme of the address
      service('web', { agent: { tls: true } }),
      // @ts-expect-error -- only true and false
      service('web', { agent: { tls: { verify: 'no' } } }),
    ])
    expectTypeOf<ServiceOptions['agent']>().toEqualTypeOf<AgentOptions | undefined>()
  })

  it('is typed for options that are built elsewhere and never changed', () => {
    const options = { dialTimeoutMs: 1_000, hosts: { api: { service: 'api', tags: ['blue'] } } } as const
    expectTypeOf(options).toExtend<ServiceOptions>()
    compiled((given: ServiceOptions) => {
      // @ts-expect-error -- read-only
      given.dialTimeoutMs = 1
      // @ts-expect-error -- read-only, as far down as it goes
      given.agent!.address = 'elsewhere'
    })
  })
})

describe('a Service', () => {
  it('shows the last good material, which nobody sets', () => {
    expectTypeOf<Service['name']>().toBeString()
    expectTypeOf<Service['leaf']>().toEqualTypeOf<Leaf | undefined>()
    expectTypeOf<Service['roots']>().toEqualTypeOf<Roots | undefined>()
    expectTypeOf<Service['trustDomain']>().toEqualTypeOf<string | undefined>()
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
      // @ts-expect-error -- there may be none yet
      web.leaf.notAfter,
      // @ts-expect-error -- there may be none yet
      web.roots.pems,
    ])
  })

  it('is ready in time, or not', () => {
    expectTypeOf<Service['ready']>().parameters.toEqualTypeOf<[options?: ReadyOptions | undefined]>()
    expectTypeOf<Service['ready']>().returns.toEqualTypeOf<Promise<void>>()
    compiled((web: Service, signal: AbortSignal) => [
      web.ready(),
      web.ready({ signal, timeoutMs: 1 }),
      // @ts-expect-error -- a bound has a name
      web.ready(1_000),
      // @ts-expect-error -- and so has a signal
      web.ready(signal),
      // @ts-expect-error -- a misspelt key
      web.ready({ timeout: 1 }),
    ])
  })

  it('dials an upstream', () => {
    expectTypeOf<Service['dial']>().parameters.toEqualTypeOf<
      [upstream: Upstream, options?: DialOptions | undefined]
    >()
    expectTypeOf<Service['dial']>().returns.toEqualTypeOf<Promise<MeshSocket>>()
    compiled((web: Service, signal: AbortSignal, names: readonly string[]) => [
      web.dial('api'),
      web.dial('api', { signal, timeoutMs: 1, allowHalfOpen: true, alpnProtocols: names }),
      // @ts-expect-error -- an upstream is no list
      web.dial(names),
      // @ts-expect-error -- a port is not enough
      web.dial(8443),
      // @ts-expect-error -- a misspelt key
      web.dial('api', { timeoutms: 1 }),
      // @ts-expect-error -- half-open or not has a name
      web.dial('api', true),
      // @ts-expect-error -- names are a list
      web.dial('api', { alpnProtocols: 'h2' }),
      // @ts-expect-error -- a signal and not its controller
      web.dial('api', { signal: new AbortController() }),
      // @ts-expect-error -- there is nothing to dial
      web.dial(),
    ])
  })

  it('gives a socket that says who is at the other end', () => {
    expectTypeOf<MeshSocket['peer']>().toEqualTypeOf<Peer>()
    expectTypeOf<MeshSocket['alpnProtocol']>().toEqualTypeOf<string | false | null | undefined>()
    expectTypeOf<MeshSocket['remoteAddress']>().toEqualTypeOf<string | undefined>()
    expectTypeOf<MeshSocket['bytesRead']>().toBeNumber()
    expectTypeOf<MeshSocket['setNoDelay']>().returns.toExtend<MeshSocket>()
    expectTypeOf<MeshSocket>().toExtend<NodeJS.ReadWriteStream>()
    expectTypeOf<MeshSocket>().toExtend<AsyncIterable<unknown>>()
    compiled((socket: MeshSocket, other: Peer) => {
      // @ts-expect-error -- read-only
      socket.peer = other
      // @ts-expect-error -- who it is was proved, and cannot be changed
      socket.peer.service = 'api'
    })
    // That it is a TLS socket today is no promise.
    expectTypeOf<MeshSocket>().not.toHaveProperty('getPeerCertificate')
  })

  it('resolves an upstream to endpoints that are not to be changed', () => {
    expectTypeOf<Service['resolve']>().parameters.toEqualTypeOf<
      [upstream: Upstream, options?: ResolveOptions | undefined]
    >()
    expectTypeOf<Service['resolve']>().returns.toEqualTypeOf<Promise<readonly Endpoint[]>>()
    expectTypeOf<Awaited<ReturnType<Service['resolve']>>>().not.toHaveProperty('push')
    compiled(async (web: Service) => {
      const endpoints = await web.resolve('api', { timeoutMs: 1 })
      // @ts-expect-error -- read-only
      endpoints[0]!.port = 1
      // @ts-expect-error -- who is expected there cannot be changed
      endpoints[0]!.identity.service = 'web'
      // @ts-expect-error -- that is an option of dial
      await web.resolve('api', { allowHalfOpen: true })
    })
  })

  it('gives a stream at once, which has a peer once it is connected', () => {
    expectTypeOf<Service['stream']>().parameters.toEqualTypeOf<
      [upstream: Upstream, options?: DialOptions | undefined]
    >()
    expectTypeOf<Service['stream']>().returns.toEqualTypeOf<MeshStream>()
    expectTypeOf<MeshStream['peer']>().toEqualTypeOf<Peer | undefined>()
    expectTypeOf<MeshStream['readyState']>().toEqualTypeOf<
      'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed'
    >()
    compiled((web: Service) => [
      web.stream('api').connect(),
      web.stream('api').connect(5432, 'ignored', () => undefined),
      web.stream('api', { allowHalfOpen: true }).setKeepAlive(true, 1_000).unref().ref(),
      // @ts-expect-error -- it may not be connected yet
      web.stream('api').peer.service,
      // @ts-expect-error -- milliseconds are a number
      web.stream('api').setTimeout('1s'),
      // @ts-expect-error -- a misspelt key
      web.stream('api', { timeout: 1 }),
    ])
  })

  it('has a fetch that is the global one by its type, and stands alone', () => {
    expectTypeOf<Service['fetch']>().toEqualTypeOf<typeof globalThis.fetch>()
    compiled(async (web: Service, wantsFetch: (how: { fetch: typeof fetch }) => void) => {
      const { fetch } = web
      wantsFetch({ fetch })
      wantsFetch({ fetch: web.fetch })
      wantsFetch(web)
      expectTypeOf(await fetch('https://api.service.consul/')).toEqualTypeOf<Response>()
      await fetch(new URL('https://api.service.consul/'), { method: 'POST', body: '{}' })
      await fetch(new Request('https://api.service.consul/'), { signal: AbortSignal.timeout(1) })
      // @ts-expect-error -- an upstream is no URL: it is the host of one
      await fetch({ service: 'api' })
      // @ts-expect-error -- read-only
      web.fetch = globalThis.fetch
    })
  })

  it('has dispatchers of undici', () => {
    expectTypeOf<Service['dispatcher']>().parameters.toEqualTypeOf<
      [options?: DispatcherOptions | undefined]
    >()
    expectTypeOf<Service['dispatcher']>().returns.toEqualTypeOf<Dispatcher>()
    compiled((web: Service) => [
      web.dispatcher(),
      web.dispatcher({ dialTimeoutMs: 1, pool: { connections: 1, allowH2: true, keepAliveTimeout: 1 } }),
      // @ts-expect-error -- undici's options are in their own place
      web.dispatcher({ connections: 1 }),
      // @ts-expect-error -- how a connection is made is the mesh's to say
      web.dispatcher({ pool: { connect: {} } }),
      // @ts-expect-error -- as undici takes it
      web.dispatcher({ pool: { connections: '1' } }),
    ])
  })

  it('has agents that are of node:http and of node:https', () => {
    expectTypeOf<Service['httpAgent']>().parameters.toEqualTypeOf<[options?: HttpAgentOptions | undefined]>()
    expectTypeOf<Service['httpAgent']>().returns.toEqualTypeOf<MeshHttpAgent>()
    expectTypeOf<MeshHttpAgent>().toExtend<http.Agent>()
    expectTypeOf<MeshHttpAgent>().toExtend<https.Agent>()
    compiled((web: Service) => [
      web.httpAgent(),
      web.httpAgent({ dialTimeoutMs: 1, pool: { keepAlive: false, maxSockets: 1, scheduling: 'fifo' } }),
      // @ts-expect-error -- Node's options are in their own place
      web.httpAgent({ keepAlive: true }),
      // @ts-expect-error -- where a connection leads is the mesh's to say
      web.httpAgent({ pool: { host: 'api' } }),
      // @ts-expect-error -- as Node takes it
      web.httpAgent({ pool: { scheduling: 'random' } }),
    ])
  })

  it('forwards a local port or unix socket to an upstream', () => {
    expectTypeOf<Service['forward']>().parameters.toEqualTypeOf<
      [upstream: Upstream, options: ForwardOptions]
    >()
    expectTypeOf<Service['forward']>().returns.toEqualTypeOf<Promise<Forward>>()
    expectTypeOf<Forward['address']>().returns.toEqualTypeOf<AddressInfo | string | null>()
    expectTypeOf<Forward['connections']>().toBeNumber()
    expectTypeOf<Forward['close']>().toEqualTypeOf<(options?: CloseOptions) => Promise<void>>()
    expectTypeOf<Forward['destroy']>().returns.toBeVoid()
    expectTypeOf<Forward>().toExtend<AsyncDisposable>()
    compiled((web: Service) => [
      web.forward('api', { port: 0, host: '::1', dialTimeoutMs: 1, idleTimeoutMs: 1 }),
      web.forward({ query: 'api' }, { path: '/run/api.sock' }),
      // @ts-expect-error -- somewhere it must be
      web.forward('api'),
      // @ts-expect-error -- a port has a name
      web.forward('api', 8080),
      // @ts-expect-error -- a port is a number
      web.forward('api', { port: '8080' }),
      // @ts-expect-error -- whoever is on this machine is not revoked
      web.forward('api', { port: 0, revoke: true }),
    ])
  })

  it('listens with a handler that gets verified connections', () => {
    expectTypeOf<Service['listen']>().returns.toEqualTypeOf<Promise<Listener>>()
    expectTypeOf<Service['listen']>().parameter(0).toEqualTypeOf<ListenOptions>()
    expectTypeOf<Listener['address']>().returns.toEqualTypeOf<AddressInfo | string | null>()
    expectTypeOf<Listener['connections']>().toBeNumber()
    expectTypeOf<Listener['reauthorize']>().returns.resolves.toBeNumber()
    expectTypeOf<Listener['close']>().toEqualTypeOf<(options?: CloseOptions) => Promise<void>>()
    expectTypeOf<Listener>().toExtend<AsyncDisposable>()
    compiled((api: Service, signal: AbortSignal, ignore: (socket: MeshSocket) => Promise<void>) => [
      api.listen({ port: 0 }, (socket) => {
        expectTypeOf(socket).toEqualTypeOf<MeshSocket>()
      }),
      api.listen({ path: '/run/api.sock', signal, handshakeTimeoutMs: 1, allowHalfOpen: true }, ignore),
      api.listen({ port: 0, host: '::', alpnProtocols: ['x'], revoke: false }, ignore),
      api.listen({ port: 0, maxPeerAge: 'certificate', maxConnections: 1, maxHandshakes: 1 }, ignore),
      // @ts-expect-error -- a listener has a handler
      api.listen({ port: 8443 }),
      // @ts-expect-error -- a port has a name
      api.listen(8443, ignore),
      // @ts-expect-error -- a port is a number
      api.listen({ port: '8443' }, ignore),
      // @ts-expect-error -- the options come first
      api.listen(ignore, { port: 8443 }),
      // @ts-expect-error -- only true and false
      api.listen({ port: 8443, revoke: 'never' }, ignore),
      // @ts-expect-error -- nothing else has an age here
      api.listen({ port: 8443, maxPeerAge: 3_600_000 }, ignore),
      // @ts-expect-error -- a misspelt key
      api.listen({ port: 8443, maxConnection: 1 }, ignore),
      // @ts-expect-error -- the handler gets a connection and no request
      api.listen({ port: 8443 }, (request: http.IncomingMessage) => request),
    ])
  })

  it('decides for those who terminate TLS themselves', () => {
    expectTypeOf<Service['authorize']>().returns.toEqualTypeOf<Promise<Required<Decision>>>()
    expectTypeOf<Service['reauthorize']>().toEqualTypeOf<() => Promise<number>>()
    expectTypeOf<Service['verifyPeer']>().toEqualTypeOf<(socket: TLSSocket) => Peer>()
    compiled((api: Service, socket: TLSSocket, signal: AbortSignal) => [
      api.authorize(api.verifyPeer(socket)),
      api.authorize(api.verifyPeer(socket), { signal }),
      // @ts-expect-error -- a name is not proved
      api.authorize('web'),
      // @ts-expect-error -- a socket is no peer: it has one
      api.authorize(socket),
      // @ts-expect-error -- the bound is the service's
      api.authorize(api.verifyPeer(socket), { timeoutMs: 1 }),
      // @ts-expect-error -- it asks about every connection
      api.reauthorize(api.verifyPeer(socket)),
    ])
  })

  it('has figures, which are plain counts', () => {
    expectTypeOf<Service['stats']>().toEqualTypeOf<() => ServiceStats>()
    expectTypeOf<ServiceStats['connections']>().toBeNumber()
    expectTypeOf<ServiceStats['staleMs']>().toBeNumber()
    expectTypeOf<ServiceStats['intentions']>().toEqualTypeOf<number | undefined>()
    expectTypeOf<ServiceStats['decisions'][number]['count']>().toBeNumber()
    expectTypeOf<ServiceStats['decisions'][number]['authorized']>().toBeBoolean()
    expectTypeOf<ServiceStats['revocations'][number]['basis']>().toExtend<string>()
    expectTypeOf<ServiceStats['rejections'][number]['code']>().toExtend<string>()
    compiled((figures: ServiceStats) => {
      // @ts-expect-error -- read-only
      figures.connections = 0
      // @ts-expect-error -- a rejection has an error's code, and no ground
      expectTypeOf(figures.rejections[0]!.basis).toBeString()
    })
  })

  it('closes in order or at once, and at the end of a block', () => {
    expectTypeOf<Service['close']>().toEqualTypeOf<(options?: CloseOptions) => Promise<void>>()
    expectTypeOf<Service['destroy']>().toEqualTypeOf<(error?: Error) => void>()
    expectTypeOf<Service[typeof Symbol.asyncDispose]>().toEqualTypeOf<() => Promise<void>>()
    expectTypeOf<Service>().toExtend<AsyncDisposable>()
    compiled(async (given: Service) => {
      await using web = given
      await web.close({ drainTimeoutMs: 1 })
      // @ts-expect-error -- a bound has a name
      await web.close(1_000)
      // @ts-expect-error -- a misspelt key
      await web.close({ timeoutMs: 1 })
      web.destroy(new Error('enough'))
      // @ts-expect-error -- an error and no text
      web.destroy('enough')
      // @ts-expect-error -- closing takes time
      using once = given
      expectTypeOf(once).toEqualTypeOf<Service>()
    })
  })

  it('is a class, for instanceof', () => {
    compiled((given: object) => {
      if (given instanceof Service) expectTypeOf(given).toEqualTypeOf<Service>()
    })
  })
})

describe('register', () => {
  it('registers this process as an instance of the service, or as a proxy', () => {
    expectTypeOf<Service['register']>().toEqualTypeOf<(options: RegisterOptions) => Promise<Registration>>()
    compiled((api: Service, signal: AbortSignal) => [
      api.register({ port: 8443 }),
      api.register({ port: 8443, address: '10.0.0.7', id: 'api-1', kind: 'native', signal }),
      api.register({
        port: 8443,
        tags: ['blue'],
        meta: { version: '2' },
        weights: { passing: 2, warning: 1 },
      }),
      api.register({ port: 8443, check: { ttlMs: 15_000 }, deregisterAfterMs: 60_000 }),
      api.register({ port: 8443, check: { tcp: '10.0.0.7:8443' } }),
      api.register({ port: 8443, check: { tcp: '10.0.0.7:8443', intervalMs: 1_000, timeoutMs: 500 } }),
      api.register({ port: 21_000, kind: 'proxy' }),
      api.register({ port: 21_000, kind: 'proxy', destinationId: 'api-1' }),
    ])
  })

  it('does without what is not said or said otherwise', () => {
    compiled((api: Service) => [
      // @ts-expect-error -- the port is where the listener is
      api.register(),
      // @ts-expect-error -- and cannot be left out
      api.register({}),
      // @ts-expect-error -- a port is a number
      api.register({ port: '8443' }),
      // @ts-expect-error -- a port has a name
      api.register(8443),
      // @ts-expect-error -- a misspelt key
      api.register({ port: 8443, adress: '10.0.0.7' }),
      // @ts-expect-error -- tags are a list
      api.register({ port: 8443, tags: 'blue' }),
      // @ts-expect-error -- texts, as in Consul
      api.register({ port: 8443, meta: { version: 2 } }),
      // @ts-expect-error -- both weights
      api.register({ port: 8443, weights: { passing: 2 } }),
      // @ts-expect-error -- no such kind
      api.register({ port: 8443, kind: 'connect-proxy' }),
      // @ts-expect-error -- a check has a name for its kind
      api.register({ port: 8443, check: 15_000 }),
      // @ts-expect-error -- an empty check says nothing
      api.register({ port: 8443, check: {} }),
      // @ts-expect-error -- Consul's own spelling is not ours
      api.register({ port: 8443, check: { ttl: '15s' } }),
    ])
  })

  it('gives what takes the registration away again', () => {
    expectTypeOf<Registration['id']>().toBeString()
    expectTypeOf<Registration['close']>().toEqualTypeOf<() => Promise<void>>()
    compiled((registration: Registration) => {
      // @ts-expect-error -- read-only
      registration.id = 'other'
    })
  })
})

describe('peer()', () => {
  it('takes any socket, and knows those of the mesh', () => {
    expectTypeOf(peer).returns.toEqualTypeOf<Peer | undefined>()
    compiled((request: http.IncomingMessage, socket: MeshSocket) => [
      peer(request.socket)?.service,
      peer(socket),
      peer(undefined),
      peer(null),
      // @ts-expect-error -- it may be no socket of the mesh
      peer(request.socket).service,
      // @ts-expect-error -- an address is no socket
      peer('10.0.0.7'),
    ])
  })
})

describe('options that may be undefined', () => {
  it('are taken as if they were left out, as a value from somewhere else may be', () => {
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
