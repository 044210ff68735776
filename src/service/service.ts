import type { Server } from 'node:net'
import { TLSSocket } from 'node:tls'
import { type InspectOptions, inspect } from 'node:util'
import { EventEmitter } from 'eventemitter3'
import type { Dispatcher } from 'undici'
import type { Forward } from '../adapters/forward.js'
import type { ServableServer } from '../adapters/serve.js'
import type { MeshStream } from '../adapters/stream.js'
import type { Decision } from '../authorize/decision.js'
import { decisions } from '../authorize/diagnostics.js'
import { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import { withCallerFrames } from '../base/caller-frames.js'
import { type Time, systemTime } from '../base/clock.js'
import { type CloseOptions, drainTimeout } from '../base/options/close-options.js'
import { decideRequest } from '../authorize/requests/decide-request.js'
import { emitSafely } from '../base/emit-safely.js'
import { OptionError } from '../base/errors.js'
import { log } from '../base/log.js'
import { type ReadyOptions, readyBounds } from '../base/options/ready-options.js'
import { describe, expectFunction, expectName } from '../base/options/validate.js'
import type { HttpAgentOptions, MeshHttpAgent } from '../http/agent.js'
import type { DispatcherOptions } from '../http/dispatcher.js'
import { rotations } from '../identity/diagnostics.js'
import { IdentityStore } from '../identity/identity-store.js'
import type { Leaf } from '../identity/leaf.js'
import type { Peer } from '../identity/peer.js'
import type { Roots } from '../identity/roots.js'
import type { ExpectedIdentity } from '../identity/verify.js'
import type { Endpoint } from '../resolve/resolver.js'
import { type Upstream, toIdentity } from '../resolve/upstream.js'
import { withinDrain } from '../sockets/open-sockets.js'
import type { ConnectionHandler, ListenerReports } from '../transport/inbound/admission.js'
import type { Listener } from '../transport/inbound/listen.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { selfHandshake } from '../transport/self-handshake.js'
import {
  type TlsClientOptions,
  type TlsServerOptions,
  tlsClientOptions,
  tlsServerOptions,
} from '../transport/tls-options.js'
import { attachPeer, peer, verifySocket } from '../transport/verify-peer.js'
import {
  type AuthorizeOptions,
  type AuthorizeRequestOptions,
  type AuthorizedRequest,
  authorizeSettings,
} from './options/authorize-options.js'
import type { DialOptions, ForwardOptions, ResolveOptions } from './options/dial-options.js'
import { Inbound } from './inbound.js'
import { Lifecycle } from './lifecycle.js'
import type { ListenOptions, SecureServerOptions, ServeOptions } from './options/listen-options.js'
import { Outbound, type OutboundSettings } from './outbound.js'
import { ProcessWarnings } from './process-warnings.js'
import { RequestReporter } from './request-reporter.js'
import type { RegisterOptions } from './options/register-options.js'
import type { Registration } from './registration.js'
import { LimitedEvents } from './limited-events.js'
import type { ServiceEvents } from './service-events.js'
import { type ServiceOptions, type ServiceSettings, serviceSettings } from './options/service-options.js'
import { type SharedLease, acquireShared } from './shared.js'
import { sessionCounts } from '../transport/mux/session-counts.js'
import { type ServiceStats, StatsCollector } from './stats.js'

/** How long `close` waits for deregistrations before the drain: three tries of 2 s and the pauses between them. */
const DEREGISTER_MS = 8_000

/**
 * A service of the mesh in this process. It obtains and renews its certificate and the CA roots from the Consul agent,
 * dials other services, and accepts their connections.
 *
 * It keeps the process alive until it is closed.
 */
export class Service extends EventEmitter<ServiceEvents> implements AsyncDisposable {
  readonly name: string
  readonly #settings: ServiceSettings
  readonly #shared: SharedLease
  readonly #identity: IdentityStore
  readonly #authorization: ServiceAuthorizer
  readonly #time: Time
  readonly #lifecycle: Lifecycle
  readonly #inbound: Inbound
  readonly #outbound: Outbound
  readonly #stats = new StatsCollector()
  readonly #sessionCounts = sessionCounts()
  readonly #rejectionEvents: LimitedEvents<{ error: Error; remoteAddress: string | undefined }>
  readonly #requests: RequestReporter
  readonly #processWarnings: ProcessWarnings
  #closing: Promise<void> | undefined

  static {
    Object.defineProperty(this.prototype, inspect.custom, {
      value(this: Service, _depth: number, options: InspectOptions) {
        return `Service ${inspect(this.#summary(), options)}`
      },
    })
  }

  constructor(name: string, options: ServiceOptions = {}, time: Time = systemTime) {
    super()
    this.name = expectName('service', name)
    this.#settings = serviceSettings(options)
    this.#time = time
    this.#processWarnings = new ProcessWarnings(time.clock)
    this.#rejectionEvents = new LimitedEvents(time.clock, ({ error, remoteAddress }, count) => {
      emitSafely(this, 'rejected', error, remoteAddress, count)
    })
    this.#requests = new RequestReporter({
      service: name,
      clock: time.clock,
      stats: this.#stats,
      onDenied: (error, count) => {
        emitSafely(this, 'requestDenied', error, count)
      },
      onRevoked: (error) => {
        emitSafely(this, 'revoked', error)
      },
    })
    this.#shared = acquireShared(this.#settings.agent, time)
    this.#authorization = this.#openAuthorization()
    this.#identity = new IdentityStore({
      ...this.#shared,
      service: name,
      tls: this.#settings.tls,
      testHandshake: selfHandshake,
      ...time,
    })
    this.#lifecycle = new Lifecycle(this.#identity)
    const sides = {
      ...this.#settings,
      service: name,
      identity: this.#identity,
      lifecycle: this.#lifecycle,
      clock: time.clock,
      time,
      sessionCounts: this.#sessionCounts,
      reports: this.#reports,
    }
    const { agent, upstreams } = this.#shared
    this.#inbound = new Inbound({ ...sides, agent, authorization: this.#authorization })
    this.#outbound = new Outbound({ ...sides, upstreams })
    this.#shared.roots.on('failed', this.#onFailed)
    this.#shared.upstreams.on('failed', this.#onFailed)
    this.#identity.on('failed', this.#onFailed)
    this.#identity.on('changed', (generation, what) => {
      const { leaf, roots } = generation
      rotations.publish({ service: name, what, leaf, roots })
      if (what === 'leaf') emitSafely(this, 'rotated', generation.leaf)
      else {
        emitSafely(this, 'roots', roots)
        this.#outbound.withdraw(roots)
      }
    })
  }

  /** The current certificate, without its private key; undefined before the first one. */
  get leaf(): Leaf | undefined {
    return this.#identity.current?.leaf
  }

  /** The current CA roots of the mesh; undefined before the first ones. */
  get roots(): Roots | undefined {
    return this.#shared.roots.current
  }

  /** The trust domain of the mesh, such as `1f0a….consul`; undefined before the first roots. */
  get trustDomain(): string | undefined {
    return this.roots?.trustDomain
  }

  /**
   * Waits for a valid certificate. Optional: `dial` and `listen` wait for it as well.
   * @throws IdentityError (ERR_CONNECT_NOT_READY; the cause is the last error of the agent), AbortError, ClosedError
   * @example
   * ```ts
   * await web.ready({ timeoutMs: 5_000, signal: AbortSignal.timeout(5_000) })
   * console.log(web.leaf?.uri)
   * ```
   */
  async ready(options?: ReadyOptions): Promise<void> {
    await withCallerFrames(() =>
      this.#identity.ready({ ...readyBounds(options), closed: this.#lifecycle.closed }),
    )
  }

  /**
   * Dials an upstream and verifies its identity: that of the target to which the discovery chain of a service leads.
   *
   * In TLS 1.3, a server verifies and authorizes the client after the handshake of the client has completed. If the
   * server rejects it, the socket emits an error with ERR_CONNECT_REJECTED.
   * @throws DialError (with `attempts`), TimeoutError, AbortError, ClosedError, IdentityError, AgentError, OptionError
   * @example
   * ```ts
   * const socket = await web.dial('echo')
   * socket.write(`hello ${socket.peer.service}`)
   * for await (const chunk of socket) {
   *   console.log(String(chunk))
   *   socket.end()
   * }
   * ```
   */
  async dial(upstream: Upstream, options?: DialOptions): Promise<MeshSocket> {
    return withCallerFrames(() => this.#outbound.dial(upstream, options))
  }

  /**
   * Returns the current endpoints of an upstream, from which `dial` chooses: addresses and expected identities. The
   * list is frozen.
   * @throws DialError (ERR_CONNECT_NO_INSTANCES, with its `reason`), DnsError, AgentError, TimeoutError, AbortError,
   * ClosedError, IdentityError, OptionError
   * @example
   * ```ts
   * for (const { host, port, identity } of await web.resolve({ service: 'echo', near: '_agent' })) {
   *   console.log(host, port, identity.service)
   * }
   * ```
   */
  async resolve(upstream: Upstream, options?: ResolveOptions): Promise<readonly Endpoint[]> {
    return withCallerFrames(() => this.#outbound.resolve(upstream, options))
  }

  /**
   * Opens a local port or Unix socket that is connected to an upstream, for programs and libraries that need an
   * address.
   *
   * Clients are not authenticated, and reach the upstream with the identity of this service. A port is on the loopback
   * address by default, where all users and programs of the host can connect. A Unix socket is limited to the user of
   * this process.
   *
   * If the upstream cannot be dialed, the client connection is reset, and a `warning` says why.
   * @throws ConnectError (ERR_CONNECT_LISTEN), IdentityError, AbortError, ClosedError, OptionError
   * @example
   * ```ts
   * await using door = await web.forward('api', { path: `${process.cwd()}/api.sock` })
   * const request = http.get({ socketPath: door.address() as string, path: '/' })
   * const [response] = await once(request, 'response')
   * console.log(response.statusCode)
   * request.destroy()
   * ```
   */
  async forward(upstream: Upstream, options: ForwardOptions): Promise<Forward> {
    return withCallerFrames(() => this.#outbound.forward(upstream, options))
  }

  /**
   * Returns a stream to an upstream for libraries that need a socket synchronously, such as `pg`. The upstream is
   * dialed at the first use, and errors are emitted as `error` events.
   * @throws OptionError
   * @example
   * ```ts
   * const stream = web.stream('echo')
   * stream.setNoDelay().end('hello')
   * for await (const chunk of stream) console.log(String(chunk))
   * ```
   */
  stream(upstream: Upstream, options?: DialOptions): MeshStream {
    return this.#outbound.stream(upstream, options)
  }

  /**
   * The `fetch` function over the mesh. The host of a URL is `<name>.service[.<datacenter>].consul`; `connect` can
   * replace `service`, and `query` names a prepared query. Any other host is an error, also in a redirect, and so is a
   * port other than that of the scheme. All connections use mutual TLS, whatever the scheme.
   *
   * A request to a service of the protocol `http`, `http2`, or `grpc` follows the routes of its discovery chain: router,
   * splitter, timeouts, and retries. A request that takes too long fails with ERR_CONNECT_TIMEOUT.
   *
   * If a connection fails, the promise rejects with a TypeError, whose `cause` is an error of `dial` or a HostError
   * (ERR_CONNECT_HOST).
   * @example
   * ```ts
   * const { fetch } = web
   * const response = await fetch('https://api.service.consul/')
   * console.log(response.status, await response.text())
   * ```
   */
  get fetch(): typeof globalThis.fetch {
    return this.#outbound.http.fetch
  }

  /**
   * Returns an undici dispatcher over the mesh, for the hosts of `fetch`. Use it with `request`, `stream`, and `fetch`
   * of undici, with the global `fetch`, or compose it with interceptors. Calls without options return the same
   * dispatcher, which has a pool of connections for each host. It is closed with the service.
   * @throws OptionError
   * @example
   * ```ts
   * const dispatcher = web.dispatcher({ pool: { connections: 10 } }).compose(interceptors.retry())
   * const { statusCode, body } = await undici.request('https://api.service.consul/', { dispatcher })
   * console.log(statusCode, await body.text())
   * ```
   */
  dispatcher(options?: DispatcherOptions): Dispatcher {
    return this.#outbound.http.dispatcher(options)
  }

  /**
   * Returns an `http.Agent` over the mesh, for the hosts of `fetch`. Use it with `http.request`, `https.request`, and
   * libraries that use them (axios, got, ws). Calls without options return the same agent, which reuses connections. It
   * is closed with the service.
   * @throws OptionError
   * @example
   * ```ts
   * const request = https.get('https://api.service.consul/', { agent: web.httpAgent() })
   * const [response] = await once(request, 'response')
   * console.log(response.statusCode)
   * response.resume()
   * ```
   */
  httpAgent(options?: HttpAgentOptions): MeshHttpAgent {
    return this.#outbound.http.httpAgent(options)
  }

  /**
   * Accepts mesh connections. The handler receives each connection whose peer is verified and authorized, before any
   * byte is sent. If the handler throws or rejects, the connection is destroyed.
   * @throws ConnectError (ERR_CONNECT_LISTEN), IdentityError, AbortError, ClosedError, OptionError
   * @example
   * ```ts
   * const time = connect.service('time')
   * await using listener = await time.listen({ port: 0, maxConnections: 1_000 }, (socket) => {
   *   socket.end(`${socket.peer.service}, it is ${new Date().toISOString()}`)
   * })
   * console.log(listener.address())
   * await time.close()
   * ```
   */
  async listen(options: ListenOptions, handler: ConnectionHandler): Promise<Listener> {
    return withCallerFrames(async () => {
      expectFunction('handler', handler)
      return this.#inbound.listen(options, handler)
    })
  }

  /**
   * Accepts mesh connections for a server of node:http, node:https, or node:http2. The server receives only connections
   * whose peer is verified and authorized. It opens no port of its own, and its `listen` throws from now on. Its
   * `address()` is that of the listener, and its `close()`, which frameworks call to shut down, closes the listener.
   * For a server of `@grpc/grpc-js`, pass its connection injector.
   * @throws as listen
   * @example
   * ```ts
   * const shop = connect.service('shop')
   * const server = http.createServer((request, response) => {
   *   response.end(`hello ${connect.peer(request.socket)?.service}`)
   * })
   * await shop.serve(server, { port: 0 })
   * await shop.close()
   * ```
   */
  async serve(server: ServableServer, options: ServeOptions): Promise<Listener> {
    return withCallerFrames(() => this.#inbound.serve(server, options))
  }

  /**
   * Brings a server of node:http, node:https, node:http2, node:tls, or node:net into the mesh on the port that the
   * application makes it listen on, before or after this promise resolves. For frameworks that create and bind their
   * server themselves; otherwise use `serve`.
   *
   * The mesh handles TLS: certificates and other TLS options of the server are not used. The server receives only
   * connections whose peer is verified and authorized. All connections are refused until the promise resolves, also if
   * it rejects, and after the listener is closed. `server.close()` closes the listener, and closing the listener or the
   * service makes the server stop listening.
   * @throws IdentityError, AbortError, ClosedError, OptionError if the server is listening already
   * @example
   * ```ts
   * const depot = connect.service('depot')
   * const server = http.createServer((request, response) => {
   *   response.end(`hello ${connect.peer(request.socket)?.service}`)
   * })
   * await depot.secure(server)
   * server.listen(0)
   * await once(server, 'listening')
   * await depot.close()
   * ```
   */
  async secure(server: Server, options?: SecureServerOptions): Promise<Listener> {
    return withCallerFrames(() => this.#inbound.secure(server, options))
  }

  /**
   * Authorizes a peer, or one of its HTTP requests, for applications that terminate TLS themselves. It is the decision of a
   * listener, and may change whenever `decisions` is emitted. Errors and timeouts deny: the result is `{ authorized: false
   * }` with a reason.
   *
   * A peer whose intention has permissions is denied: they decide requests. With `method` and `path`, the request is
   * decided as `serve` does, by all its headers; handle only the path that the rules were applied to, which is
   * `decision.path`.
   * @throws OptionError
   * @example
   * ```ts
   * const socket = await api.dial('echo')
   * const { authorized, reason } = await api.authorize(socket.peer, { method: 'GET', path: '/admin', headers: {} })
   * console.log(authorized, reason)
   * socket.destroy()
   * ```
   */
  async authorize(peer: Peer, options?: AuthorizeOptions): Promise<Required<Decision>>
  async authorize(peer: Peer, options: AuthorizeRequestOptions): Promise<AuthorizedRequest>
  async authorize(
    peer: Peer,
    options?: AuthorizeOptions | AuthorizeRequestOptions,
  ): Promise<Required<Decision> | AuthorizedRequest> {
    const { signal, request } = authorizeSettings(options)
    const bounds = { signal, closed: this.#lifecycle.closed, timeoutMs: this.#settings.handshakeTimeoutMs }
    const begin = performance.now()
    const outcome = await this.#authorization.decide(peer, bounds, request !== undefined)
    this.#stats.decided(outcome)
    const { authorized, reason, basis } = outcome
    const durationMs = performance.now() - begin
    decisions.publish({ service: this.name, peer, authorized, reason, basis, durationMs })
    if (request === undefined) return { authorized, reason, basis }
    const { target } = request
    const general = { authorized, reason, basis, intention: undefined, permission: undefined, path: target }
    if (outcome.requests === undefined) return general
    const { decision, head } = decideRequest(request, outcome.requests)
    return { ...decision, path: head.path }
  }

  /**
   * Authorizes the peers of all open inbound connections again, and closes the denied ones. This happens automatically
   * when intentions change. Call it when data changes that a custom authorizer depends on.
   * @returns the number of closed connections
   * @example
   * ```ts
   * const members = new Set(['web'])
   * const club = connect.service('club', {
   *   authorize: ({ peer }) => ({ authorized: members.has(peer.service), reason: 'member of the club' }),
   * })
   * members.delete('web')
   * console.log(await club.reauthorize(), 'connections were closed')
   * await club.close()
   * ```
   */
  async reauthorize(): Promise<number> {
    return this.#inbound.reauthorize()
  }

  /**
   * Returns counters and gauges for a metrics library.
   * @example
   * ```ts
   * for (const { authorized, basis, count } of api.stats().decisions) console.log(authorized, basis, count)
   * ```
   */
  stats(): ServiceStats {
    const { intentions, staleSince } = this.#authorization
    return {
      ...this.#stats.counts,
      connections: this.#inbound.connections,
      sessions: { ...this.#sessionCounts },
      intentions,
      staleMs: staleSince === undefined ? 0 : Math.max(0, this.#time.clock.now() - staleSince),
    }
  }

  /**
   * Registers this process with the agent as a native instance or a proxy, keeps it registered, and deregisters it on
   * close. If the agent does not answer, retries until `timeoutMs`. Resolves when the catalog lists the instance, or 3
   * s after the agent has accepted it.
   *
   * If another process registers the same ID, a `warning` (ERR_CONNECT_REGISTER) is emitted, and this process stops
   * renewing the registration and does not remove it.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   * @example
   * ```ts
   * const mail = connect.service('mail')
   * await mail.register({ port: 2525, tags: ['v2'], check: { ttlMs: 10_000 } })
   * await mail.close()
   * ```
   */
  async register(options: RegisterOptions): Promise<Registration> {
    return withCallerFrames(async () => {
      const registration = await this.#inbound.register(options)
      this.#shared.upstreams.registered(this.name)
      return registration
    })
  }

  /**
   * Returns the verified peer of a mesh connection, or verifies the peer of a TLS socket of the application after its
   * handshake. Handle the errors in a `secureConnection` listener: the CA of the mesh also signs certificates that do
   * not belong to services.
   * @throws VerificationError, SpiffeIdError, IdentityError, OptionError for another kind of socket
   * @example
   * ```ts
   * const server = tls.createServer(api.tlsServerOptions(), (socket) => {
   *   try {
   *     console.log(api.verifyPeer(socket).spiffeId)
   *   } catch (error) {
   *     socket.destroy(error as Error)
   *   }
   * })
   * server.close()
   * ```
   */
  verifyPeer(socket: TLSSocket): Peer {
    if (!(socket instanceof TLSSocket) && peer(socket) === undefined) {
      throw new OptionError('socket', 'a mesh connection or a TLS socket', describe(socket))
    }
    // Attached to the socket, so that a second call does not verify again.
    return peer(socket) ?? attachPeer(socket, verifySocket(socket, this.#identity.require().roots).peer).peer
  }

  /**
   * Returns the current options for a TLS server of the application. On each `rotated` and `roots` event, pass new ones
   * to its `setSecureContext`. For each connection, call `verifyPeer(socket)`, which may throw, and then
   * `authorize(peer)`. Do not attach session handlers: a resumed session skips the verification.
   *
   * The key is a Buffer that `inspect`, `JSON.stringify`, and string conversion do not show.
   * @throws IdentityError; with ERR_CONNECT_ROOTS if no root is self-signed: `tls.createServer` cannot use such roots,
   *   while `listen` and `serve` can
   * @example
   * ```ts
   * const server = tls.createServer(api.tlsServerOptions())
   * const update = () => server.setSecureContext(api.tlsServerOptions())
   * api.on('rotated', update).on('roots', update)
   * server.close()
   * ```
   */
  tlsServerOptions(): TlsServerOptions {
    return tlsServerOptions(this.#identity.require())
  }

  /**
   * Returns the current options for a TLS client of the application. They accept only the given service. Do not add a
   * `session`: a resumed session skips the verification.
   * @throws IdentityError, OptionError
   * @example
   * ```ts
   * const [{ host, port } = { host: '', port: 0 }] = await web.resolve('echo')
   * const socket = tls.connect({ host, port, ...web.tlsClientOptions('echo') })
   * await once(socket, 'secureConnect')
   * console.log(web.verifyPeer(socket).service)
   * socket.destroy()
   * ```
   */
  tlsClientOptions(upstream: string | ExpectedIdentity): TlsClientOptions {
    return tlsClientOptions(this.#identity.require(), toIdentity(upstream))
  }

  /**
   * Leaves the mesh: deregisters, stops accepting, and waits for inbound connections, whose requests may still dial.
   * Then it stops dialing and waits for outbound connections; idle streams, such as those of a database pool, are
   * ended. Connections that are still open after `drainTimeoutMs` are cut. Afterwards the service does not keep the
   * process alive. Idempotent; a later call with a shorter timeout cuts earlier.
   * @throws OptionError
   * @example
   * ```ts
   * const job = connect.service('job')
   * await job.close({ drainTimeoutMs: 1_000 })
   * ```
   */
  async close(options?: CloseOptions): Promise<void> {
    const timeoutMs = drainTimeout(options, this.#settings.drainTimeoutMs)
    const beforeDrainMs = this.#closing === undefined ? DEREGISTER_MS : 0
    this.#closing ??= this.#close(timeoutMs)
    await withinDrain(this.#closing, beforeDrainMs + timeoutMs, () => {
      this.#cut()
    })
  }

  /** Destroys all connections at once. Registrations are left to their checks. Idempotent. */
  destroy(error?: Error): void {
    this.#lifecycle.beginClose()
    this.#inbound.abandonRegistrations()
    this.#cut(error)
    void this.close({ drainTimeoutMs: 0 })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** The properties that `console.log` shows. */
  #summary(): object {
    const { name, leaf } = this
    return {
      name,
      state: this.#lifecycle.stage,
      identity: leaf?.uri,
      expiresAt: leaf?.expiresAt,
      listeners: this.#inbound.addresses,
      inboundConnections: this.#inbound.connections,
      outboundConnections: this.#outbound.connections,
    }
  }

  #cut(error?: Error): void {
    this.#lifecycle.endDialing()
    this.#inbound.destroy()
    this.#outbound.destroy(error)
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#lifecycle.beginClose()
    await this.#inbound.deregister()
    const deadline = performance.now() + timeoutMs
    await this.#inbound.drain(timeoutMs)
    this.#lifecycle.endDialing()
    await this.#outbound.drain(Math.max(0, deadline - performance.now()))
    this.#rejectionEvents.flush()
    this.#requests.flush()
    this.#identity.close()
    this.#authorization.close()
    this.#shared.roots.off('failed', this.#onFailed)
    this.#shared.upstreams.off('failed', this.#onFailed)
    await this.#shared.release()
    emitSafely(this, 'closed')
    this.removeAllListeners()
  }

  // A property, because it is added to emitters and removed again.
  readonly #onFailed = (error: Error): void => {
    log.identity('%s: %s', this.name, error.message)
    if (this.listenerCount('warning') > 0) emitSafely(this, 'warning', error)
    else this.#processWarnings.emit(this.name, error)
  }

  #openAuthorization(): ServiceAuthorizer {
    const { authorize: authorizer, staleIntentionsMs: staleMs } = this.#settings
    const { destinations } = this.#shared
    const authorization = new ServiceAuthorizer({ service: this.name, authorizer, destinations, staleMs })
    authorization.on('failed', this.#onFailed)
    authorization.on('changed', () => {
      emitSafely(this, 'decisions')
    })
    authorization.on('stale', (staleness) => {
      emitSafely(this, 'stale', staleness)
    })
    authorization.on('fresh', () => {
      emitSafely(this, 'fresh')
    })
    return authorization
  }

  readonly #reports: ListenerReports & OutboundSettings['reports'] = {
    dialed: (outcome) => {
      this.#stats.dialed(outcome)
    },
    decided: (outcome) => {
      this.#stats.decided(outcome)
    },
    revoked: (error) => {
      this.#stats.revoked(error)
      emitSafely(this, 'revoked', error)
    },
    denied: (error) => {
      emitSafely(this, 'denied', error)
    },
    rejected: (error, remoteAddress) => {
      this.#stats.rejected(error)
      this.#rejectionEvents.report({ error, remoteAddress })
    },
    requestAllowed: (...request) => {
      this.#requests.allowed(...request)
    },
    requestDenied: (...request) => {
      this.#requests.denied(...request)
    },
    requestRevoked: (...request) => this.#requests.revoked(...request),
    warning: this.#onFailed,
  }
}
