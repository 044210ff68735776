import type { X509Certificate } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type CaRoots, fetchRoots } from '../agent/endpoints/roots.js'
import { Watch } from '../agent/watch.js'
import type { Clock } from '../base/clock.js'
import { IdentityError, withCause } from '../base/errors.js'
import { log } from '../base/log.js'
import { parsePemCertificates } from './path.js'
import { isTrustDomain } from './spiffe.js'

/** The CA roots of the mesh and its trust domain. */
export interface Roots {
  readonly trustDomain: string
  /**
   * The trust anchors. There are several during a rotation, or if a root is a bundle of PEM certificates. They need not
   * be self-signed.
   */
  readonly certificates: readonly X509Certificate[]
  /** The same certificates, each as PEM. */
  readonly pems: readonly string[]
  readonly activeRootId: string
}

interface RootsEvents {
  changed: [roots: Roots]
  failed: [error: Error]
}

/** Keeps the last good CA roots of one agent, for all services that use it. */
export class RootsStore extends EventEmitter<RootsEvents> {
  readonly #watch: Watch<CaRoots>
  #current: Roots | undefined

  constructor(agent: AgentClient, time: { clock: Clock; random: () => number }) {
    super()
    this.#watch = new Watch({
      name: 'roots',
      ...time,
      slots: agent.blockingSlots,
      waitMs: agent.settings.waitMs,
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

  /** The error of the last read; undefined if it succeeded. */
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
    // Connections depend on the certificates only, and not on which root is active.
    if (before?.trustDomain === roots.trustDomain && isDeepStrictEqual(before.pems, roots.pems)) return
    this.emit('changed', roots)
  }
}

/**
 * Validates the CA roots of an agent. One invalid root rejects the whole set.
 *
 * A `RootCert` may contain several certificates, which is how Consul (1.9 and later) is given an external CA above its
 * own. All of them are trust anchors, as for Consul's own proxies.
 * @throws IdentityError with ERR_CONNECT_ROOTS
 */
export function checkRoots(answer: CaRoots): Roots {
  const { trustDomain, activeRootId, roots } = answer
  const fail = (problem: string, cause?: unknown): IdentityError =>
    new IdentityError('ERR_CONNECT_ROOTS', problem + withCause(cause), { cause })
  if (!isTrustDomain(trustDomain)) {
    throw fail(`agent returned an invalid trust domain: ${JSON.stringify(trustDomain.slice(0, 256))}`)
  }
  // `ca: undefined` and `ca: []` would make Node.js trust the public web PKI.
  if (roots.length === 0) throw fail('agent returned no CA roots; is Connect enabled on the servers?')
  const certificates = roots.flatMap(({ id, certificatePem }) => {
    let bundle: X509Certificate[]
    try {
      bundle = parsePemCertificates(certificatePem)
    } catch (cause) {
      throw fail(`CA root ${id} cannot be parsed`, cause)
    }
    if (bundle.length === 0) throw fail(`CA root ${id} is not a PEM certificate`)
    if (!bundle.every(({ ca }) => ca)) throw fail(`CA root ${id} is not a CA certificate`)
    return bundle
  })
  // Two roots of a rotation may share an external CA.
  const anchors = [...new Map(certificates.map((each) => [each.fingerprint256, each])).values()]
  return { trustDomain, certificates: anchors, pems: anchors.map(String), activeRootId }
}
