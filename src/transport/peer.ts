import type { X509Certificate } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { VerificationError, toError } from '../errors.js'
import { parseCertificate } from '../identity/certificate.js'
import type { Peer } from '../identity/peer.js'
import type { Roots } from '../identity/roots.js'
import { type CertifiedId, verifyLeaf, verifyMember } from '../identity/verify.js'

/** SPIFFE sets no limit; more than these is nobody's mesh. */
const MAX_CHAIN = 16
const MAX_CACHED = 4096

// Facts by fingerprint, so that a certificate seen before costs no parsing. Only what the bytes say is kept, never
// a decision: path, dates and trust domain are judged on every connection.
const cache = new Map<string, CertifiedId & Pick<Peer, 'serialNumber' | 'notAfter'>>()

/**
 * The identity step on a finished handshake: the peer of `socket`, verified against `roots`.
 * @throws VerificationError or SpiffeIdError, with a code for each rule
 */
export function verifySocket(socket: TLSSocket, roots: Roots): Peer {
  const certificate = socket.getPeerX509Certificate()
  if (certificate === undefined) {
    throw new VerificationError('ERR_CONNECT_CERTIFICATE_MISSING', 'a certificate of the mesh', 'none')
  }
  // Its path was judged at some other time, by some other rules.
  if (socket.isSessionReused())
    throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'a resumed session')
  if (!socket.authorized) {
    const cause = toError(socket.authorizationError)
    throw new VerificationError('ERR_CONNECT_PEER_UNTRUSTED', 'a path to the roots of the mesh', 'none', {
      cause,
    })
  }
  countChain(certificate)
  return identify(certificate, roots.trustDomain)
}

/**
 * The identity in a certificate whose path has been verified.
 * @throws VerificationError or SpiffeIdError
 */
export function identify(certificate: X509Certificate, trustDomain: string): Peer {
  const { fingerprint256 } = certificate
  let known = cache.get(fingerprint256)
  if (known === undefined) {
    const facts = parseCertificate(certificate.raw)
    const { serialNumber } = facts
    known = { ...verifyLeaf(facts), serialNumber, notAfter: new Date(certificate.validTo) }
    // The oldest goes first; a map keeps the order of insertion.
    const oldest = cache.size >= MAX_CACHED ? cache.keys().next() : undefined
    if (oldest?.done === false) cache.delete(oldest.value)
    cache.set(fingerprint256, known)
  }
  const { kind: _, ...id } = verifyMember(known, trustDomain)
  return {
    spiffeId: known.uri,
    ...id,
    serialNumber: known.serialNumber,
    fingerprint256,
    notAfter: known.notAfter,
  }
}

function countChain(leaf: X509Certificate): void {
  let length = 1
  // A self-signed certificate is its own issuer in some versions of Node.
  for (let next = leaf.issuerCertificate; next !== undefined; next = next.issuerCertificate) {
    length += 1
    if (length > MAX_CHAIN) {
      throw new VerificationError(
        'ERR_CONNECT_CERTIFICATE_CHAIN',
        `at most ${MAX_CHAIN} certificates`,
        'more',
      )
    }
  }
}

// A registered symbol, and a property rather than a map: Node's HTTP/2 sockets are proxies of the real one, and two
// installed copies of this package should agree.
const PEER = Symbol.for('consul-connect.peer')

export function attachPeer<T extends Duplex>(socket: T, peer: Peer): T & { readonly peer: Peer } {
  const property = { value: Object.freeze(peer), enumerable: false }
  return Object.defineProperties(socket, { [PEER]: property, peer: property }) as T & { readonly peer: Peer }
}

/**
 * The verified peer of a socket that came from `dial`, `listen` or `serve`: for instance `peer(request.socket)`.
 * Undefined for any other socket.
 */
export function peer(socket: object | null | undefined): Peer | undefined {
  return (socket as { [PEER]?: Peer } | null | undefined)?.[PEER]
}
