import type { PeerCertificate } from 'node:tls'
import { IdentityError, toError } from '../base/errors.js'
import type { Generation } from '../identity/identity-store.js'
import { serverName } from '../identity/server-name.js'
import { type ExpectedIdentity, expectedAt } from '../identity/verify.js'
import { type TlsMaterial, tlsMaterial } from './tls-context.js'
import { identifyAs } from './verify-peer.js'

/** Options for `tls.createServer` and `https.createServer`. */
export interface TlsServerOptions extends TlsMaterial {
  readonly requestCert: true
  readonly rejectUnauthorized: true
}

/** Options for `tls.connect`, `https.Agent`, and the `connect` option of undici. */
export interface TlsClientOptions extends TlsMaterial {
  readonly rejectUnauthorized: true
  /** By which gateways route. */
  readonly servername?: string
  readonly checkServerIdentity: (host: string, certificate: PeerCertificate) => Error | undefined
  /** Disables session reuse of `https.Agent` and undici: a resumed session skips `checkServerIdentity`. */
  readonly maxCachedSessions: 0
}

/** @throws IdentityError with ERR_CONNECT_ROOTS when none of the roots is self-signed */
export function tlsServerOptions(generation: Generation): TlsServerOptions {
  // tls.createServer() and setSecureContext() ignore allowPartialTrustChain, so that every peer would be rejected.
  if (!generation.roots.certificates.some((root) => root.checkIssued(root))) {
    throw new IdentityError(
      'ERR_CONNECT_ROOTS',
      'tlsServerOptions: none of the CA roots is self-signed; use listen() or serve(), or add the CA above them to the roots',
    )
  }
  return { ...tlsMaterial(generation), requestCert: true, rejectUnauthorized: true }
}

export function tlsClientOptions(generation: Generation, expected: ExpectedIdentity): TlsClientOptions {
  const { leaf, roots } = generation
  const servername = serverName(expectedAt(leaf.id, expected), roots.trustDomain)
  return {
    ...tlsMaterial(generation),
    ...(servername !== undefined && { servername }),
    rejectUnauthorized: true,
    maxCachedSessions: 0,
    checkServerIdentity: (_host, certificate) => {
      try {
        identifyAs(certificate, generation, expected)
        return undefined
      } catch (error) {
        // An exception must reject the peer and not escape into the TLS stack.
        return toError(error)
      }
    },
  }
}
