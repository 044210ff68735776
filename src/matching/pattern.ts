import { toError } from '../base/errors.js'
import { byteString } from './byte-string.js'

/** A regular expression of the operator, which must match a whole text. */
export interface Pattern {
  /**
   * Takes a time that is linear in the length of the text.
   * @param bytes - a character for each byte
   */
  readonly matches: (bytes: string) => boolean
}

/** An expression is not in the syntax of RE2. */
export class PatternError extends Error {
  constructor(source: string, problem: string) {
    const shown = source.length > MAX_SHOWN ? `${source.slice(0, MAX_SHOWN)}…` : source
    super(`invalid expression ${JSON.stringify(shown)}: ${problem}`)
    this.name = 'PatternError'
  }
}

/** How much of an expression a message shows. */
const MAX_SHOWN = 100

/**
 * Compiles an expression in the syntax of RE2, which JavaScript would understand differently or match in exponential time.
 * As at Envoy, `.` is one byte and not one character, so that bytes that are no UTF-8 cannot end a match. There is one
 * difference: `(?i)` makes Latin-1 letters such as `\xc9` match in either case as well.
 * @throws PatternError
 */
export async function compilePattern(source: string): Promise<Pattern> {
  const { RE2JS } = await import('re2js')
  try {
    const expression = RE2JS.compile(byteString(source))
    const start = literalStart(source)
    return { matches: (bytes) => bytes.startsWith(start) && expression.testExact(bytes) }
  } catch (error) {
    throw new PatternError(source, toError(error).message.replace(/^error parsing regexp: /, ''))
  }
}

/** Returns the characters with which every match starts, which rule out most texts at once. */
function literalStart(source: string): string {
  // One of several alternatives is no start.
  if (source.includes('|')) return ''
  // A quantifier belongs to the character before it.
  const [literal = ''] = /^[\w/-]+(?![*+?{])/.exec(source) ?? []
  return literal
}
