import type { AddressInfo, Server } from 'node:net'
import type { AgentClient } from '../agent/client.js'
import { MUX_KEY, MUX_VERSION } from '../agent/endpoints/services.js'
import { type ServableServer, type ServerAdapter, serverAdapter } from '../adapters/serve.js'
import { clientCertHeader } from '../adapters/requests/client-cert-header.js'
import type { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import type { Clock } from '../base/clock.js'
import { withDeadline } from '../base/deadline.js'
import { OptionError } from '../base/errors.js'
import type { IdentityStore } from '../identity/identity-store.js'
import type { Peer } from '../identity/peer.js'
import type { SessionCounts } from '../transport/mux/session-counts.js'
import type { AdmissionSettings, ConnectionHandler, ListenerReports } from '../transport/inbound/admission.js'
import { Listener } from '../transport/inbound/listen.js'
import type { Lifecycle } from './lifecycle.js'
import { type RegisterOptions, serviceDefinition } from './options/register-options.js'
import { Registration } from './registration.js'
import {
  type ListenOptions,
  type ListenSettings,
  type SecureServerOptions,
  type ServeOptions,
  type ServeSettings,
  listenSettings,
  secureSettings,
  serveSettings,
} from './options/listen-options.js'

export interface InboundSettings {
  readonly service: string
  readonly agent: AgentClient
  readonly identity: IdentityStore
  readonly lifecycle: Lifecycle
  readonly authorization: ServiceAuthorizer
  readonly clock: Clock
  readonly handshakeTimeoutMs: number
  readonly drainTimeoutMs: number
  /** Whether the listeners accept sessions of many connections. */
  readonly mux: boolean
  readonly sessionCounts: SessionCounts
  readonly reports: ListenerReports
}

/** The inbound side of a service: its listeners, and its registrations with the agent. */
export class Inbound {
  readonly #settings: InboundSettings
  readonly #listeners = new Set<Listener>()
  readonly #registrations = new Set<Registration>()

  constructor(settings: InboundSettings) {
    this.#settings = settings
  }

  /** The number of open connections. */
  get connections(): number {
    return [...this.#listeners].reduce((sum, { connections }) => sum + connections, 0)
  }

  get addresses(): readonly (AddressInfo | string | null)[] {
    return [...this.#listeners].map((listener) => listener.address())
  }

  async listen(options: ListenOptions, handler: ConnectionHandler): Promise<Listener> {
    return this.#open(listenSettings(options, this.#settings.handshakeTimeoutMs), { handler })
  }

  /** Opens a listener on a port of its own, whose connections the server receives. */
  async serve(server: ServableServer, options: ServeOptions): Promise<Listener> {
    const settings = (): ServeSettings => serveSettings(options, this.#settings.handshakeTimeoutMs)
    return this.#openFor(serverAdapter(server, 'served'), settings)
  }

  /** Opens a listener on the port of the server. */
  async secure(server: Server, options: SecureServerOptions | undefined): Promise<Listener> {
    const settings = (): ServeSettings => secureSettings(options, this.#settings.handshakeTimeoutMs)
    return this.#openFor(serverAdapter(server, 'secured'), settings)
  }

  async register(options: RegisterOptions): Promise<Registration> {
    const { service, agent, lifecycle, clock, reports } = this.#settings
    const { definition: given, heartbeatMs, ...bounds } = serviceDefinition(service, options)
    const listeners = [...this.#listeners].filter((listener) => portOf(listener) === given.Port)
    const definition = listeners.some(({ takesSessions }) => takesSessions)
      ? { ...given, Meta: { ...given.Meta, [MUX_KEY]: MUX_VERSION } }
      : given
    const registration: Registration = new Registration({
      agent,
      definition,
      heartbeatMs,
      clock,
      onError: (error) => {
        reports.warning(error)
      },
      onClosed: () => this.#registrations.delete(registration),
    })
    const lastError = (): Error | undefined => registration.lastError
    await withDeadline('register', { ...bounds, lastError, closed: lifecycle.closing }, (signal) => {
      // Added before it is complete, so that a concurrent close removes it.
      this.#registrations.add(registration)
      return registration.start(signal)
    })
    return registration
  }

  /** Authorizes the peers of all open connections again. @returns the number of closed connections */
  async reauthorize(): Promise<number> {
    const counts = await Promise.all([...this.#listeners].map((listener) => listener.reauthorize()))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** Deregisters, so that clients choose other instances. */
  async deregister(): Promise<void> {
    await Promise.all([...this.#registrations].map((registration) => registration.close()))
  }

  /** Stops accepting, and waits for open connections. */
  async drain(drainTimeoutMs: number): Promise<void> {
    await Promise.all([...this.#listeners].map((listener) => listener.close({ drainTimeoutMs })))
  }

  /** Leaves the registrations to their checks. */
  abandonRegistrations(): void {
    for (const registration of this.#registrations) registration.abandon()
  }

  destroy(): void {
    for (const listener of this.#listeners) listener.destroy()
  }

  async #openFor(adapter: ServerAdapter, settings: () => ServeSettings): Promise<Listener> {
    adapter.begin()
    let listener: Listener | undefined
    try {
      await adapter.expectUnused?.()
      const { strictPaths, forwardClientCert, passthrough, ...others } = settings()
      if (passthrough !== undefined && !adapter.decidesRequests)
        throw new OptionError(
          'passthrough',
          'a server of HTTP beside it',
          'one whose requests are not decided',
        )
      const { identity } = this.#settings
      const clientCert = forwardClientCert
        ? (from: Peer): string => clientCertHeader(identity.require().leaf.uri, from)
        : (): undefined => undefined
      adapter.configure({ strictPaths, clientCert })
      const { allowHalfOpen } = others
      // The bytes that are passed through may be of any protocol.
      const passing = passthrough && {
        ...{ passthrough, allowHalfOpen, alpnProtocols: undefined },
        // What is passed through needs no server that knows its peer.
        takesSessions: true,
      }
      listener = await this.#open(others, { ...adapter, ...passing })
      adapter.attach(listener)
      return listener
    } catch (error) {
      listener?.destroy()
      adapter.abandon()
      throw error
    }
  }

  async #open(
    { address, signal, timeoutMs, ...settings }: ListenSettings,
    target: Partial<ServerAdapter> & Pick<AdmissionSettings, 'handler' | 'passthrough'>,
  ): Promise<Listener> {
    const { lifecycle } = this.#settings
    await lifecycle.readyToOpen('listen', { signal, timeoutMs })
    const listener: Listener = new Listener({
      ...this.#settings,
      ...settings,
      ...target,
      mux: this.#settings.mux && target.takesSessions !== false,
      alpnProtocols: settings.alpnProtocols ?? target.alpnProtocols,
      onClosing: () => this.#withdrawInstances(listener),
      onClosed: () => {
        this.#listeners.delete(listener)
        target.closed?.()
      },
    })
    // Added before it is open, so that a concurrent close ends it.
    this.#listeners.add(listener)
    if (address !== undefined) await lifecycle.opened('listen', listener.open(address))
    return listener
  }

  /**
   * Deregisters the instances at the port of a listener, unless another listener has the same port.
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
}

function portOf(listener: Listener): number | undefined {
  const address = listener.address()
  return typeof address === 'object' ? address?.port : undefined
}
