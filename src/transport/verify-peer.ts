import { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { BoundedMap } from '../base/bounded-map.js'
import { VerificationError } from '../base/errors.js'
import { parseCertificate } from '../identity/certificate.js'
import type { Peer } from '../identity/peer.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/identity-store.js'
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

/** The contents of a certificate. Path, dates, and trust domain are verified again for every connection. */
interface Facts extends CertifiedId, Pick<Peer, 'serialNumber'> {
  readonly notAfter: number
}

interface Known {
  readonly facts: Facts
  /** The roots that OpenSSL verified the chain against. */
  readonly roots: Roots
  readonly chain: Chain
}

/** By fingerprint, so that a certificate is parsed only once. */
const cache = new BoundedMap<string, Known>(MAX_CACHED)

/** A leaf and its issuers in DER, as far as Node.js found them among the presented certificates and the roots. */
export type Chain = readonly Buffer[]

/** A peer whose handshake is over, and the certificates that prove its identity. */
export interface VerifiedPeer {
  readonly peer: Peer
  readonly chain: Chain
}

/** A certificate as `tls.TLSSocket.getPeerCertificate()` returns it, reduced to the properties that are read here. */
export interface PresentedCertificate {
  readonly raw: Buffer
  readonly fingerprint256: string
  readonly issuerCertificate?: PresentedCertificate | undefined
}

/**
 * Verifies the identity of the peer after a handshake.
 * @throws VerificationError or SpiffeIdError, with a code for each rule
 */
export function verifySocket(socket: TLSSocket, roots: Roots): VerifiedPeer {
  // Not getPeerX509Certificate(): it leaks about 5 KB per call on Node.js 20 and 22.
  const leaf = presented(socket.getPeerCertificate())
  expectVerified(socket)
  // Reading the issuers as well costs 0.1 ms (Node.js 24) to 0.4 ms (Node.js 20).
  const isKnown = cache.get(leaf.fingerprint256)?.roots === roots
  return identify(isKnown ? leaf : presented(socket.getPeerCertificate(true)), roots)
}

/** Without a certificate, Node.js returns an empty object, or null once the socket is closed. */
function presented(certificate: Partial<PresentedCertificate> | null): PresentedCertificate {
  const { raw, fingerprint256, issuerCertificate } = certificate ?? {}
  if (raw === undefined || fingerprint256 === undefined) {
    throw new VerificationError('ERR_CONNECT_CERTIFICATE_MISSING', 'a certificate of the mesh', 'none')
  }
  return { raw, fingerprint256, issuerCertificate }
}

/**
 * Ensures that OpenSSL verified the certificate path of the peer in this handshake.
 * @throws VerificationError
 */
export function expectVerified(socket: TLSSocket): void {
  // The path was verified in another handshake, possibly against other roots.
  if (socket.isSessionReused()) {
    throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'a resumed session')
  }
  if (!socket.authorized) throw pathError(socket) ?? untrusted(undefined)
}

/** Returns the error of OpenSSL about the certificate path of the peer, which Node.js keeps on the socket. */
export function pathError(socket: TLSSocket): VerificationError | undefined {
  // An Error on clients, a code on servers, and null without an error; the types of Node.js say only Error.
  const verdict = socket.authorizationError as Error | string | null | undefined
  if (verdict === null || verdict === undefined) return undefined
  return untrusted(typeof verdict === 'string' ? new Error(verdict) : verdict)
}

function untrusted(cause: Error | undefined): VerificationError {
  return new VerificationError('ERR_CONNECT_PEER_UNTRUSTED', 'a path to the roots of the mesh', 'none', {
    cause,
  })
}

/** The certificate path of the peer leads to a root that was withdrawn during the handshake. */
export function withdrawnRoot(): VerificationError {
  return untrusted(new Error('its CA root has been withdrawn'))
}

/**
 * Reads the identity from a certificate whose path OpenSSL verified against `roots`.
 * @throws VerificationError or SpiffeIdError
 */
export function identify(certificate: PresentedCertificate, roots: Roots): VerifiedPeer {
  const { fingerprint256 } = certificate
  const { facts, chain } = recall(certificate, roots)
  const { kind, ...id } = verifyMember(facts, roots.trustDomain)
  const { uri, serialNumber, notAfter } = facts
  // A Date is mutable: each peer has its own.
  const peer = { spiffeId: uri, ...id, serialNumber, fingerprint256, notAfter: new Date(notAfter) }
  return { peer: Object.freeze(peer), chain }
}

/**
 * Reads the identity from a verified certificate, and compares it with the expected one.
 * @throws VerificationError or SpiffeIdError
 */
export function identifyAs(
  certificate: PresentedCertificate,
  own: Generation,
  expected: ExpectedIdentity,
): VerifiedPeer {
  const verified = identify(certificate, own.roots)
  verifyExpected(verified.peer, expectedAt(own.leaf.id, expected))
  return verified
}

/** Returns the cached facts of a certificate. The chain is read again if it was verified against other roots. */
function recall(certificate: PresentedCertificate, roots: Roots): Known {
  const { fingerprint256, raw } = certificate
  const known = cache.get(fingerprint256)
  if (known?.roots === roots) return known
  const latest = { facts: known?.facts ?? parseFacts(raw), roots, chain: chainOf(certificate) }
  cache.set(fingerprint256, latest)
  return latest
}

function parseFacts(der: Buffer): Facts {
  const facts = parseCertificate(der)
  const notAfter = Date.parse(new X509Certificate(der).validTo)
  return { ...verifyLeaf(facts), serialNumber: facts.serialNumber, notAfter }
}

/** @throws VerificationError when the chain has more than `MAX_CHAIN` certificates */
function chainOf(leaf: PresentedCertificate): Chain {
  const chain = [leaf.raw]
  // A self-signed certificate is its own issuer in Node.js.
  for (
    let current = leaf;
    current.issuerCertificate !== undefined && current.issuerCertificate.raw !== current.raw;
  ) {
    current = current.issuerCertificate
    chain.push(current.raw)
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

// A property and not a WeakMap, because the HTTP/2 sockets of Node.js are proxies of the real socket; a registered
// symbol, so that two installed copies of this package agree.
const PEER = Symbol.for('consul-connect.peer')

/** Makes `peer(socket)` and `socket.peer` return this peer. */
export function attachPeer<T extends object>(socket: T, peer: Peer): T & { readonly peer: Peer } {
  const property = { value: peer, enumerable: false }
  Object.defineProperties(socket, { [PEER]: property, peer: property })
  return socket as T & { readonly peer: Peer }
}

/**
 * Returns the verified peer of a socket of `dial`, `listen`, or `serve`, such as `request.socket`; undefined for any
 * other socket.
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
