import { constants } from 'node:crypto'
import { type SecureContext, type SecureContextOptions, createSecureContext } from 'node:tls'
import { secretPem } from '../base/secret-pem.js'
import type { Generation } from '../identity/identity-store.js'

/**
 * AES-128 comes first because it is 5 % faster than AES-256 over a whole connection. RSA suites are for CA providers
 * that issue RSA leaves.
 *
 * `@SECLEVEL=2` requires 112 bits of security for keys, certificates, and groups. Without it, Node.js 20 and 22 accept
 * RSA keys of 1024 bits, and a weak OPENSSL_CONF accepts SHA-1 signatures.
 */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  '@SECLEVEL=2',
].join(':')

/** The TLS settings that both sides of every connection share. */
export interface TlsMaterial extends SecureContextOptions {
  readonly cert: string
  /** PEM. Its text is not shown by `inspect`, `JSON.stringify`, or string conversion. */
  readonly key: Buffer
  readonly ca: string[]
  readonly allowPartialTrustChain: true
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly ciphers: string
  readonly honorCipherOrder: true
  readonly secureOptions: number
  readonly ecdhCurve: string
}

export function tlsMaterial({ leaf, privateKeyPem, roots, tls }: Generation): TlsMaterial {
  return {
    cert: leaf.chainPem,
    key: secretPem(privateKeyPem),
    // checkRoots() ensures that this is not empty: with `ca: undefined`, Node.js would trust the public web PKI.
    ca: [...roots.pems],
    // Like Consul's own proxies, accept every root as a trust anchor, including roots that another CA has signed.
    allowPartialTrustChain: true,
    ...tls,
    ciphers: CIPHERS,
    honorCipherOrder: true,
    // A resumed session skips the verification, and a renegotiation could change the peer.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  }
}

const contexts = new WeakMap<Generation, SecureContext>()

/**
 * Returns the TLS context of a generation. Contexts are shared, because each holds OpenSSL memory until it is garbage
 * collected.
 */
export function secureContext(generation: Generation): SecureContext {
  let context = contexts.get(generation)
  if (context === undefined) {
    context = createSecureContext(tlsMaterial(generation))
    contexts.set(generation, context)
  }
  return context
}
