import { Forward } from '../adapters/forward.js'
import { OpenStreams } from '../adapters/open-streams.js'
import { MeshStream } from '../adapters/stream.js'
import type { Time } from '../base/clock.js'
import { type Bounds, isAborted, withDeadline } from '../base/deadline.js'
import { ClosedError } from '../base/errors.js'
import { HttpClients } from '../http/clients.js'
import type { MeshAccess } from '../http/mesh-access.js'
import type { IdentityStore } from '../identity/identity-store.js'
import type { Roots } from '../identity/roots.js'
import type { ActiveUpstream } from '../resolve/active-upstream.js'
import { type Endpoint, resolveEndpoints } from '../resolve/resolver.js'
import type { UpstreamRegistry } from '../resolve/upstream-registry.js'
import { type Upstream, settledUpstream } from '../resolve/upstream.js'
import { closeWhenDestroyed } from '../sockets/destruction.js'
import { OpenSockets } from '../sockets/open-sockets.js'
import type { ListenerReports } from '../transport/inbound/admission.js'
import { type DialBounds, type DialSettings, dial } from '../transport/outbound/dial.js'
import type { Dialed } from '../transport/outbound/dial-race.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import type { SessionCounts } from '../transport/mux/session-counts.js'
import { SessionPool } from '../transport/mux/session-pool.js'
import { endUntrusted } from '../transport/revocation.js'
import type { Lifecycle } from './lifecycle.js'
import {
  type DialOptions,
  type ForwardOptions,
  type ResolveOptions,
  dialSettings,
  forwardSettings,
  resolveBounds,
} from './options/dial-options.js'

export interface OutboundSettings extends Pick<
  MeshAccess,
  'hosts' | 'dialTimeoutMs' | 'maxConnectionsPerHost' | 'crossServiceRedirects'
> {
  readonly service: string
  readonly upstreams: UpstreamRegistry
  readonly identity: IdentityStore
  readonly lifecycle: Lifecycle
  readonly time: Time
  readonly drainTimeoutMs: number
  /** Whether connections share sessions where the instance takes them. */
  readonly mux: boolean
  readonly sessionCounts: SessionCounts
  readonly reports: Pick<ListenerReports, 'revoked' | 'warning'> & { readonly dialed: DialSettings['report'] }
}

/** The outbound side of a service: its dialed connections, and all that dials on behalf of the application. */
export class Outbound {
  readonly http: HttpClients
  readonly #settings: OutboundSettings
  readonly #dialed = new OpenSockets()
  readonly #streams = new OpenStreams()
  readonly #forwards = new Set<Forward>()
  readonly #sessions: SessionPool | undefined

  constructor(settings: OutboundSettings) {
    this.#settings = settings
    const { identity, time, sessionCounts } = settings
    this.#sessions = settings.mux ? new SessionPool(identity, time.clock, sessionCounts) : undefined
    const access = {
      ...settings,
      lease: (upstream: Upstream) => settings.upstreams.lease(upstream),
      readChain: this.#readChain,
      resolve: this.#resolve,
      dial: this.#dialForHttp,
    }
    this.http = new HttpClients(access, settings.identity)
  }

  /** The number of open connections. */
  get connections(): number {
    return this.#dialed.size
  }

  async dial(upstream: Upstream, options: DialOptions | undefined): Promise<MeshSocket> {
    return this.#dial(upstream, dialSettings(options, this.#settings.dialTimeoutMs))
  }

  async resolve(upstream: Upstream, options: ResolveOptions | undefined): Promise<readonly Endpoint[]> {
    const { upstreams, lifecycle, dialTimeoutMs } = this.#settings
    if (lifecycle.closed.aborted) throw new ClosedError('resolve')
    const { release, ...active } = upstreams.lease(upstream)
    try {
      return await this.#resolve(active, resolveBounds(options, dialTimeoutMs))
    } finally {
      release()
    }
  }

  stream(upstream: Upstream, options: DialOptions | undefined): MeshStream {
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

  async forward(upstream: Upstream, options: ForwardOptions): Promise<Forward> {
    const { upstreams, lifecycle, drainTimeoutMs, reports, ...service } = this.#settings
    lifecycle.assertOpen('forward')
    const target = settledUpstream(upstream)
    const { resolver, release } = upstreams.lease(target)
    release()
    const { address, signal, timeoutMs, dialTimeoutMs, ...settings } = forwardSettings(
      options,
      service.dialTimeoutMs,
    )
    await lifecycle.readyToOpen('forward', { signal, timeoutMs })
    const forward: Forward = new Forward({
      ...settings,
      name: resolver.name,
      dial: (gone) => {
        const socketSettings = { allowHalfOpen: true, expectsAnswer: true, isForPump: true }
        return this.#dial(target, { signal: gone, timeoutMs: dialTimeoutMs, socketSettings })
      },
      drainTimeoutMs,
      onFailed: (error) => {
        reports.warning(error)
      },
      onClosed: () => this.#forwards.delete(forward),
    })
    this.#forwards.add(forward)
    await lifecycle.opened('forward', forward.open(address))
    return forward
  }

  /** Closes the connections whose peer is not trusted under these roots. */
  withdraw(roots: Roots): void {
    const { service, time, reports } = this.#settings
    for (const error of endUntrusted(this.#dialed, service, roots, time.clock.now())) reports.revoked(error)
  }

  /** Ends idle streams and waits for the open connections; cuts the remaining ones after the timeout. */
  async drain(drainTimeoutMs: number): Promise<void> {
    const forwards = [...this.#forwards].map((forward) => forward.close({ drainTimeoutMs }))
    this.http.close()
    const stopEndingIdle = this.#streams.endIdle()
    const deadline = performance.now() + drainTimeoutMs
    await Promise.all([...forwards, this.#dialed.drain(drainTimeoutMs)])
    await this.#sessions?.close(Math.max(0, deadline - performance.now()))
    stopEndingIdle()
    this.http.destroy()
  }

  destroy(error?: Error): void {
    for (const forward of this.#forwards) forward.destroy()
    this.http.destroy(error)
    this.#dialed.destroy(error)
    this.#sessions?.destroy(error)
  }

  async #dial(upstream: Upstream, bounds: DialBounds): Promise<MeshSocket> {
    const { upstreams, lifecycle } = this.#settings
    if (isAborted(lifecycle.closed)) throw new ClosedError('dial')
    const { release, ...active } = upstreams.lease(upstream)
    try {
      return (await this.#dialActive(active, bounds)).socket
    } finally {
      release()
    }
  }

  async #dialActive(active: ActiveUpstream, bounds: DialBounds): Promise<Dialed> {
    const { identity, lifecycle, reports } = this.#settings
    const dialed = await dial(identity, active, {
      ...bounds,
      sessions: this.#sessions,
      closed: lifecycle.closed,
      report: reports.dialed,
    })
    this.#dialed.add(dialed.socket)
    if (!isAborted(lifecycle.closed)) return dialed
    dialed.socket.destroy()
    throw new ClosedError('dial')
  }

  readonly #resolve = ({ resolver }: ActiveUpstream, given: Bounds): Promise<readonly Endpoint[]> => {
    const { identity, lifecycle } = this.#settings
    const lastError = (): Error | undefined => resolver.lastError ?? identity.lastError
    const bounds = { ...given, closed: lifecycle.closed, lastError }
    return withDeadline(`resolve ${resolver.name}`, bounds, async (signal) => {
      const { leaf } = await identity.ready({ signal, timeoutMs: bounds.timeoutMs })
      return resolveEndpoints(resolver, { signal, datacenter: leaf.id.datacenter, refresh: false })
    })
  }

  readonly #readChain: MeshAccess['readChain'] = (service, given) => {
    const { closed } = this.#settings.lifecycle
    const bounds = { ...given, closed, lastError: () => service.lastError }
    return withDeadline(`dial ${service.name}`, bounds, (signal) => service.readChain(signal))
  }

  readonly #dialForHttp: MeshAccess['dial'] = async (active, { allowHalfOpen, alpnProtocols, ...bounds }) => {
    const socketSettings = { allowHalfOpen, expectsAnswer: true, alpnProtocols }
    const dialed = await this.#dialActive(active, { ...bounds, socketSettings })
    // HTTP messages detect truncation themselves. HTTP/2 of undici requires that `destroy` takes effect in the same
    // turn.
    closeWhenDestroyed(dialed.socket, () => dialed.socket.alpnProtocol !== 'h2')
    return dialed
  }
}
