import { Forward } from '../adapters/forward.js'
import { OpenStreams } from '../adapters/open-streams.js'
import { MeshStream } from '../adapters/stream.js'
import type { Clock } from '../base/clock.js'
import { isAborted, withDeadline } from '../base/deadline.js'
import { ClosedError } from '../base/errors.js'
import { HttpClients } from '../http/clients.js'
import type { MeshAccess } from '../http/mesh-access.js'
import type { IdentityStore } from '../identity/identity-store.js'
import type { Roots } from '../identity/roots.js'
import { type Endpoint, resolveEndpoints } from '../resolve/resolver.js'
import type { UpstreamRegistry } from '../resolve/upstream-registry.js'
import { type Upstream, settledUpstream } from '../resolve/upstream.js'
import { closeWhenDestroyed } from '../sockets/destruction.js'
import { OpenSockets } from '../sockets/open-sockets.js'
import type { ListenerReports } from '../transport/inbound/admission.js'
import { type DialBounds, type DialSettings, dial } from '../transport/outbound/dial.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
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

export interface OutboundSettings extends Omit<MeshAccess, 'dial' | 'lifetimes'> {
  readonly service: string
  readonly upstreams: UpstreamRegistry
  readonly identity: IdentityStore
  readonly lifecycle: Lifecycle
  readonly clock: Clock
  readonly drainTimeoutMs: number
  readonly reports: Pick<ListenerReports, 'revoked' | 'warning'> & { readonly dialed: DialSettings['report'] }
}

/** The outbound side of a service: its dialed connections, and all that dials on behalf of the application. */
export class Outbound {
  readonly http: HttpClients
  readonly #settings: OutboundSettings
  readonly #dialed = new OpenSockets()
  readonly #streams = new OpenStreams()
  readonly #forwards = new Set<Forward>()

  constructor(settings: OutboundSettings) {
    this.#settings = settings
    this.http = new HttpClients({ ...settings, dial: this.#dialForHttp }, settings.identity, settings.clock)
  }

  /** The number of open connections. */
  get connections(): number {
    return this.#dialed.size
  }

  async dial(upstream: Upstream, options: DialOptions | undefined): Promise<MeshSocket> {
    return this.#dial(upstream, dialSettings(options, this.#settings.dialTimeoutMs))
  }

  async resolve(upstream: Upstream, options: ResolveOptions | undefined): Promise<readonly Endpoint[]> {
    const { upstreams, identity, lifecycle, dialTimeoutMs } = this.#settings
    if (lifecycle.closed.aborted) throw new ClosedError('resolve')
    const { resolver, release } = upstreams.lease(upstream)
    const bounds = {
      ...resolveBounds(options, dialTimeoutMs),
      closed: lifecycle.closed,
      lastError: () => resolver.lastError ?? identity.lastError,
    }
    try {
      return await withDeadline(`resolve ${resolver.name}`, bounds, async (signal) => {
        const { leaf } = await identity.ready({ signal, timeoutMs: bounds.timeoutMs })
        return resolveEndpoints(resolver, { signal, datacenter: leaf.id.datacenter, refresh: false })
      })
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
    const { service, clock, reports } = this.#settings
    for (const error of endUntrusted(this.#dialed, service, roots, clock.now())) reports.revoked(error)
  }

  /** Ends idle streams and waits for the open connections; cuts the remaining ones after the timeout. */
  async drain(drainTimeoutMs: number): Promise<void> {
    const forwards = [...this.#forwards].map((forward) => forward.close({ drainTimeoutMs }))
    this.http.close()
    const stopEndingIdle = this.#streams.endIdle()
    await Promise.all([...forwards, this.#dialed.drain(drainTimeoutMs)])
    stopEndingIdle()
    this.http.destroy()
  }

  destroy(error?: Error): void {
    for (const forward of this.#forwards) forward.destroy()
    this.http.destroy(error)
    this.#dialed.destroy(error)
  }

  async #dial(upstream: Upstream, bounds: DialBounds): Promise<MeshSocket> {
    const { upstreams, identity, lifecycle, reports } = this.#settings
    if (isAborted(lifecycle.closed)) throw new ClosedError('dial')
    const { release, ...active } = upstreams.lease(upstream)
    try {
      const socket = await dial(identity, active, {
        ...bounds,
        closed: lifecycle.closed,
        report: reports.dialed,
      })
      this.#dialed.add(socket)
      if (!isAborted(lifecycle.closed)) return socket
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
    // HTTP messages detect truncation themselves. HTTP/2 of undici requires that `destroy` takes effect in the same
    // turn.
    closeWhenDestroyed(socket, () => socket.alpnProtocol !== 'h2')
    return socket
  }
}
