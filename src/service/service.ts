import { TLSSocket } from 'node:tls'
import { type InspectOptions, inspect } from 'node:util'
import { EventEmitter } from 'eventemitter3'
import type { Dispatcher } from 'undici'
import type { DispatcherOptions } from '../http/dispatcher.js'
import { Forward } from '../adapters/forward.js'
import type { HttpAgentOptions, MeshHttpAgent } from '../http/agent.js'
import { HttpClients } from '../http/clients.js'
import type { MeshAccess } from '../http/mesh-access.js'
import { type ServableServer, type ServerAdapter, serverAdapter } from '../adapters/serve.js'
import { OpenStreams } from '../adapters/open-streams.js'
import { MeshStream } from '../adapters/stream.js'
import { Registration } from './registration.js'
import { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import type { Decision } from '../authorize/authorizer.js'
import { decisions } from '../authorize/diagnostics.js'
import { withCallerFrames } from '../base/caller-frames.js'
import { withDeadline, isAborted } from '../base/deadline.js'
import { type Time, systemTime } from '../base/clock.js'
import { type CloseOptions, drainTimeout } from '../base/close-options.js'
import { ClosedError, OptionError } from '../base/errors.js'
import { emitSafely } from '../base/emit-safely.js'
import type { ServiceEvents } from './service-events.js'
import { type ServiceStats, StatsCollector } from './stats.js'
import { rotations } from '../identity/diagnostics.js'
import type { Leaf } from '../identity/leaf.js'
import type { Peer } from '../identity/peer.js'
import type { Roots } from '../identity/roots.js'
import { IdentityStore } from '../identity/identity-store.js'
import type { ExpectedIdentity } from '../identity/verify.js'
import { type SharedLease, acquireShared } from './shared.js'
import { log } from '../base/log.js'
import { describe, expectFunction, expectName } from '../base/validate.js'
import { ProcessWarnings } from './process-warnings.js'
import { type ReadyOptions, readyBounds } from '../base/ready-options.js'
import { type RegisterOptions, serviceDefinition } from './register-options.js'
import { RejectionEvents } from './rejection-events.js'
import { type Endpoint, resolveEndpoints } from '../resolve/resolver.js'
import { type Upstream, settledUpstream, toIdentity } from '../resolve/upstream.js'
import {
  type DialOptions,
  type ForwardOptions,
  type ListenOptions,
  type ResolveOptions,
  type ServiceOptions,
  type ServiceSettings,
  dialSettings,
  forwardSettings,
  listenSettings,
  resolveBounds,
  serviceSettings,
} from './service-options.js'
import { type DialBounds, dial } from '../transport/dial.js'
import { type ConnectionHandler, Listener, type ListenerReports } from '../transport/listen.js'
import { OpenSockets, withinDrain } from '../sockets/open-sockets.js'
import { endUntrusted } from '../transport/revocation.js'
import { attachPeer, peer, verifySocket } from '../transport/verify-peer.js'
import { selfHandshake } from '../transport/self-handshake.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { closeWhenDestroyed } from '../sockets/truncation.js'
import {
  type TlsClientOptions,
  type TlsServerOptions,
  tlsClientOptions,
  tlsServerOptions,
} from '../transport/tls-options.js'

/** What `close` allows its deregistrations, before the drain: three tries of 2 s, and the pauses between them. */
const DEREGISTER_MS = 8_000

/**
 * This process as one service of the mesh. It fetches its certificate and the mesh's roots from the Consul agent and
 * keeps them fresh from the moment it is made; it dials other services and listens for them.
 *
 * It keeps the process alive until it is closed.
 */
export class Service extends EventEmitter<ServiceEvents> implements AsyncDisposable {
  readonly name: string
  readonly #settings: ServiceSettings
  readonly #mesh: SharedLease
  readonly #identity: IdentityStore
  readonly #authorization: ServiceAuthorizer
  readonly #time: Time
  /** Aborted when a close begins: nothing new comes in, and requests that are being answered may still dial. */
  readonly #draining = new AbortController()
  /** Aborted when nothing goes out any more either. */
  readonly #ending = new AbortController()
  readonly #listeners = new Set<Listener>()
  readonly #forwards = new Set<Forward>()
  readonly #registrations = new Set<Registration>()
  readonly #dialled = new OpenSockets()
  readonly #streams = new OpenStreams()
  readonly #httpClients: HttpClients
  readonly #tally = new StatsCollector()
  readonly #rejectionEvents: RejectionEvents
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
    this.#rejectionEvents = new RejectionEvents(time.clock, (...event) => {
      emitSafely(this, 'rejected', ...event)
    })
    this.#mesh = acquireShared(this.#settings.agent, time)
    this.#authorization = this.#openAuthorization()
    this.#identity = new IdentityStore({
      ...this.#mesh,
      service: name,
      tls: this.#settings.tls,
      prove: selfHandshake,
      ...time,
    })
    const { hosts, dialTimeoutMs, maxConnectionsPerHost, crossServiceRedirects } = this.#settings
    this.#httpClients = new HttpClients(
      { dial: this.#dialForHttp, hosts, dialTimeoutMs, maxConnectionsPerHost, crossServiceRedirects },
      this.#identity,
      time.clock,
    )
    this.#mesh.roots.on('failed', this.#onFailed)
    this.#mesh.routes.on('failed', this.#onFailed)
    this.#identity.on('failed', this.#onFailed)
    this.#identity.on('changed', (generation, what) => {
      const { leaf, roots } = generation
      rotations.publish({ service: name, what, leaf, roots })
      if (what === 'leaf') emitSafely(this, 'rotated', generation.leaf)
      else {
        emitSafely(this, 'roots', roots)
        this.#withdraw(roots)
      }
    })
  }

  /** The last good certificate, without its key; undefined before the first. */
  get leaf(): Leaf | undefined {
    return this.#identity.current?.leaf
  }

  /** The last good roots of the mesh; undefined before the first. */
  get roots(): Roots | undefined {
    return this.#mesh.roots.current
  }

  /** The mesh's trust domain, such as `1f0a….consul`; undefined before the first roots. */
  get trustDomain(): string | undefined {
    return this.roots?.trustDomain
  }

  /**
   * Resolves when there is a certificate to make connections with. Optional: `dial` and `listen` wait themselves.
   * @throws IdentityError (ERR_CONNECT_NOT_READY, with the agent's last word as its cause), AbortError, ClosedError
   * @example
   * ```ts
   * await web.ready({ timeoutMs: 5_000, signal: AbortSignal.timeout(5_000) })
   * console.log(web.leaf?.uri)
   * ```
   */
  async ready(options?: ReadyOptions): Promise<void> {
    await withCallerFrames(() =>
      this.#identity.ready({ ...readyBounds(options), closed: this.#ending.signal }),
    )
  }

  /**
   * Connects to an upstream as this service. The socket's peer has proved to be that upstream.
   *
   * In TLS 1.3 a server judges us after our side of the handshake is done. When it refuses, the socket fails with
   * ERR_CONNECT_REJECTED.
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
    return withCallerFrames(() => this.#dial(upstream, dialSettings(options, this.#settings.dialTimeoutMs)))
  }

  /**
   * Where an upstream can be reached now, and who must be found there: what `dial` chooses from. The list is not to
   * be changed.
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
    return withCallerFrames(() => this.#resolve(upstream, options))
  }

  /**
   * Opens a local port or unix socket that leads to an upstream, for programs and libraries that want an address.
   *
   * Whoever reaches it speaks to the upstream as this service, without a check on this side: it is on the loopback
   * unless something else is said, and there every user and program of the machine can reach a port. A unix socket is
   * for this process's user alone.
   *
   * A connection that cannot be taken to the upstream is reset, and a `warning` says why.
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
    return withCallerFrames(() => this.#forward(upstream, options))
  }

  /**
   * A connection to an upstream for libraries that want their socket at once, such as `pg`. It is dialled when it is first
   * used, and what goes wrong then is its `error` event.
   * @throws OptionError
   * @example
   * ```ts
   * const stream = web.stream('echo')
   * stream.setNoDelay().end('hello')
   * for await (const chunk of stream) console.log(String(chunk))
   * ```
   */
  stream(upstream: Upstream, options?: DialOptions): MeshStream {
    const { signal, ...settings } = dialSettings(options, this.#settings.dialTimeoutMs)
    const target = settledUpstream(upstream)
    // What the stream still holds when the peer has ended is sent before our side ends: the stream sees to that.
    const socketSettings = { ...settings.socketSettings, allowHalfOpen: true }
    const stream = new MeshStream(settings.socketSettings.allowHalfOpen, (gone) =>
      this.#dial(target, {
        ...settings,
        socketSettings,
        signal: signal === undefined ? gone : AbortSignal.any([gone, signal]),
      }),
    )
    this.#streams.add(stream)
    return stream
  }

  /**
   * The global `fetch`, over the mesh: the host of a URL is `<name>.service[.<datacenter>].consul`, or the same with
   * `.connect`, or with `.query` for a prepared query. Any other host is an error, also as the target of a redirect, and
   * so is a port. The scheme says nothing: each connection is mutual TLS.
   *
   * What goes wrong with a connection is the `cause` of the TypeError that it rejects with: what `dial` throws, or a
   * HostError (ERR_CONNECT_HOST).
   * @example
   * ```ts
   * const { fetch } = web
   * const response = await fetch('https://api.service.consul/')
   * console.log(response.status, await response.text())
   * ```
   */
  get fetch(): typeof globalThis.fetch {
    return this.#httpClients.fetch
  }

  /**
   * A dispatcher of undici over the mesh, by the hosts that `fetch` takes: for undici's own `request`, `stream` and
   * `fetch`, for the global `fetch`, and to be composed with interceptors. Without options it is the same each time, with
   * a pool of connections for each host. It ends with the service.
   * @throws OptionError
   * @example
   * ```ts
   * const dispatcher = web.dispatcher({ pool: { connections: 10 } }).compose(interceptors.retry())
   * const { statusCode, body } = await undici.request('https://api.service.consul/', { dispatcher })
   * console.log(statusCode, await body.text())
   * ```
   */
  dispatcher(options?: DispatcherOptions): Dispatcher {
    return this.#httpClients.dispatcher(options)
  }

  /**
   * An agent of node:http over the mesh, by the hosts that `fetch` takes: for `http.request` and `https.request`, and the
   * libraries that stand on them (axios, got, ws). Without options it is the same each time, and keeps connections for
   * reuse. It ends with the service.
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
    return this.#httpClients.httpAgent(options)
  }

  /**
   * Listens for connections. The handler gets those whose peer has proved its identity and is authorized, before
   * it has been sent a byte; a handler that throws ends its connection.
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
      return this.#open(options, { handler })
    })
  }

  /**
   * Lets a server of node:http, node:https or node:http2 serve the mesh: intentions first, then the application.
   * The server opens no port of its own, and its `listen` throws from now on. Its `address()` is the listener's. Its
   * `close()`, which frameworks call to shut down, closes the listener. A gRPC server of `@grpc/grpc-js` is served by its
   * connection injector.
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
  async serve(server: ServableServer, options: ListenOptions): Promise<Listener> {
    return withCallerFrames(async () => {
      const adapter = serverAdapter(server)
      adapter.begin()
      let listener: Listener | undefined
      try {
        listener = await this.#open(options, adapter)
        adapter.attach(listener)
        return listener
      } catch (error) {
        listener?.destroy()
        adapter.abandon()
        throw error
      }
    })
  }

  /**
   * Whether a peer may connect to this service, for those who terminate TLS themselves: the same decision as a
   * listener's. It may be another after every `decisions` event. Fails closed: any doubt is `{ authorized: false }` with
   * its reason.
   * @example
   * ```ts
   * const socket = await api.dial('echo')
   * const { authorized, reason } = await api.authorize(socket.peer)
   * console.log(authorized, reason)
   * socket.destroy()
   * ```
   */
  async authorize(peer: Peer, options: { readonly signal?: AbortSignal } = {}): Promise<Required<Decision>> {
    const bounds = { ...options, closed: this.#ending.signal, timeoutMs: this.#settings.handshakeTimeoutMs }
    const begin = performance.now()
    const outcome = await this.#authorization.decide(peer, bounds)
    this.#tally.decided(outcome)
    const { authorized, reason, basis } = outcome
    const durationMs = performance.now() - begin
    decisions.publish({ service: this.name, peer, authorized, reason, basis, durationMs })
    return { authorized, reason, basis }
  }

  /**
   * Decides every open inbound connection again, now, and ends those whose peer may no longer be connected. It happens
   * by itself when the intentions change; call it when something changes on which an authorizer of your own depends.
   * Returns how many connections were ended.
   * @example
   * ```ts
   * const friends = new Set(['web'])
   * const club = connect.service('club', {
   *   authorize: ({ peer }) => ({ authorized: friends.has(peer.service), reason: 'the list says so' }),
   * })
   * friends.delete('web')
   * console.log(await club.reauthorize(), 'connections were ended')
   * await club.close()
   * ```
   */
  async reauthorize(): Promise<number> {
    const counts = await Promise.all([...this.#listeners].map((listener) => listener.reauthorize()))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /**
   * Counts of what was decided, and how things stand, for a metrics library.
   * @example
   * ```ts
   * for (const { authorized, basis, count } of api.stats().decisions) console.log(authorized, basis, count)
   * ```
   */
  stats(): ServiceStats {
    const { intentions, staleSince } = this.#authorization
    return {
      ...this.#tally.counts,
      connections: [...this.#listeners].reduce((sum, { connections }) => sum + connections, 0),
      intentions,
      staleMs: staleSince === undefined ? 0 : Math.max(0, this.#time.clock.now() - staleSince),
    }
  }

  /**
   * Registers this process with the agent, as a Connect-native instance or as a proxy, keeps it registered, and removes
   * it on close. While the agent gives no answer the registration is tried again, until `timeoutMs`. Resolves when the
   * catalog lists the instance, or 3 s after the agent has taken it.
   *
   * A registration belongs to this process alone: when another process registers the same id, a `warning`
   * (ERR_CONNECT_REGISTER) says so, and this process neither renews nor removes it any more.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   * @example
   * ```ts
   * const mail = connect.service('mail')
   * await mail.register({ port: 2525, tags: ['v2'], check: { ttlMs: 10_000 } })
   * await mail.close()
   * ```
   */
  async register(options: RegisterOptions): Promise<Registration> {
    return withCallerFrames(() => this.#register(options))
  }

  /**
   * Returns the verified peer of a socket: of one that came from `dial`, `listen`, or `serve`, or of a TLS socket of your
   * own, which is verified now and must have finished its handshake. Catch the errors in a `secureConnection` listener:
   * the mesh's CA also signs certificates that are not a service's.
   * @throws VerificationError, SpiffeIdError, IdentityError, OptionError for a socket of another kind
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
      throw new OptionError('socket', 'a connection of the mesh, or a TLS socket', describe(socket))
    }
    // Attached to the socket, so that a second call need not verify again.
    return peer(socket) ?? attachPeer(socket, verifySocket(socket, this.#identity.require().roots).peer).peer
  }

  /**
   * Returns the options for a TLS server of your own, as of now: pass new ones to its `setSecureContext` on every
   * `rotated` and `roots` event. For each connection call `verifyPeer(socket)`, which may throw, and then `authorize(peer)`.
   * Do not attach session handlers: a resumed session skips the verification.
   *
   * The key is a Buffer that is not shown by `inspect`, `JSON.stringify`, or string conversion.
   * @throws IdentityError, also when every root is signed by another CA (ERR_CONNECT_ROOTS): `tls.createServer` cannot
   *   use such roots, `listen` and `serve` can
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
   * Settings for a TLS client of somebody's own, as of now. They accept one service and no other. Never pass a
   * `session` with them: a resumed one skips the check.
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
   * Leaves the mesh in order: deregisters, accepts no more, and waits for the inbound connections, whose requests may
   * still dial. Then it dials no more, and waits for the outbound connections; those of `stream` that are idle, such as
   * a database pool's, end at once. What is still open after the drain time is cut. Afterwards nothing of this service
   * keeps the process alive. Idempotent; a later call with a shorter time cuts then.
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

  /** Cuts everything at once, and leaves registrations to their checks. Idempotent. */
  destroy(error?: Error): void {
    this.#draining.abort()
    for (const registration of this.#registrations) registration.abandon()
    this.#cut(error)
    void this.close({ drainTimeoutMs: 0 })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** What `console.log` shows of a service. */
  #summary(): object {
    const { name, leaf } = this
    const state = this.#ending.signal.aborted ? 'closed' : this.#draining.signal.aborted ? 'closing' : 'open'
    return {
      name,
      state,
      identity: leaf?.uri,
      expiresAt: leaf?.expiresAt,
      listeners: [...this.#listeners].map((listener) => listener.address()),
      inboundConnections: this.stats().connections,
      outboundConnections: this.#dialled.size,
    }
  }

  #cut(error?: Error): void {
    this.#ending.abort()
    for (const listener of this.#listeners) listener.destroy()
    for (const forward of this.#forwards) forward.destroy()
    this.#httpClients.destroy(error)
    this.#dialled.destroy(error)
  }

  async #register(options: RegisterOptions): Promise<Registration> {
    const { definition, heartbeatMs, ...bounds } = serviceDefinition(this.name, options)
    const registration: Registration = new Registration({
      agent: this.#mesh.agent,
      definition,
      heartbeatMs,
      clock: this.#time.clock,
      onError: this.#onFailed,
      onClosed: () => this.#registrations.delete(registration),
    })
    const lastError = (): Error | undefined => registration.lastError
    await withDeadline('register', { ...bounds, lastError, closed: this.#draining.signal }, (signal) => {
      // Known from the start, so that a close in the middle removes it too.
      this.#registrations.add(registration)
      return registration.start(signal)
    })
    this.#mesh.routes.registered(this.name)
    return registration
  }

  async #resolve(upstream: Upstream, options: ResolveOptions | undefined): Promise<readonly Endpoint[]> {
    if (this.#ending.signal.aborted) throw new ClosedError('resolve')
    const { resolver, release } = this.#mesh.routes.lease(upstream)
    const bounds = {
      ...resolveBounds(options, this.#settings.dialTimeoutMs),
      closed: this.#ending.signal,
      lastError: () => resolver.lastError ?? this.#identity.lastError,
    }
    try {
      return await withDeadline(`resolve ${resolver.name}`, bounds, async (signal) => {
        const { leaf } = await this.#identity.ready({ signal, timeoutMs: bounds.timeoutMs })
        return resolveEndpoints(resolver, { signal, datacenter: leaf.id.datacenter, refresh: false })
      })
    } finally {
      release()
    }
  }

  async #forward(upstream: Upstream, options: ForwardOptions): Promise<Forward> {
    this.#assertOpen('forward')
    const target = settledUpstream(upstream)
    const { resolver, release } = this.#mesh.routes.lease(target)
    release()
    const { address, signal, timeoutMs, dialTimeoutMs, ...settings } = forwardSettings(
      options,
      this.#settings.dialTimeoutMs,
    )
    await this.#identity.ready({ signal, timeoutMs, closed: this.#draining.signal })
    this.#assertOpen('forward')
    const forward: Forward = new Forward({
      ...settings,
      name: resolver.name,
      dial: (gone) => {
        const socketSettings = { allowHalfOpen: true, expectsAnswer: true, isForPump: true }
        return this.#dial(target, { signal: gone, timeoutMs: dialTimeoutMs, socketSettings })
      },
      drainTimeoutMs: this.#settings.drainTimeoutMs,
      onFailed: this.#onFailed,
      onClosed: () => this.#forwards.delete(forward),
    })
    this.#forwards.add(forward)
    await this.#opened('forward', forward.open(address))
    return forward
  }

  async #dial(upstream: Upstream, bounds: DialBounds): Promise<MeshSocket> {
    if (isAborted(this.#ending.signal)) throw new ClosedError('dial')
    const { release, ...route } = this.#mesh.routes.lease(upstream)
    try {
      const socket = await dial(this.#identity, route, { ...bounds, closed: this.#ending.signal })
      this.#dialled.add(socket)
      if (!isAborted(this.#ending.signal)) return socket
      socket.destroy()
      throw new ClosedError('dial')
    } finally {
      release()
    }
  }

  readonly #dialForHttp: MeshAccess['dial'] = async (
    upstream,
    { allowHalfOpen, alpnProtocols, ...bounds },
  ) => {
    const socketSettings = { allowHalfOpen, expectsAnswer: true, alpnProtocols }
    const socket = await this.#dial(upstream, { ...bounds, socketSettings })
    // A request that is cut short says so itself. undici's HTTP/2 needs its sockets to end in the turn of their `destroy`.
    closeWhenDestroyed(socket, () => socket.alpnProtocol !== 'h2')
    return socket
  }

  /** Ends the connections that were dialed, and whose peers lead to none of these roots. Listeners see to their own. */
  #withdraw(roots: Roots): void {
    for (const error of endUntrusted(this.#dialled, this.name, roots, this.#time.clock.now())) {
      this.#reports.revoked(error)
    }
  }

  async #open(
    options: ListenOptions,
    target: ServerAdapter | { readonly handler: ConnectionHandler; readonly alpnProtocols?: undefined },
  ): Promise<Listener> {
    const { address, signal, timeoutMs, ...settings } = listenSettings(
      options,
      this.#settings.handshakeTimeoutMs,
    )
    await this.#identity.ready({ signal, timeoutMs, closed: this.#draining.signal })
    this.#assertOpen('listen')
    const listener: Listener = new Listener({
      ...settings,
      ...target,
      alpnProtocols: settings.alpnProtocols ?? target.alpnProtocols,
      identity: this.#identity,
      service: this.name,
      authorization: this.#authorization,
      clock: this.#time.clock,
      drainTimeoutMs: this.#settings.drainTimeoutMs,
      reports: this.#reports,
      onClosing: () => this.#withdrawInstances(listener),
      onClosed: () => this.#listeners.delete(listener),
    })
    // Known before it is open, so that a close in the middle ends it too.
    this.#listeners.add(listener)
    await this.#opened('listen', listener.open(address))
    return listener
  }

  /**
   * Takes the instances at a listener's port out of the catalog, unless another listener has the same port.
   * @returns undefined if there are none
   */
  #withdrawInstances(listener: Listener): Promise<unknown> | undefined {
    const port = portOf(listener)
    const others = [...this.#listeners].filter((other) => other !== listener)
    if (port === undefined || others.some((other) => portOf(other) === port)) return undefined
    const instances = [...this.#registrations].filter((registration) => registration.port === port)
    if (instances.length === 0) return undefined
    return Promise.all(instances.map((registration) => registration.close()))
  }

  /** What a close in the middle broke off was closed. */
  async #opened(what: string, opening: Promise<void>): Promise<void> {
    await opening.catch((error: unknown) => {
      throw this.#draining.signal.aborted ? new ClosedError(what, { cause: error }) : error
    })
  }

  #assertOpen(what: string): void {
    if (this.#draining.signal.aborted) throw new ClosedError(what)
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#draining.abort()
    // First the registrations, so that callers are not sent here while the rest ends.
    await Promise.all([...this.#registrations].map((registration) => registration.close()))
    const deadline = performance.now() + timeoutMs
    await Promise.all([...this.#listeners].map((listener) => listener.close({ drainTimeoutMs: timeoutMs })))
    this.#ending.abort()
    const drainTimeoutMs = Math.max(0, deadline - performance.now())
    const forwards = [...this.#forwards].map((forward) => forward.close({ drainTimeoutMs }))
    this.#httpClients.close()
    const stopEndingIdle = this.#streams.endIdle()
    await Promise.all([...forwards, this.#dialled.drain(drainTimeoutMs)])
    stopEndingIdle()
    this.#httpClients.destroy()
    this.#rejectionEvents.flush()
    this.#identity.close()
    this.#authorization.close()
    this.#mesh.roots.off('failed', this.#onFailed)
    this.#mesh.routes.off('failed', this.#onFailed)
    await this.#mesh.release()
    emitSafely(this, 'closed')
    this.removeAllListeners()
  }

  // A property and not a method, since it is added to emitters and taken away again.
  readonly #onFailed = (error: Error): void => {
    log.identity('%s: %s', this.name, error.message)
    if (this.listenerCount('warning') > 0) emitSafely(this, 'warning', error)
    else this.#processWarnings.emit(this.name, error)
  }

  #openAuthorization(): ServiceAuthorizer {
    const { authorize: authorizer, staleIntentionsMs: staleMs } = this.#settings
    const { destinations } = this.#mesh
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

  readonly #reports: ListenerReports = {
    decided: (outcome) => {
      this.#tally.decided(outcome)
    },
    revoked: (error) => {
      this.#tally.revoked(error)
      emitSafely(this, 'revoked', error)
    },
    denied: (error) => {
      emitSafely(this, 'denied', error)
    },
    rejected: (error, remoteAddress) => {
      this.#tally.rejected(error)
      this.#rejectionEvents.report(error, remoteAddress)
    },
    warning: this.#onFailed,
  }
}

function portOf(listener: Listener): number | undefined {
  const address = listener.address()
  return typeof address === 'object' ? address?.port : undefined
}
