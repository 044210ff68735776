import { Notifier } from '../state/changes.js'

/** Holds requests back while it is closed. */
export class Gate {
  #opened: Notifier | undefined

  /** Resolves on release. Undefined while the gate is open. */
  get open(): Promise<void> | undefined {
    return this.#opened?.next()
  }

  close(): void {
    this.#opened ??= new Notifier()
  }

  release(): void {
    this.#opened?.notify()
    this.#opened = undefined
  }

  /** Opens the gate for new requests. Does not release the waiting requests, whose connections are closed. */
  reset(): void {
    this.#opened = undefined
  }
}
