import { X509Certificate } from 'node:crypto'
import { BoundedMap } from '../base/bounded-map.js'
import { CLIENT_AUTH, SERVER_AUTH } from '../identity/certificate.js'
import { parsePemCertificates, verifyPath } from '../identity/path.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/identity-store.js'
import type { Peer } from '../identity/peer.js'
import type { Chain } from './verify-peer.js'

const MAX_CACHED = 4096

const checks = new WeakMap<Roots, RootsCheck>()

/** The certificate path by which the identity of a peer was verified. */
export interface PeerPath {
  readonly side: 'inbound' | 'outbound'
  readonly peer: Peer
  readonly chain: Chain
}

/**
 * Verifies the certificates of existing connections against other roots than those of their handshake. Results are
 * cached by certificate, since connections of one peer share it.
 */
export class RootsCheck {
  readonly #roots: Roots
  /** By certificate, in milliseconds since the Unix epoch; 0 without a path to the roots. */
  readonly #expiries = new BoundedMap<string, number>(MAX_CACHED)

  private constructor(roots: Roots) {
    this.#roots = roots
  }

  static under(roots: Roots): RootsCheck {
    const check = checks.get(roots) ?? new RootsCheck(roots)
    checks.set(roots, check)
    return check
  }

  /** Returns when the path of the peer expires, in milliseconds since the Unix epoch; 0 without a path to the roots. */
  peerExpiry({ peer, chain, side }: PeerPath, now: number): number {
    if (peer.trustDomain !== this.#roots.trustDomain) return 0
    const purpose = side === 'inbound' ? CLIENT_AUTH : SERVER_AUTH
    return this.#expiry(`${side} ${peer.fingerprint256}`, now, [purpose], () =>
      chain.map((der) => new X509Certificate(der)),
    )
  }

  /** Returns when our own path expires, in milliseconds since the Unix epoch; 0 without a path to the roots. */
  ownExpiry({ leaf }: Generation, now: number): number {
    if (leaf.id.trustDomain !== this.#roots.trustDomain) return 0
    return this.#expiry(leaf.chainPem, now, [CLIENT_AUTH, SERVER_AUTH], () =>
      parsePemCertificates(leaf.chainPem),
    )
  }

  #expiry(
    key: string,
    now: number,
    purposes: readonly string[],
    chain: () => readonly X509Certificate[],
  ): number {
    const known = this.#expiries.get(key)
    // Another path may be valid after this one has expired.
    if (known !== undefined && (known === 0 || known > now)) return known
    const expiry = pathExpiry(chain(), this.#roots, now, purposes)
    this.#expiries.set(key, expiry)
    return expiry
  }
}

function pathExpiry(
  chain: readonly X509Certificate[],
  { certificates }: Roots,
  now: number,
  purposes: readonly string[],
): number {
  try {
    return verifyPath(chain, certificates, now, purposes)
  } catch {
    return 0
  }
}
