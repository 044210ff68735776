import type { PeerCertificate } from 'node:tls'
import { VerificationError, toError } from '../errors.js'
import type { Generation } from '../identity/store.js'
import { type ExpectedIdentity, expectedAt, verifyExpected } from '../identity/verify.js'
import { type TlsMaterial, tlsMaterial } from './context.js'
import { identify } from './peer.js'

/** Options for `tls.createServer`, `https.createServer` and the like. */
export interface TlsServerOptions extends TlsMaterial {
  readonly requestCert: true
  readonly rejectUnauthorized: true
}

/** Options for `tls.connect`, `https.Agent`, undici's `connect` and the like. */
export interface TlsClientOptions extends TlsMaterial {
  readonly rejectUnauthorized: true
  readonly checkServerIdentity: (host: string, certificate: PeerCertificate) => Error | undefined
  /** For `https.Agent` and undici: a resumed session would skip `checkServerIdentity`. */
  readonly maxCachedSessions: 0
}

export function tlsServerOptions(generation: Generation): TlsServerOptions {
  return { ...tlsMaterial(generation), requestCert: true, rejectUnauthorized: true }
}

export function tlsClientOptions(generation: Generation, expected: ExpectedIdentity): TlsClientOptions {
  return {
    ...tlsMaterial(generation),
    rejectUnauthorized: true,
    maxCachedSessions: 0,
    checkServerIdentity: (_host, certificate) => {
      try {
        const peer = identify(certificate, generation.roots.trustDomain)
        verifyExpected(peer, expectedAt(generation.leaf.id, expected))
        return undefined
      } catch (thrown) {
        // Whatever goes wrong in here must refuse, and not escape into the TLS stack.
        const cause = toError(thrown)
        return cause instanceof VerificationError
          ? cause
          : new VerificationError(
              'ERR_CONNECT_PEER_IDENTITY',
              expected.service,
              'an unreadable certificate',
              { cause },
            )
      }
    },
  }
}
