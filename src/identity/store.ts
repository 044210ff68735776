import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type LeafCertificate, fetchLeaf } from '../agent/leaf.js'
import { Watch } from '../agent/watch.js'
import { type Bounds, bounded, isAborted } from '../bounded.js'
import type { Clock } from '../clock.js'
import { IdentityError, TimeoutError, because, toError } from '../errors.js'
import { log } from '../log.js'
import { type Credentials, type Leaf, checkLeaf } from './leaf.js'
import type { Roots, RootsStore } from './roots.js'

/**
 * What a connection is made with: our leaf and its key, the roots to verify the peer against, and the groups to agree
 * on a key by.
 */
export interface Generation {
  readonly leaf: Leaf
  readonly privateKeyPem: string
  readonly roots: Roots
  readonly ecdhCurve: string
}

interface IdentityEvents {
  /** A new leaf, or new roots, are in use from now on. */
  changed: [generation: Generation, what: 'leaf' | 'roots']
  /** Something new was refused or could not be fetched; the last good generation stays. */
  failed: [error: Error]
}

export interface IdentityOptions {
  readonly agent: AgentClient
  readonly roots: RootsStore
  readonly service: string
  readonly ecdhCurve: string
  /** Throws when TLS cannot use a generation, although it passed every check here. */
  readonly accept: (generation: Generation) => void
  readonly clock: Clock
  readonly random: () => number
}

/** The last good generation of one service's leaf and of the mesh's roots. */
export class IdentityStore extends EventEmitter<IdentityEvents> {
  readonly #options: IdentityOptions
  readonly #closed = new AbortController()
  readonly #onRoots: (roots: Roots) => void
  #watch: Watch<LeafCertificate> | undefined
  #given: LeafCertificate | undefined
  #current: Generation | undefined
  #cancelExpiry: () => void = () => undefined

  constructor(options: IdentityOptions) {
    super()
    this.#options = options
    this.#onRoots = (roots) => {
      this.#takeRoots(roots)
    }
    options.roots.on('changed', this.#onRoots)
    // A leaf cannot be judged without roots, so its watch starts after theirs.
    if (options.roots.current !== undefined) this.#takeRoots(options.roots.current)
  }

  /** The name of the service whose identity it is. */
  get service(): string {
    return this.#options.service
  }

  /** The last good generation, expired or not. */
  get current(): Generation | undefined {
    return this.#current
  }

  /** Why there is nothing newer; undefined while all is well. */
  get lastError(): Error | undefined {
    return this.#watch?.lastError ?? this.#options.roots.lastError
  }

  /**
   * The generation to make a connection with.
   * @throws IdentityError when there is none yet, or when its leaf has expired
   */
  require(): Generation {
    const { clock, service } = this.#options
    const current = this.#current
    const cause = this.lastError
    if (current === undefined) {
      throw new IdentityError('ERR_CONNECT_NOT_READY', `${service} has no certificate yet${because(cause)}`, {
        cause,
      })
    }
    if (current.leaf.notAfter.getTime() <= clock.now()) {
      const message = `the certificate of ${service} expired at ${current.leaf.notAfter.toISOString()}, and the agent has not given a new one`
      throw new IdentityError('ERR_CONNECT_LEAF_EXPIRED', message + because(cause), { cause })
    }
    return current
  }

  /**
   * Waits for a generation that can be used, and returns it.
   * @throws IdentityError (with the agent's last word as its cause) when the time is over; AbortError; ClosedError
   */
  async ready(bounds: Bounds): Promise<Generation> {
    if (this.#isUsable() && !isAborted(bounds.signal) && !isAborted(bounds.closed)) return this.require()
    let onChanged: (() => void) | undefined
    try {
      await bounded(
        'ready',
        { closed: this.#closed.signal, ...bounds },
        () =>
          new Promise<void>((resolve) => {
            onChanged = () => {
              if (this.#isUsable()) resolve()
            }
            this.on('changed', onChanged)
            onChanged()
          }),
      )
    } catch (error) {
      // What require says is more useful than that time passed.
      if (!(error instanceof TimeoutError)) throw error
    } finally {
      this.off('changed', onChanged)
    }
    return this.require()
  }

  close(): void {
    this.#closed.abort()
    this.#watch?.close()
    this.#cancelExpiry()
    this.#options.roots.off('changed', this.#onRoots)
    this.removeAllListeners()
  }

  #isUsable(): boolean {
    const notAfter = this.#current?.leaf.notAfter.getTime()
    return notAfter !== undefined && notAfter > this.#options.clock.now()
  }

  #takeRoots(roots: Roots): void {
    if (this.#watch === undefined) this.#watch = this.#watchLeaf()
    // A leaf that came before its root was refused: it may be good now.
    else if (this.#watch.lastError !== undefined) this.#watch.restart()
    if (this.#current === undefined || this.#given === undefined) return
    // Roots are the mesh's word on whom to trust: they are taken even when our own leaf is left without one.
    const next = { ...this.#current, roots }
    try {
      this.#options.accept(next)
      this.#check(this.#given, roots)
    } catch (error) {
      this.emit('failed', toError(error))
    }
    this.#current = next
    this.emit('changed', next, 'roots')
  }

  #watchLeaf(): Watch<LeafCertificate> {
    const { agent, service, clock, random } = this.#options
    return new Watch({
      name: `leaf of ${service}`,
      clock,
      random,
      slots: agent.blockingSlots,
      fetch: (query) => fetchLeaf(agent, service, query),
      onValue: (given) => {
        this.#takeLeaf(given)
      },
      onError: (error) => {
        this.emit('failed', error)
      },
    })
  }

  #takeLeaf(given: LeafCertificate): void {
    const roots = this.#options.roots.current
    if (roots === undefined) {
      throw new IdentityError('ERR_CONNECT_ROOTS', 'there are no roots to judge a leaf by')
    }
    const { service, accept, ecdhCurve } = this.#options
    const next = { ...this.#check(given, roots), roots, ecdhCurve }
    try {
      accept(next)
    } catch (cause) {
      const message = `the agent's certificate for ${service} cannot be used for TLS${because(cause)}`
      throw new IdentityError('ERR_CONNECT_LEAF_MALFORMED', message, { cause })
    }
    this.#given = given
    this.#current = next
    const { serialNumber, notAfter } = next.leaf
    log.identity('leaf of %s: serial %s, until %s', service, serialNumber, notAfter.toISOString())
    this.#armExpiry(notAfter)
    this.emit('changed', next, 'leaf')
  }

  #check(given: LeafCertificate, roots: Roots): Credentials {
    const { agent, clock, service } = this.#options
    const { namespace, partition } = agent.settings
    return checkLeaf(given, { service, namespace, partition }, roots, clock.now())
  }

  #armExpiry(notAfter: Date): void {
    const { clock } = this.#options
    this.#cancelExpiry()
    this.#cancelExpiry = clock.after(notAfter.getTime() - clock.now(), () => {
      // Timers and the wall clock may disagree: a clock that was set back gives the leaf more time.
      if (this.#isUsable()) this.#armExpiry(notAfter)
      else this.#expire()
    })
  }

  #expire(): void {
    try {
      this.require()
    } catch (error) {
      this.emit('failed', error as IdentityError)
    }
    // The agent may be holding a read that will not end for minutes.
    this.#watch?.restart()
  }
}
