import { ConfigurationError } from './error.js'

const MAX_DEPTH = 64
/** Limit for unparsed text, in which brackets inside strings count as well. */
const MAX_OPEN_BRACKETS = 256
/** Consul limits a key of `meta` to 128 bytes. */
const MAX_KEY_LENGTH = 256

/**
 * Rejects values that are nested too deeply for recursive code, or that have a key too long to show in a message.
 * @throws ConfigurationError
 */
export function expectShallow(place: string, value: unknown): void {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) {
      throw new ConfigurationError(`${place}: expected at most ${MAX_DEPTH} levels of nesting`)
    }
    level = level.flatMap((each) => {
      if (typeof each !== 'object' || each === null) return []
      if (!Array.isArray(each)) expectShortKeys(place, each)
      return Object.values(each) as unknown[]
    })
  }
}

/**
 * Rejects a text with too many open brackets before a recursive parser sees it: the HCL parser spends more than 10 s on
 * 64 KiB of nested blocks.
 * @throws ConfigurationError
 */
export function expectShallowText(place: string, text: string): void {
  let depth = 0
  for (const character of text) {
    if (character === '{' || character === '[') depth += 1
    else if ((character === '}' || character === ']') && depth > 0) depth -= 1
    if (depth > MAX_OPEN_BRACKETS) {
      throw new ConfigurationError(`${place}: expected at most ${MAX_OPEN_BRACKETS} open brackets`)
    }
  }
}

function expectShortKeys(place: string, value: object): void {
  for (const { length } of Object.keys(value)) {
    if (length <= MAX_KEY_LENGTH) continue
    throw new ConfigurationError(
      `${place}: expected keys of at most ${MAX_KEY_LENGTH} characters, got one of ${length}`,
    )
  }
}
