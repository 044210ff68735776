import { X509Certificate } from 'node:crypto'
import { chainsTo, parseChain } from '../identity/path.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/store.js'
import { onceDestroyed } from './open-sockets.js'
import { type PresentedCertificate, chainOf } from './peer.js'
import type { MeshSocket } from './socket.js'

/** What a dialled connection was made with, for whoever keeps it to use it again. */
interface Standing {
  readonly generation: Generation
  readonly presented: Presented
}

/** A peer's certificate, which brings with it those that came along; many connections share one. */
interface Presented {
  readonly certificate: PresentedCertificate
  connections: number
}

const standings = new WeakMap<MeshSocket, Standing>()
/** Those of the connections that are open, by their fingerprint. */
const open = new Map<string, Presented>()

/**
 * Keeps what a connection stands on for as long as it is open. The certificate is what Node gave during the handshake: it
 * takes it off the chain, and gives the next one when it is asked again.
 */
export function rememberStanding(
  socket: MeshSocket,
  generation: Generation,
  certificate: PresentedCertificate,
): void {
  const { fingerprint256 } = certificate
  const presented = open.get(fingerprint256) ?? { certificate, connections: 0 }
  open.set(fingerprint256, presented)
  presented.connections += 1
  standings.set(socket, { generation, presented })
  onceDestroyed(socket, () => {
    presented.connections -= 1
    if (presented.connections === 0) open.delete(fingerprint256)
  })
}

/** When the first of the two certificates of a dialled connection expires, in milliseconds since the Unix epoch. */
export function expiresAt(socket: MeshSocket): number {
  const own = standings.get(socket)?.generation.leaf.notAfter.getTime() ?? -Infinity
  return Math.min(own, socket.peer.notAfter.getTime())
}

/** The roots that a dialled connection was verified against. */
export function rootsOf(socket: MeshSocket): Roots | undefined {
  return standings.get(socket)?.generation.roots
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
    const { generation, presented } = standing
    const { leaf } = generation
    return (
      leaf.id.trustDomain === this.#roots.trustDomain &&
      this.#leads(leaf.chainPem, () => parseChain(leaf.chainPem)) &&
      this.#leads(presented.certificate.fingerprint256, () =>
        chainOf(presented.certificate).map(({ raw }) => new X509Certificate(raw)),
      )
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
