import type { IdentityStore } from '../identity/identity-store.js'
import { type DispatcherOptions, MeshDispatcher } from './dispatcher.js'
import { meshFetch } from './fetch.js'
import { type HttpAgentOptions, HttpAgent } from './agent.js'
import { ConnectionLifetimes } from '../transport/connection-lifetimes.js'
import type { MeshAccess } from './mesh-access.js'

/** The HTTP clients of one service, which are closed with it. */
export class HttpClients {
  readonly fetch: typeof globalThis.fetch = meshFetch(() => this.dispatcher())
  readonly #access: MeshAccess
  // Weak references: an application may create many clients and drop them. Open connections keep their client alive.
  readonly #dispatchers = new WeakSetOf<MeshDispatcher>()
  readonly #agents = new WeakSetOf<HttpAgent>()
  #dispatcher: MeshDispatcher | undefined
  #agent: HttpAgent | undefined

  constructor(access: Omit<MeshAccess, 'lifetimes'>, identity: IdentityStore) {
    this.#access = { ...access, lifetimes: new ConnectionLifetimes(identity, access.time.clock) }
  }

  /** Returns the shared dispatcher, or a new one if there are options. */
  dispatcher(options?: DispatcherOptions): MeshDispatcher {
    if (options === undefined && this.#dispatcher?.closed === false) return this.#dispatcher
    const dispatcher = new MeshDispatcher(this.#access, options)
    this.#dispatchers.add(dispatcher)
    if (options === undefined) this.#dispatcher = dispatcher
    return dispatcher
  }

  /** Returns the shared agent, or a new one if there are options. */
  httpAgent(options?: HttpAgentOptions): HttpAgent {
    if (options === undefined && this.#agent !== undefined) return this.#agent
    const agent = new HttpAgent(this.#access, options)
    this.#agents.add(agent)
    if (options === undefined) this.#agent = agent
    return agent
  }

  /** Closes idle connections, and the others after their requests. */
  close(): void {
    for (const dispatcher of this.#dispatchers) void dispatcher.close()
    for (const agent of this.#agents) agent.close()
  }

  /** Destroys all connections. */
  destroy(error?: Error): void {
    for (const dispatcher of this.#dispatchers) void dispatcher.destroy(error ?? null)
    for (const agent of this.#agents) {
      agent.close()
      agent.destroy()
    }
    this.#access.lifetimes.close()
  }
}

/** A set of weak references. */
class WeakSetOf<T extends object> implements Iterable<T> {
  readonly #refs = new Set<WeakRef<T>>()
  readonly #gone = new FinalizationRegistry<WeakRef<T>>((ref) => this.#refs.delete(ref))

  add(object: T): void {
    const ref = new WeakRef(object)
    this.#refs.add(ref)
    this.#gone.register(object, ref)
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const ref of [...this.#refs]) {
      const object = ref.deref()
      if (object !== undefined) yield object
    }
  }
}
