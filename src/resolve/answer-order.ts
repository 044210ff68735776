/** How likely the nearest node stays the first one: coordinates and health change now and then. */
const STABILITY = 0.95
/** The odds at which the test decides, as a logarithm: 999 to 1. */
const DECISIVE = Math.log(999)

/**
 * Decides from successive answers of a prepared query whether the query sorts by distance: then the same node comes first
 * each time, while servers shuffle every other answer. This is Wald's sequential probability ratio test on the first node.
 * Instances of one node are equally near, so that only their node is looked at.
 *
 * The sum is bounded: a query that is redefined is noticed after a few answers.
 */
export class AnswerOrder {
  #logOdds = 0
  #first: string | undefined
  #isSorted: boolean | undefined

  /** The decision; undefined before the first. */
  get isSorted(): boolean | undefined {
    return this.#isSorted
  }

  /** @param nodes - the node of each instance, in the order of the answer */
  add(nodes: readonly string[]): void {
    const expected = this.#first
    this.#first = nodes[0]
    // What came first before may have left.
    if (expected === undefined || !nodes.includes(expected)) return
    const share = nodes.filter((node) => node === expected).length / nodes.length
    // The first node of a shuffled answer would repeat as often.
    if (share >= STABILITY) return
    const isRepeated = nodes[0] === expected
    const ratio = isRepeated ? STABILITY / share : (1 - STABILITY) / (1 - share)
    this.#logOdds = Math.min(DECISIVE, Math.max(-DECISIVE, this.#logOdds + Math.log(ratio)))
    if (Math.abs(this.#logOdds) === DECISIVE) this.#isSorted = this.#logOdds > 0
  }
}
