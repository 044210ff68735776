/** How many blocking queries may hang at a time. */
export class BlockingSlots {
  readonly #limit: number
  #taken = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get isFull(): boolean {
    return this.#taken >= this.#limit
  }

  take(): void {
    this.#taken += 1
  }

  give(): void {
    this.#taken -= 1
  }
}
