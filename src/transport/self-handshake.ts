import { Duplex } from 'node:stream'
import { connect } from 'node:tls'
import { withDeadline } from '../base/deadline.js'
import type { Generation } from '../identity/identity-store.js'
import { secureContext } from './tls-context.js'
import { SecureServer } from './secure-server.js'
import { pathError } from './verify-peer.js'

/** A handshake in memory takes milliseconds; more than this is a process that hangs. */
const TIMEOUT_MS = 5_000

/**
 * Proves that a generation works at both ends of a connection, by a handshake with itself in memory. Our own checks of a
 * certificate cannot foresee every reason for which OpenSSL refuses one, and a certificate that every peer would refuse
 * must not replace one that works.
 * @throws Error with OpenSSL's reason
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
      // The path is what is proved here; the identity has been checked.
      checkServerIdentity: () => undefined,
    })
    client.on('error', (error: Error) => {
      reject(pathError(client) ?? error)
    })
    server.emit('connection', far)
  })
}

/** Two streams, each of which reads what the other one is written. */
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
