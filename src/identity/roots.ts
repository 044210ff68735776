import { X509Certificate } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type CaRoots, fetchRoots } from '../agent/roots.js'
import { Watch } from '../agent/watch.js'
import type { Clock } from '../clock.js'
import { IdentityError, because } from '../errors.js'
import { log } from '../log.js'
import { isTrustDomain } from './spiffe.js'

/** The mesh's roots: one trust domain and the certificates that may sign for it. */
export interface Roots {
  readonly trustDomain: string
  /** During a rotation there are two or more. */
  readonly certificates: readonly X509Certificate[]
  /** The same, each as PEM. */
  readonly pems: readonly string[]
  readonly activeRootId: string
}

interface RootsEvents {
  changed: [roots: Roots]
  failed: [error: Error]
}

/** The last good roots of one agent, kept fresh by one watch however many services use them. */
export class RootsStore extends EventEmitter<RootsEvents> {
  readonly #watch: Watch<CaRoots>
  #current: Roots | undefined

  constructor(agent: AgentClient, time: { clock: Clock; random: () => number }) {
    super()
    this.#watch = new Watch({
      name: 'roots',
      ...time,
      slots: agent.blockingSlots,
      fetch: (query) => fetchRoots(agent, query),
      onValue: (value) => {
        this.#replace(checkRoots(value))
      },
      onError: (error) => {
        this.emit('failed', error)
      },
    })
  }

  get current(): Roots | undefined {
    return this.#current
  }

  /** Why there are no newer roots; undefined while all is well. */
  get lastError(): Error | undefined {
    return this.#watch.lastError
  }

  close(): void {
    this.#watch.close()
    this.removeAllListeners()
  }

  #replace(roots: Roots): void {
    log.identity('roots of %s: %d, active %s', roots.trustDomain, roots.pems.length, roots.activeRootId)
    const before = this.#current
    this.#current = roots
    // Connections depend on the certificates alone; which of them signs now is for people.
    if (before?.trustDomain === roots.trustDomain && isDeepStrictEqual(before.pems, roots.pems)) return
    this.emit('changed', roots)
  }
}

/**
 * Roots as the agent gives them, checked. One bad root spoils all: a set is taken as it is or not at all.
 * @throws IdentityError with ERR_CONNECT_ROOTS
 */
export function checkRoots(given: CaRoots): Roots {
  if (!isTrustDomain(given.trustDomain)) {
    throw new IdentityError(
      'ERR_CONNECT_ROOTS',
      `the agent names the trust domain ${JSON.stringify(given.trustDomain)}, which is none`,
    )
  }
  // Nobody to trust is not a state to be in: without it, TLS would fall back to the system's roots.
  if (given.roots.length === 0)
    throw new IdentityError('ERR_CONNECT_ROOTS', 'the agent gave an empty list of roots')
  const certificates = given.roots.map((root) => {
    const certificate = parseRoot(root.id, root.certificatePem)
    if (!certificate.ca)
      throw new IdentityError('ERR_CONNECT_ROOTS', `the root ${root.id} is not a CA certificate`)
    return certificate
  })
  return {
    trustDomain: given.trustDomain,
    certificates,
    pems: certificates.map((certificate) => certificate.toString()),
    activeRootId: given.activeRootId,
  }
}

function parseRoot(id: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem)
  } catch (cause) {
    throw new IdentityError('ERR_CONNECT_ROOTS', `the root ${id} is not a PEM certificate${because(cause)}`, {
      cause,
    })
  }
}
