import type { Bounds } from '../base/deadline.js'
import { ClosedError } from '../base/errors.js'
import type { IdentityStore } from '../identity/identity-store.js'

/** The stages of a service: open; closing, when requests that are in progress may still dial; and closed. */
export class Lifecycle {
  readonly #identity: IdentityStore
  readonly #closing = new AbortController()
  readonly #closed = new AbortController()

  constructor(identity: IdentityStore) {
    this.#identity = identity
  }

  get stage(): 'open' | 'closing' | 'closed' {
    if (this.closed.aborted) return 'closed'
    return this.closing.aborted ? 'closing' : 'open'
  }

  /** Aborted at the start of a close: nothing may be opened or registered any more. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /** Aborted when the inbound side has drained: no new outbound connections. */
  get closed(): AbortSignal {
    return this.#closed.signal
  }

  beginClose(): void {
    this.#closing.abort()
  }

  endDialing(): void {
    this.#closed.abort()
  }

  /** Waits for the certificate, without which nothing can be opened. */
  async readyToOpen(what: string, bounds: Pick<Bounds, 'signal' | 'timeoutMs'>): Promise<void> {
    this.assertOpen(what)
    await this.#identity.ready({ ...bounds, closed: this.closing })
    this.assertOpen(what)
  }

  /** Waits for a listener or forward to open; after a concurrent close, the error is a ClosedError. */
  async opened(what: string, opening: Promise<void>): Promise<void> {
    await opening.catch((error: unknown) => {
      throw this.closing.aborted ? new ClosedError(what, { cause: error }) : error
    })
  }

  /** @throws ClosedError after the start of a close */
  assertOpen(what: string): void {
    if (this.closing.aborted) throw new ClosedError(what)
  }
}
