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

/** TLS settings of the application. */
export interface TlsSettings {
  /** Groups for the key exchange, in the format of node:tls. */
  readonly ecdhCurve: string
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
}

/**
 * Everything that a TLS connection needs: leaf, private key, CA roots, and TLS settings. A rotation makes a new one.
 */
export interface Generation {
  readonly leaf: Leaf
  readonly privateKeyPem: string
  readonly roots: Roots
  readonly tls: TlsSettings
}

interface IdentityEvents {
  /** A new leaf or new roots are in use. */
  changed: [generation: Generation, what: 'leaf' | 'roots']
  /** A leaf or roots were rejected or could not be read. The last good generation stays in use. */
  failed: [error: Error]
}

export interface IdentityOptions {
  readonly agent: AgentClient
  readonly roots: RootsStore
  readonly service: string
  readonly tls: TlsSettings
  /** Rejects a generation that OpenSSL cannot use. */
  readonly testHandshake: (generation: Generation) => Promise<void>
  readonly clock: Clock
  readonly random: () => number
}

/** How long to wait for an agent to renew an expired certificate. */
const RENEWAL_MS = 1_000

/** Keeps the last good generation of one service: its leaf, and the roots of the mesh. */
export class IdentityStore extends EventEmitter<IdentityEvents> {
  readonly #options: IdentityOptions
  readonly #closed = new AbortController()
  readonly #onRoots: (roots: Roots) => void
  #watch: Watch<LeafCertificate> | undefined
  /** The response of the agent with the current leaf. */
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
    // A leaf cannot be verified without roots, so that its watch starts after theirs.
    if (options.roots.current !== undefined) this.#takeRoots(options.roots.current)
  }

  /** The name of the service. */
  get service(): string {
    return this.#options.service
  }

  /** The last good generation, even if expired. */
  get current(): Generation | undefined {
    return this.#current
  }

  /** The error of the last read of the leaf or the roots; undefined if both succeeded. */
  get lastError(): Error | undefined {
    return this.#watch?.lastError ?? this.#options.roots.lastError
  }

  /**
   * Returns the generation for a new connection.
   * @throws IdentityError when there is none yet, or when its certificate has expired
   */
  require(): Generation {
    const { service } = this.#options
    const current = this.#current
    const cause = this.lastError
    if (current === undefined) {
      const message = `${service}: no certificate yet${withCause(cause)}`
      throw new IdentityError('ERR_CONNECT_NOT_READY', message, { cause })
    }
    if (!this.#isUsable()) {
      const message = `certificate of ${service}: expired at ${current.leaf.expiresAt.toISOString()}, and the agent has not issued a new one`
      throw new IdentityError('ERR_CONNECT_LEAF_EXPIRED', message + withCause(cause), { cause })
    }
    return current
  }

  /**
   * Waits for a usable generation. If the certificate has expired, waits at most a second for the agent to renew it.
   * @throws IdentityError (the cause is the last error of the agent) after the timeout, AbortError, ClosedError
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
      // require() throws a more specific error than a timeout.
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
    // A leaf that arrived before its root was rejected, and may be valid now.
    else if (this.#watch.lastError !== undefined) this.#watch.restart()
    if (this.#current === undefined || this.#answer === undefined) return
    // Use new roots at once, even if our own certificate has no path to them: they decide which peers are trusted.
    const next = { ...this.#current, roots, leaf: this.#underRoots(this.#current.leaf, this.#answer, roots) }
    this.#current = next
    this.#armExpiry(next.leaf.expiresAt)
    this.#options.testHandshake(next).catch((error: unknown) => {
      this.emit('failed', toError(error))
    })
    this.emit('changed', next, 'roots')
  }

  /** Returns the leaf with the expiry of its path under other roots. */
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

  /** Verifies a leaf against the current roots, tests it by a handshake, and uses it. */
  async #takeLeaf(answer: LeafCertificate): Promise<void> {
    const { service, testHandshake, tls } = this.#options
    for (;;) {
      const roots = this.#options.roots.current
      if (roots === undefined) {
        throw new IdentityError('ERR_CONNECT_ROOTS', 'no CA roots to verify the certificate against')
      }
      const next = { ...this.#check(answer, roots), roots, tls }
      try {
        await testHandshake(next)
      } catch (cause) {
        const message = `certificate of ${service}: cannot be used for TLS${withCause(cause)}`
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
      // The wall clock may have been set back, so that the certificate is valid for longer.
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
    // The agent may hold the pending read for minutes.
    this.#watch?.restart()
  }
}
