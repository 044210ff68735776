import { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { BoundedMap } from '../base/bounded-map.js'
import { VerificationError } from '../errors.js'
import { parseCertificate } from '../identity/certificate.js'
import type { Peer } from '../identity/peer.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/store.js'
import {
  type CertifiedId,
  type ExpectedIdentity,
  expectedAt,
  verifyExpected,
  verifyLeaf,
  verifyMember,
} from '../identity/verify.js'

/** Upper bound on the length of a chain; SPIFFE defines none. */
const MAX_CHAIN = 16
const MAX_CACHED = 4096

// Facts by fingerprint, so that a certificate seen before costs no parsing. Only what the bytes say is kept, never
// a decision: path, dates and trust domain are judged on every connection.
type Known = CertifiedId & Pick<Peer, 'serialNumber'> & { readonly notAfter: number }
const cache = new BoundedMap<string, Known>(MAX_CACHED)

/** A certificate as `tls.TLSSocket.getPeerCertificate(true)` returns it, as far as it is needed here. */
export interface PresentedCertificate {
  readonly raw: Buffer
  readonly fingerprint256: string
  readonly issuerCertificate?: PresentedCertificate | undefined
}

/**
 * The identity step on a finished handshake: the peer of `socket`, verified against `roots`, and its certificate.
 * @throws VerificationError or SpiffeIdError, with a code for each rule
 */
export function verifySocket(
  socket: TLSSocket,
  roots: Roots,
): { readonly peer: Peer; readonly certificate: PresentedCertificate } {
  // Not getPeerX509Certificate(): it leaks about 5 KB per call on Node.js 20 and 22. Without a certificate Node.js
  // returns an empty object, or null once the socket is closed.
  const certificate = socket.getPeerCertificate(true) as Partial<PresentedCertificate> | null
  if (!isPresented(certificate)) {
    throw new VerificationError('ERR_CONNECT_CERTIFICATE_MISSING', 'a certificate of the mesh', 'none')
  }
  expectVerified(socket)
  return { peer: identify(certificate, roots.trustDomain), certificate }
}

function isPresented(certificate: Partial<PresentedCertificate> | null): certificate is PresentedCertificate {
  return certificate?.raw !== undefined
}

/**
 * That OpenSSL verified the peer's path in this very handshake.
 * @throws VerificationError
 */
export function expectVerified(socket: TLSSocket): void {
  // Its path was judged at some other time, by some other rules.
  if (socket.isSessionReused()) {
    throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'a resumed session')
  }
  if (!socket.authorized) throw pathError(socket) ?? untrusted(undefined)
}

/** OpenSSL's verdict over the peer's path, when the handshake ended in one; Node keeps it on the socket. */
export function pathError(socket: TLSSocket): VerificationError | undefined {
  // An error on the client's side, its code on the server's, and null where there was none; the types say only Error.
  const verdict = socket.authorizationError as Error | string | null | undefined
  if (verdict === null || verdict === undefined) return undefined
  return untrusted(typeof verdict === 'string' ? new Error(verdict) : verdict)
}

function untrusted(cause: Error | undefined): VerificationError {
  return new VerificationError('ERR_CONNECT_PEER_UNTRUSTED', 'a path to the roots of the mesh', 'none', {
    cause,
  })
}

/** The roots have changed since the handshake began, and the peer's path leads to none of the new ones. */
export function withdrawnRoot(): VerificationError {
  return untrusted(new Error('its CA root has been withdrawn'))
}

/**
 * The identity in a certificate whose path has been verified, with the chain as it was presented.
 * @throws VerificationError or SpiffeIdError
 */
export function identify(certificate: PresentedCertificate, trustDomain: string): Peer {
  chainOf(certificate)
  const { fingerprint256 } = certificate
  const known = cache.get(fingerprint256) ?? remember(certificate)
  const { kind, ...id } = verifyMember(known, trustDomain)
  const { serialNumber, notAfter } = known
  // A date can be changed by whoever gets it: each gets its own.
  const notAfterDate = new Date(notAfter)
  return Object.freeze({ spiffeId: known.uri, ...id, serialNumber, fingerprint256, notAfter: notAfterDate })
}

/**
 * The same, and that it is who was expected.
 * @throws VerificationError or SpiffeIdError
 */
export function identifyAs(
  certificate: PresentedCertificate,
  own: Generation,
  expected: ExpectedIdentity,
): Peer {
  const peer = identify(certificate, own.roots.trustDomain)
  verifyExpected(peer, expectedAt(own.leaf.id, expected))
  return peer
}

function remember(certificate: PresentedCertificate): Known {
  const facts = parseCertificate(certificate.raw)
  const notAfter = Date.parse(new X509Certificate(certificate.raw).validTo)
  const known = { ...verifyLeaf(facts), serialNumber: facts.serialNumber, notAfter }
  cache.set(certificate.fingerprint256, known)
  return known
}

/**
 * A certificate and the issuers that Node.js found for it, among those that the peer presented and our roots.
 * @throws VerificationError when there are too many
 */
export function chainOf(leaf: PresentedCertificate): readonly PresentedCertificate[] {
  const chain = [leaf]
  // In Node.js a self-signed certificate is its own issuer.
  for (
    let current = leaf;
    current.issuerCertificate !== undefined && current.issuerCertificate !== current;
  ) {
    current = current.issuerCertificate
    chain.push(current)
    if (chain.length > MAX_CHAIN) {
      throw new VerificationError(
        'ERR_CONNECT_CERTIFICATE_CHAIN',
        `at most ${MAX_CHAIN} certificates`,
        'more',
      )
    }
  }
  return chain
}

// A registered symbol, and a property rather than a map: Node's HTTP/2 sockets are proxies of the real one, and two
// installed copies of this package should agree.
const PEER = Symbol.for('consul-connect.peer')

export function attachPeer<T extends object>(socket: T, peer: Peer): T & { readonly peer: Peer } {
  const property = { value: peer, enumerable: false }
  Object.defineProperties(socket, { [PEER]: property, peer: property })
  return socket as T & { readonly peer: Peer }
}

/**
 * The verified peer of a socket that came from `dial`, `listen` or `serve`: for instance `peer(request.socket)`.
 * Undefined for any other socket.
 * @example
 * ```ts
 * http.createServer((request, response) => {
 *   response.end(connect.peer(request.socket)?.spiffeId ?? 'not of the mesh')
 * })
 * ```
 */
export function peer(socket: object | null | undefined): Peer | undefined {
  return (socket as { [PEER]?: Peer } | null | undefined)?.[PEER]
}
