import type { Changes } from './changes.js'
import type { Json, JsonObject } from './json.js'
import { FieldReader } from './json.js'

/** A place in Vivaldi's space, where distances are round-trip times in seconds. */
export interface Coordinate {
  vec: number[]
  error: number
  adjustment: number
  height: number
}

const dimensions = 8

/** Where the nodes are, for `near`. */
export class Coordinates {
  readonly #changes: Changes
  readonly #byNode = new Map<string, Coordinate>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  get(node: string): Coordinate | undefined {
    return this.#byNode.get(node)
  }

  entries(): [node: string, coordinate: Coordinate][] {
    return [...this.#byNode].sort(([a], [b]) => (a < b ? -1 : 1))
  }

  set(node: string, coordinate: Coordinate): void {
    this.#byNode.set(node, coordinate)
    this.#changes.touch('coordinates')
  }

  /** Puts the nodes on a line, a millisecond apart; all others are nowhere. */
  line(nodes: readonly string[]): void {
    this.#byNode.clear()
    for (const [position, node] of nodes.entries()) this.set(node, onLine(position))
    this.#changes.touch('coordinates')
  }

  /** By distance from the node; what is nowhere comes last. Without a place to start from, nothing changes. */
  sort<T>(source: string, items: readonly T[], nodeOf: (item: T) => string): T[] {
    const from = this.#byNode.get(source)
    if (!from) return [...items]
    const distanceOf = (item: T): number => {
      const to = this.#byNode.get(nodeOf(item))
      return to ? distance(from, to) : Infinity
    }
    return items
      .map((item) => ({ item, away: distanceOf(item) }))
      .sort((a, b) => (a.away === b.away ? 0 : a.away - b.away))
      .map(({ item }) => item)
  }
}

export function readCoordinate(json: Json): Coordinate {
  const fields = new FieldReader(json)
  const coordinate = {
    vec: fields.list('Vec').map(Number),
    error: fields.number('Error') ?? 0,
    adjustment: fields.number('Adjustment') ?? 0,
    height: fields.number('Height') ?? 0,
  }
  fields.end()
  return coordinate
}

export function coordinateJson({ vec, error, adjustment, height }: Coordinate): JsonObject {
  return { Vec: vec, Error: error, Adjustment: adjustment, Height: height }
}

export function isCompatible({ vec }: Coordinate): boolean {
  return vec.length === dimensions && vec.every(Number.isFinite)
}

function onLine(position: number): Coordinate {
  const vec = Array.from({ length: dimensions }, (_, axis) => (axis === 0 ? position / 1000 : 0))
  return { vec, error: 0, adjustment: 0, height: 0 }
}

function distance(a: Coordinate, b: Coordinate): number {
  const squares = a.vec.map((value, axis) => (value - (b.vec[axis] ?? 0)) ** 2)
  const raw = Math.sqrt(squares.reduce((sum, square) => sum + square, 0)) + a.height + b.height
  const adjusted = raw + a.adjustment + b.adjustment
  return adjusted > 0 ? adjusted : raw
}
