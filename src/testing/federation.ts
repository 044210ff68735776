import { HttpError } from './http.js'

interface Member<S> {
  datacenter: string
  /** All that it knows. */
  state: () => S
  /** The address of a server that is gone, or undefined while it is there. */
  missing: () => string | undefined
}

/** The datacenters that one agent knows: its own first, then the others in the order in which they joined. */
export class Federation<S> {
  readonly #own: Member<S>
  readonly #others: { member: Member<S>; federation: Federation<S> }[] = []

  constructor(own: Member<S>) {
    this.#own = own
  }

  /** Makes all that either side knows known to the other. */
  join(other: Federation<S>): void {
    const here = [{ member: this.#own, federation: this as Federation<S> }, ...this.#others]
    const there = [{ member: other.#own, federation: other }, ...other.#others]
    for (const a of here) {
      for (const b of there) {
        a.federation.#meet(b)
        b.federation.#meet(a)
      }
    }
  }

  /** By distance, the own one first. */
  datacenters(): string[] {
    return [this.#own, ...this.#others.map(({ member }) => member)].map(({ datacenter }) => datacenter)
  }

  /** What the datacenter knows, or Consul's error for one that is not known or does not answer. */
  find(datacenter: string): S {
    if (datacenter === '' || datacenter === this.#own.datacenter) return this.#own.state()
    const found = this.#others.find(({ member }) => member.datacenter === datacenter)?.member
    if (!found) throw new HttpError(500, 'No path to datacenter')
    const address = found.missing()
    if (address === undefined) return found.state()
    throw new HttpError(
      500,
      `rpc error getting client: failed to get conn: dial tcp 127.0.0.1:0->${address}: connect: connection refused`,
    )
  }

  #meet(other: { member: Member<S>; federation: Federation<S> }): void {
    const { datacenter } = other.member
    if (datacenter === this.#own.datacenter) return
    if (!this.#others.some(({ member }) => member.datacenter === datacenter)) this.#others.push(other)
  }
}
