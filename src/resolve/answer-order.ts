/** The probability that the nearest node stays first: coordinates and health change sometimes. */
const STABILITY = 0.95
/** The log-odds at which the test decides: 999 to 1. */
const DECISIVE = Math.log(999)

/**
 * Decides from successive results of a prepared query whether the query sorts by distance: then the same node is first
 * each time, while servers shuffle all other results. This is Wald's sequential probability ratio test on the first
 * node. Instances of one node are equally near, so only their node counts.
 *
 * The sum is bounded, so that a change of the query is detected after a few results.
 */
export class AnswerOrder {
  #logOdds = 0
  #first: string | undefined
  #isSorted: boolean | undefined

  /** The decision; undefined before the first. */
  get isSorted(): boolean | undefined {
    return this.#isSorted
  }

  /** @param nodes - the node of each instance, in the order of the result */
  add(nodes: readonly string[]): void {
    const expected = this.#first
    this.#first = nodes[0]
    // The previous first node may be gone.
    if (expected === undefined || !nodes.includes(expected)) return
    const share = nodes.filter((node) => node === expected).length / nodes.length
    // How often the first node of a shuffled result repeats.
    if (share >= STABILITY) return
    const isRepeated = nodes[0] === expected
    const ratio = isRepeated ? STABILITY / share : (1 - STABILITY) / (1 - share)
    this.#logOdds = Math.min(DECISIVE, Math.max(-DECISIVE, this.#logOdds + Math.log(ratio)))
    if (Math.abs(this.#logOdds) === DECISIVE) this.#isSorted = this.#logOdds > 0
  }
}
