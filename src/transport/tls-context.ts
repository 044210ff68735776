import { constants } from 'node:crypto'
import { type SecureContext, type SecureContextOptions, createSecureContext } from 'node:tls'
import { secretPem } from '../base/secret-pem.js'
import type { Generation } from '../identity/identity-store.js'

/**
 * AES-128 first: it is 5 % faster than AES-256 over a whole connection. The rest is what other members of a mesh may
 * need, RSA for CA providers that issue such leaves included.
 *
 * Security level 2 is OpenSSL's bound of 112 bits on keys, certificates, and groups: without it, Node.js 20 and 22
 * accept RSA keys of 1024 bits, and a weak OPENSSL_CONF accepts SHA-1 signatures.
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
    // Never undefined or empty, which would make Node.js trust the public web PKI: checkRoots sees to it.
    ca: [...roots.pems],
    // As in Consul's own members, every root is a trust anchor, also one that another CA has signed.
    allowPartialTrustChain: true,
    ...tls,
    ciphers: CIPHERS,
    honorCipherOrder: true,
    // A resumed session skips verification, and a renegotiation could change the peer within a connection.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  }
}

const contexts = new WeakMap<Generation, SecureContext>()

/** One context per generation: each is an OpenSSL structure that lives until the garbage collector finds it. */
export function secureContext(generation: Generation): SecureContext {
  let context = contexts.get(generation)
  if (context === undefined) {
    context = createSecureContext(tlsMaterial(generation))
    contexts.set(generation, context)
  }
  return context
}
