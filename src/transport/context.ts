import { constants } from 'node:crypto'
import { type SecureContext, type SecureContextOptions, createSecureContext } from 'node:tls'
import type { Generation } from '../identity/store.js'

/**
 * AES-128 first: it is 5 % faster than AES-256 over a whole connection, and as far from being broken. The rest is
 * what other members of a mesh may need, RSA for CA providers that sign such leaves included.
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
].join(':')

/** The TLS settings that both sides of every connection share. */
export interface TlsMaterial extends SecureContextOptions {
  readonly cert: string
  readonly key: string
  readonly ca: string[]
  readonly minVersion: 'TLSv1.2'
  readonly ciphers: string
  readonly honorCipherOrder: true
  readonly secureOptions: number
  readonly ecdhCurve: string
}

export function tlsMaterial(generation: Generation): TlsMaterial {
  return {
    cert: generation.leaf.chainPem,
    key: generation.privateKeyPem,
    // Never undefined and never empty: TLS would trust the system's roots then. RootsStore sees to it.
    ca: [...generation.roots.pems],
    minVersion: 'TLSv1.2',
    ciphers: CIPHERS,
    honorCipherOrder: true,
    ecdhCurve: generation.ecdhCurve,
    // A resumed session skips verification, and a renegotiation could change the peer in mid-connection.
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
