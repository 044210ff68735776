import { type Server, type TlsOptions, createServer } from 'node:tls'
import { useSecureContext } from '../base/node-internals.js'
import { LONGEST_TIMER_MS } from '../base/clock.js'
import type { Generation } from '../identity/identity-store.js'
import { secureContext, tlsMaterial } from './tls-context.js'

export interface SecureServerOptions {
  readonly handshakeTimeoutMs: number
  readonly alpnProtocols?: readonly string[] | undefined
}

/** A TLS server that demands a certificate of the mesh. It takes connections by its event `connection`, and no port. */
export class SecureServer {
  readonly server: Server
  #generation: Generation

  constructor(generation: Generation, { handshakeTimeoutMs, alpnProtocols }: SecureServerOptions) {
    const options: TlsOptions = {
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: Math.min(handshakeTimeoutMs, LONGEST_TIMER_MS),
      // A client that offers only unknown names would be refused: offer none unless they are meant.
      ...(alpnProtocols !== undefined && { ALPNProtocols: [...alpnProtocols] }),
    }
    this.server = createServer(options)
    this.#generation = generation
    this.use(generation)
  }

  /** The generation that new handshakes begin with. */
  get generation(): Generation {
    return this.#generation
  }

  /** Uses another generation for the handshakes that begin from now on. */
  use(generation: Generation): void {
    this.#generation = generation
    if (useSecureContext(this.server, secureContext(generation))) return
    this.server.setSecureContext(tlsMaterial(generation))
    // The context has been built: the server need not keep the private key, which every socket of it leads to.
    Object.assign(this.server, { key: undefined })
  }
}
