import type { Peer } from '../../identity/peer.js'

/** The header in which Envoy passes on the identity of a client. Any client can send it. */
export const CLIENT_CERT = 'x-forwarded-client-cert'

/**
 * Returns the value of the header for a verified peer, as Envoy writes it: our own URI, the SHA-256 of the certificate of
 * the peer, its empty subject, and its URI.
 */
export function clientCertHeader(ownUri: string, { fingerprint256, spiffeId }: Peer): string {
  const hash = fingerprint256.replaceAll(':', '').toLowerCase()
  return `By=${ownUri};Hash=${hash};Subject="";URI=${spiffeId}`
}
