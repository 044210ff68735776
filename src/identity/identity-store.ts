import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type LeafCertificate, fetchLeaf } from '../agent/endpoints/leaf.js'
import { Watch } from '../agent/watch.js'
import { type Bounds, withDeadline, isAborted } from '../base/deadline.js'
import type { Clock } from '../base/clock.js'
import { IdentityError, TimeoutError, withCause, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import { type Credentials, type Leaf, checkLeaf } from './leaf.js'
import type { Roots, RootsStore } from './roots.js'

/** What the application may set about TLS. */
export interface TlsSettings {
  /** Groups for the key exchange, as node:tls takes them. */
  readonly ecdhCurve: string
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
}

/** What a connection is made with: our leaf and its key, the roots to verify the peer against, and settings of TLS. */
export interface Generation {
  readonly leaf: Leaf
  readonly privateKeyPem: string
  readonly roots: Roots
  readonly tls: TlsSettings
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
  readonly tls: TlsSettings
  /** Rejects when OpenSSL cannot use a generation, although it passed every check here. */
  readonly prove: (generation: Generation) => Promise<void>
  readonly clock: Clock
  readonly random: () => number
}

/** How long an agent that answers may take to renew an expired certificate. */
const RENEWAL_MS = 1_000

/** The last good generation of one service's leaf and of the mesh's roots. */
export class IdentityStore extends EventEmitter<IdentityEvents> {
  readonly #options: IdentityOptions
  readonly #closed = new AbortController()
  readonly #onRoots: (roots: Roots) => void
  #watch: Watch<LeafCertificate> | undefined
  /** The agent's answer behind the current leaf. */
  #answer: LeafCertificate | undefined
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
   * @throws IdentityError when there is none yet, or when its certificate has expired
   */
  require(): Generation {
    const { service } = this.#options
    const current = this.#current
    const cause = this.lastError
    if (current === undefined) {
      const message = `${service} has no certificate yet${withCause(cause)}`
      throw new IdentityError('ERR_CONNECT_NOT_READY', message, { cause })
    }
    if (!this.#isUsable()) {
      const message = `the certificate of ${service} expired at ${current.leaf.expiresAt.toISOString()}, and the agent has not issued a new one`
      throw new IdentityError('ERR_CONNECT_LEAF_EXPIRED', message + withCause(cause), { cause })
    }
    return current
  }

  /**
   * Waits for a generation that can be used, and returns it. An expired certificate is waited for only as long as the
   * agent can be expected to renew it.
   * @throws IdentityError (with the agent's last error as its cause) when the time is over; AbortError; ClosedError
   */
  async ready(bounds: Bounds): Promise<Generation> {
    if (this.#isUsable() && !isAborted(bounds.signal) && !isAborted(bounds.closed)) return this.require()
    const hasExpired = this.#current !== undefined
    if (hasExpired && this.lastError !== undefined) return this.require()
    const timeoutMs = hasExpired ? Math.min(bounds.timeoutMs, RENEWAL_MS) : bounds.timeoutMs
    let onChanged: (() => void) | undefined
    try {
      await withDeadline(
        'ready',
        { closed: this.#closed.signal, ...bounds, timeoutMs, lastError: () => this.lastError },
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
      // The error of `require` says more than that the time is over.
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
    const expiresAt = this.#current?.leaf.expiresAt.getTime()
    return expiresAt !== undefined && expiresAt > this.#options.clock.now()
  }

  #takeRoots(roots: Roots): void {
    if (this.#watch === undefined) this.#watch = this.#watchLeaf()
    // A leaf that came before its root was refused: it may be good now.
    else if (this.#watch.lastError !== undefined) this.#watch.restart()
    if (this.#current === undefined || this.#answer === undefined) return
    // The roots say whom to trust: they are in use at once, even if they leave our own certificate without a root.
    const next = { ...this.#current, roots, leaf: this.#underRoots(this.#current.leaf, this.#answer, roots) }
    this.#current = next
    this.#armExpiry(next.leaf.expiresAt)
    this.#options.prove(next).catch((error: unknown) => {
      this.emit('failed', toError(error))
    })
    this.emit('changed', next, 'roots')
  }

  /** The same leaf, with the end of its path under other roots. */
  #underRoots(leaf: Leaf, answer: LeafCertificate, roots: Roots): Leaf {
    try {
      return this.#check(answer, roots).leaf
    } catch (error) {
      this.emit('failed', toError(error))
      return leaf
    }
  }

  #watchLeaf(): Watch<LeafCertificate> {
    const { agent, service, clock, random } = this.#options
    return new Watch({
      name: `leaf of ${service}`,
      clock,
      random,
      slots: agent.blockingSlots,
      waitMs: agent.settings.waitMs,
      fetch: (query) => fetchLeaf(agent, service, query),
      onValue: (answer) => this.#takeLeaf(answer),
      onError: (error) => {
        this.emit('failed', error)
      },
    })
  }

  /** Takes a leaf into use once it is proved, against the roots of that moment. */
  async #takeLeaf(answer: LeafCertificate): Promise<void> {
    const { service, prove, tls } = this.#options
    for (;;) {
      const roots = this.#options.roots.current
      if (roots === undefined) {
        throw new IdentityError('ERR_CONNECT_ROOTS', 'there are no roots to verify a certificate against')
      }
      const next = { ...this.#check(answer, roots), roots, tls }
      try {
        await prove(next)
      } catch (cause) {
        const message = `the agent's certificate for ${service} cannot be used for TLS${withCause(cause)}`
        throw new IdentityError('ERR_CONNECT_LEAF_MALFORMED', message, { cause })
      }
      if (isAborted(this.#closed.signal)) return
      if (roots !== this.#options.roots.current) continue
      this.#install(answer, next)
      return
    }
  }

  #install(answer: LeafCertificate, next: Generation): void {
    const { service } = this.#options
    const isNew = this.#current?.leaf.chainPem !== next.leaf.chainPem
    this.#answer = answer
    this.#current = next
    const { serialNumber, expiresAt } = next.leaf
    log.identity('leaf of %s: serial %s, until %s', service, serialNumber, expiresAt.toISOString())
    this.#armExpiry(expiresAt)
    if (isNew) this.emit('changed', next, 'leaf')
  }

  #check(answer: LeafCertificate, roots: Roots): Credentials {
    const { agent, clock, service } = this.#options
    const { namespace, partition } = agent.settings
    return checkLeaf(answer, { service, namespace, partition }, roots, clock.now())
  }

  #armExpiry(expiresAt: Date): void {
    const { clock } = this.#options
    this.#cancelExpiry()
    this.#cancelExpiry = clock.after(expiresAt.getTime() - clock.now(), () => {
      // Timers and the wall clock may disagree: a clock that was set back gives the certificate more time.
      if (this.#isUsable()) this.#armExpiry(expiresAt)
      else this.#expire()
    })
  }

  #expire(): void {
    try {
      this.require()
    } catch (error) {
      this.emit('failed', error as IdentityError)
    }
    // The agent may hold the read that is open for minutes.
    this.#watch?.restart()
  }
}
