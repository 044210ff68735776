/** How many blocking queries may hang at a time. */
export class BlockingSlots {
  readonly #limit: number
  readonly #shared: { taken: number }

  constructor(limit: number, shared: { taken: number } = { taken: 0 }) {
    this.#limit = limit
    this.#shared = shared
  }

  /** The same places for those who may fill them only up to a lower limit, and leave the rest to others. */
  upTo(limit: number): BlockingSlots {
    return new BlockingSlots(limit, this.#shared)
  }

  get isFull(): boolean {
    return this.#shared.taken >= this.#limit
  }

  take(): void {
    this.#shared.taken += 1
  }

  give(): void {
    this.#shared.taken -= 1
  }
}
