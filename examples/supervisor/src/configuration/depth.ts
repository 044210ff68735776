import { ConfigurationError } from './error.js'

/** Far deeper than anything that a proxy or an agent is told. */
const DEEPEST = 64

/**
 * Refuses what is nested so deep that looking at it would exhaust the stack.
 * @throws ConfigurationError
 */
export function expectShallow(place: string, value: unknown): void {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > DEEPEST) {
      throw new ConfigurationError(
        `${place}: expected at most ${DEEPEST} levels inside each other, found more`,
      )
    }
    level = level.flatMap((each) =>
      typeof each === 'object' && each !== null ? (Object.values(each) as unknown[]) : [],
    )
  }
}
