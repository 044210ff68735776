/** Holds what comes through while it is closed. */
export class Gate {
  #closed: { open: Promise<void>; release: () => void } | undefined

  /** Undefined while nothing is held. */
  get open(): Promise<void> | undefined {
    return this.#closed?.open
  }

  close(): void {
    if (this.#closed) return
    let release = (): void => undefined
    const open = new Promise<void>((resolve) => {
      release = resolve
    })
    this.#closed = { open, release }
  }

  release(): void {
    this.#closed?.release()
    this.#closed = undefined
  }

  /** Opens for what comes next; what is held stays held for ever. */
  forget(): void {
    this.#closed = undefined
  }
}
