import { Duplex } from 'node:stream'
import { connect } from 'node:tls'
import { withDeadline } from '../base/deadline.js'
import type { Generation } from '../identity/identity-store.js'
import { secureContext } from './tls-context.js'
import { SecureServer } from './inbound/secure-server.js'
import { pathError } from './verify-peer.js'

/** A handshake in memory takes milliseconds. */
const TIMEOUT_MS = 5_000

/**
 * Verifies that a new certificate works at both ends of a connection, by a TLS handshake with itself in memory. OpenSSL
 * may reject a certificate for reasons that our own checks do not cover, and such a certificate must not replace a
 * working one.
 * @throws Error with the reason of OpenSSL
 */
export async function selfHandshake(generation: Generation): Promise<void> {
  const [near, far] = duplexPair()
  try {
    await withDeadline('TLS handshake with itself', { timeoutMs: TIMEOUT_MS }, () =>
      handshake(generation, near, far),
    )
  } finally {
    near.destroy()
    far.destroy()
  }
}

function handshake(generation: Generation, near: Duplex, far: Duplex): Promise<void> {
  return new Promise((resolve, reject) => {
    const { server } = new SecureServer(generation, { handshakeTimeoutMs: TIMEOUT_MS })
    server.once('secureConnection', (socket) => {
      socket.on('error', () => undefined).destroy()
      resolve()
    })
    server.once('tlsClientError', (error: Error, socket) => {
      reject(pathError(socket) ?? error)
    })
    const client = connect({
      socket: near,
      secureContext: secureContext(generation),
      // The identity has been verified before.
      checkServerIdentity: () => undefined,
    })
    client.on('error', (error: Error) => {
      reject(pathError(client) ?? error)
    })
    server.emit('connection', far)
  })
}

/** Returns two connected streams: each reads what is written to the other. */
function duplexPair(): [Duplex, Duplex] {
  const end = (other: () => Duplex): Duplex =>
    new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _encoding, callback) => {
        other().push(chunk)
        callback()
      },
      final: (callback) => {
        other().push(null)
        callback()
      },
    })
  const near: Duplex = end(() => far)
  const far: Duplex = end(() => near)
  return [near, far]
}
