import { HttpError } from './http.js'
import { isObject, type Json } from './json.js'

type Filter = (item: Json) => boolean

/** Tokens: an operator or bracket, a quoted string, or a bare word such as a selector or a number. */
const TOKEN = /\s*(?:([=!]=|[()[\]])|`([^`]*)`|"((?:[^"\\]|\\.)*)"|(-?[\w.:/-]+))/y

/**
 * Parses the part of Consul's filter language that the embedded agent supports: `==`, `!=`, `in`, `not in`, `contains`,
 * `not contains`, `and`, `or`, `not`, and parentheses. Unlike Consul, it does not check that a selector exists.
 * @throws HttpError with Consul's status and the start of its message
 */
export function parseFilter(expression: string): Filter {
  return new Parser(expression).parse()
}

interface Token {
  /** A word may be a keyword or a selector; a string is a value. */
  kind: 'symbol' | 'string' | 'word'
  text: string
}

class Parser {
  readonly #tokens: Token[] = []
  #next = 0

  constructor(text: string) {
    const pattern = new RegExp(TOKEN)
    const end = text.trimEnd().length
    while (pattern.lastIndex < end) {
      const offset = pattern.lastIndex
      const [, symbol, raw, quoted, word] = pattern.exec(text) ?? []
      if (symbol !== undefined) this.#tokens.push({ kind: 'symbol', text: symbol })
      else if (word !== undefined) this.#tokens.push({ kind: 'word', text: word })
      else if (raw !== undefined) this.#tokens.push({ kind: 'string', text: raw })
      else if (quoted !== undefined)
        this.#tokens.push({ kind: 'string', text: quoted.replace(/\\(.)/g, '$1') })
      else throw invalid(`unexpected character at offset ${offset}`)
    }
  }

  parse(): Filter {
    const filter = this.#or()
    if (this.#next < this.#tokens.length) this.#fail('expected "and", "or", or the end')
    return filter
  }

  #or(): Filter {
    const left = this.#and()
    if (!this.#take('or')) return left
    const right = this.#or()
    return (item) => left(item) || right(item)
  }

  #and(): Filter {
    const left = this.#not()
    if (!this.#take('and')) return left
    const right = this.#and()
    return (item) => left(item) && right(item)
  }

  #not(): Filter {
    if (this.#take('not')) {
      const operand = this.#not()
      return (item) => !operand(item)
    }
    if (!this.#take('(')) return this.#comparison()
    const filter = this.#or()
    if (!this.#take(')')) this.#fail('unmatched parentheses')
    return filter
  }

  /** `Selector == value`, `Selector contains value`, or `value in Selector`. */
  #comparison(): Filter {
    const start = this.#next
    const selector = this.#selector()
    if (selector) {
      const isEqual = this.#take('==')
      if (isEqual || this.#take('!=')) return compare(selector, this.#value(), equals, !isEqual)
      const isNegated = this.#take('not')
      if (this.#take('contains')) return compare(selector, this.#value(), contains, isNegated)
    }
    this.#next = start
    const value = this.#value()
    const isNegated = this.#take('not')
    if (!this.#take('in')) this.#fail('expected an operator')
    return compare(this.#selector() ?? this.#fail('expected a selector'), value, contains, isNegated)
  }

  /** `A.B.c` or `A.B["c"]`. */
  #selector(): string[] | undefined {
    const token = this.#tokens[this.#next]
    if (token?.kind !== 'word') return undefined
    this.#next += 1
    const path = token.text.split('.')
    while (this.#take('[')) {
      const key = this.#tokens[this.#next]
      if (key?.kind !== 'string') this.#fail('expected a quoted key')
      else path.push(key.text)
      this.#next += 1
      if (!this.#take(']')) this.#fail('unclosed index')
    }
    return path
  }

  #value(): string {
    const token = this.#tokens[this.#next]
    if (!token || token.kind === 'symbol') return this.#fail('expected a value')
    this.#next += 1
    return token.text
  }

  #take(text: string): boolean {
    const token = this.#tokens[this.#next]
    if (token?.kind === 'string' || token?.text !== text) return false
    this.#next += 1
    return true
  }

  #fail(problem: string): never {
    throw invalid(
      `${problem}, got ${JSON.stringify(this.#tokens[this.#next]?.text.slice(0, 40) ?? 'the end')}`,
    )
  }
}

/** A missing value equals nothing and contains nothing. */
function compare(
  selector: string[],
  value: string,
  test: (found: Json, value: string) => boolean,
  isNegated: boolean,
): Filter {
  return (item) => {
    const found = select(item, selector)
    return found.length === 0 ? isNegated : found.some((each) => test(each, value) !== isNegated)
  }
}

/** The values at a path; a list of objects has one for each of its elements. */
function select(value: Json | undefined, [key, ...rest]: string[]): Json[] {
  if (key === undefined) return value === undefined || value === null ? [] : [value]
  if (Array.isArray(value)) return value.flatMap((element) => select(element, [key, ...rest]))
  return isObject(value) ? select(value[key], rest) : []
}

function equals(found: Json, value: string): boolean {
  return typeof found !== 'object' && String(found) === value
}

function contains(found: Json, value: string): boolean {
  if (typeof found === 'string' || Array.isArray(found)) return found.includes(value)
  return isObject(found) && Object.hasOwn(found, value)
}

function invalid(problem: string): HttpError {
  return new HttpError(500, `Failed to create boolean expression evaluator: ${problem}`)
}
