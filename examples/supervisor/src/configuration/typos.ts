import { foldKey } from './spelling.js'

/** Minimum length of a suggested key. Shorter keys are too similar to each other. */
const MIN_LENGTH = 4

/** Returns the known key that differs by one edit: an inserted, missing, replaced, or swapped character. */
export function closestKey(key: string, known: readonly string[]): string | undefined {
  const folded = foldKey(key)
  return known.find((each) => each.length >= MIN_LENGTH && isOneEditApart(folded, foldKey(each)))
}

function isOneEditApart(a: string, b: string): boolean {
  if (a === b || Math.abs(a.length - b.length) > 1) return false
  let start = 0
  while (start < a.length && a[start] === b[start]) start++
  const [restA, restB] = [a.slice(start), b.slice(start)]
  const [tailA, tailB] = [restA.slice(1), restB.slice(1)]
  const isSwapped =
    restA[0] === restB[1] && restA[1] === restB[0] && restA.slice(2) === restB.slice(2) && restA.length > 1
  return tailA === restB || tailB === restA || tailA === tailB || isSwapped
}
