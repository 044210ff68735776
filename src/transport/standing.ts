import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { chainsTo, parseChain } from '../identity/path.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/store.js'
import type { MeshSocket } from './socket.js'

/** What a dialled connection was made with, for whoever keeps it to use it again. */
interface Standing {
  readonly socket: TLSSocket
  readonly generation: Generation
}

const standings = new WeakMap<MeshSocket, Standing>()

export function rememberStanding(socket: TLSSocket & MeshSocket, generation: Generation): void {
  standings.set(socket, { socket, generation })
}

/** When the first of the two certificates of a dialled connection expires, in milliseconds since the Unix epoch. */
export function expiresAt(socket: MeshSocket): number {
  const own = standings.get(socket)?.generation.leaf.notAfter.getTime() ?? -Infinity
  return Math.min(own, socket.peer.notAfter.getTime())
}

/** Answers whether dialled connections would be made again, under the roots that hold now. */
export class Acceptance {
  readonly #roots: Roots
  readonly #now: number
  // Many connections share a certificate.
  readonly #known = new Map<string, boolean>()

  constructor(roots: Roots, now: number) {
    this.#roots = roots
    this.#now = now
  }

  /** Whether the certificates of both its ends lead to the roots. */
  has(socket: MeshSocket): boolean {
    const standing = standings.get(socket)
    if (standing === undefined || socket.destroyed) return false
    const { leaf } = standing.generation
    return (
      leaf.id.trustDomain === this.#roots.trustDomain &&
      this.#leads(leaf.serialNumber, () => parseChain(leaf.chainPem)) &&
      this.#leads(socket.peer.fingerprint256, () => presentedBy(standing.socket))
    )
  }

  #leads(key: string, chain: () => X509Certificate[]): boolean {
    const known = this.#known.get(key)
    if (known !== undefined) return known
    const [leaf, ...intermediates] = chain()
    const leads = leaf !== undefined && chainsTo(leaf, intermediates, this.#roots.certificates, this.#now)
    this.#known.set(key, leads)
    return leads
  }
}

/** A peer's certificate and those that came with it; Node bounds their number as OpenSSL does. */
function presentedBy(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = []
  let current = socket.getPeerX509Certificate()
  while (current !== undefined && !chain.includes(current)) {
    chain.push(current)
    current = current.issuerCertificate
  }
  return chain
}
