import { type Server, type TlsOptions, createServer } from 'node:tls'
import { useSecureContext } from '../../base/node-internals.js'
import { LONGEST_TIMER_MS } from '../../base/clock.js'
import type { Generation } from '../../identity/identity-store.js'
import { secureContext, tlsMaterial } from '../tls-context.js'

export interface SecureServerOptions {
  readonly handshakeTimeoutMs: number
  readonly alpnProtocols?: readonly string[] | undefined
}

/**
 * A TLS server that requires client certificates of the mesh. It receives TCP sockets by its `connection` event and has
 * no port of its own.
 */
export class SecureServer {
  readonly server: Server
  #generation: Generation

  constructor(generation: Generation, { handshakeTimeoutMs, alpnProtocols }: SecureServerOptions) {
    const options: TlsOptions = {
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: Math.min(handshakeTimeoutMs, LONGEST_TIMER_MS),
      // With ALPN, a client that offers only unknown protocols is rejected.
      ...(alpnProtocols !== undefined && { ALPNProtocols: [...alpnProtocols] }),
    }
    this.server = createServer(options)
    this.#generation = generation
    this.use(generation)
  }

  /** The identity and roots of new handshakes. */
  get generation(): Generation {
    return this.#generation
  }

  /** Sets the identity and roots of new handshakes. */
  use(generation: Generation): void {
    this.#generation = generation
    if (useSecureContext(this.server, secureContext(generation))) return
    this.server.setSecureContext(tlsMaterial(generation))
    // The context holds the key now. A key on the server could be reached from each of its sockets.
    Object.assign(this.server, { key: undefined })
  }
}
