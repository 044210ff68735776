import { EventEmitter } from 'eventemitter3'
import { CachedWatch } from '../../agent/cached-watch.js'
import type { AgentClient } from '../../agent/client.js'
import { fetchProtocol } from '../../agent/endpoints/chain.js'
import {
  DEFAULT_NORMALIZATION,
  type RequestNormalization,
  fetchNormalization,
} from '../../agent/endpoints/mesh-entry.js'
import type { Time } from '../../base/clock.js'
import { AgentError } from '../../base/errors.js'
import { isTransient } from '../../agent/agent-errors.js'

interface RequestSettingsEvents {
  /** The protocol or the normalization has changed. */
  changed: []
}

/** The protocols whose connections carry requests that permissions can decide. */
const HTTP_PROTOCOLS: ReadonlySet<string> = new Set(['http', 'http2', 'grpc'])

export function isHttp(protocol: string): boolean {
  return HTTP_PROTOCOLS.has(protocol)
}

/**
 * What decides the requests to a service besides its intentions: its protocol, and how the mesh normalizes requests. Both
 * are watched from their first use.
 */
export class RequestSettings extends EventEmitter<RequestSettingsEvents> {
  readonly #agent: AgentClient
  readonly #service: string
  readonly #time: Time
  #watches: Watches | undefined

  constructor(agent: AgentClient, service: string, time: Time) {
    super()
    this.#agent = agent
    this.#service = service
    this.#time = time
  }

  /**
   * Returns the protocol of the service, in lower case; waits for the first one.
   * @throws AgentError, ClosedError, and the signal's reason
   */
  protocol(signal: AbortSignal): Promise<string> {
    return this.#open().protocol.first(signal)
  }

  /**
   * Returns how requests are normalized; waits for the first answer of the agent. Agents without mesh config entries
   * have the default.
   * @throws AgentError for a malformed answer, ClosedError, and the signal's reason
   */
  async normalization(signal: AbortSignal): Promise<RequestNormalization> {
    try {
      return await this.#open().normalization.first(signal)
    } catch (error) {
      if (error instanceof AgentError && error.code !== 'ERR_CONNECT_AGENT_SHAPE' && !isTransient(error))
        return DEFAULT_NORMALIZATION
      throw error
    }
  }

  close(): void {
    this.#watches?.protocol.close()
    this.#watches?.normalization.close()
    this.removeAllListeners()
  }

  #open(): Watches {
    if (this.#watches === undefined) {
      const protocol = this.#watch<string>(`protocol of ${this.#service}`, (query) =>
        fetchProtocol(this.#agent, this.#service, query),
      )
      const normalization = this.#watch<RequestNormalization>('mesh config entry', (query) =>
        fetchNormalization(this.#agent, query),
      )
      this.#watches = { protocol, normalization }
    }
    return this.#watches
  }

  #watch<T>(name: string, fetch: WatchFetch<T>): CachedWatch<T> {
    const { settings, blockingSlots } = this.#agent
    const watch = new CachedWatch<T>({
      name,
      fetch,
      slots: blockingSlots,
      waitMs: settings.waitMs,
      ...this.#time,
    })
    let isFirst = true
    watch.on('value', () => {
      // The first value changes nothing: decisions wait for it.
      if (!isFirst) this.emit('changed')
      isFirst = false
    })
    return watch
  }
}

interface Watches {
  readonly protocol: CachedWatch<string>
  readonly normalization: CachedWatch<RequestNormalization>
}

type WatchFetch<T> = ConstructorParameters<typeof CachedWatch<T>>[0]['fetch']
