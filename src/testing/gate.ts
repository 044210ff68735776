/** Holds requests while it is closed. */
export class Gate {
  #closed: { open: Promise<void>; release: () => void } | undefined

  /** Resolves on release; undefined while the gate is open. */
  get open(): Promise<void> | undefined {
    return this.#closed?.open
  }

  close(): void {
    if (this.#closed) return
    let release = (): void => undefined
    const open = new Promise<void>((resolve) => (release = resolve))
    this.#closed = { open, release }
  }

  release(): void {
    this.#closed?.release()
    this.#closed = undefined
  }

  /** Opens for new requests. Those that wait are never released: their connections are closed. */
  reset(): void {
    this.#closed = undefined
  }
}
