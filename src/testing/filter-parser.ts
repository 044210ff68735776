/** What a comparison asks; each also comes negated. */
export type Operation = 'Equal' | 'In' | 'Is Empty' | 'Matches'

export interface Comparison {
  selector: string[]
  operation: Operation
  negated: boolean
  /** Undefined for what needs none. */
  value: string | undefined
}

export type Expression =
  | { kind: 'and' | 'or'; left: Expression; right: Expression }
  | { kind: 'not'; operand: Expression }
  | { kind: 'comparison'; comparison: Comparison }

/** Says where the expression is malformed, as `line:column (offset): what`. */
export class FilterSyntaxError extends Error {
  override name = 'FilterSyntaxError'
}

/** Operators that stand between a selector and a value. */
const infix: [RegExp, Operation, boolean][] = [
  [/\s*==\s*/y, 'Equal', false],
  [/\s*!=\s*/y, 'Equal', true],
  [/\s+contains\s+/y, 'In', false],
  [/\s+not\s+contains\s+/y, 'In', true],
  [/\s+matches\s+/y, 'Matches', false],
  [/\s+not\s+matches\s+/y, 'Matches', true],
]

const identifier = /[a-zA-Z][a-zA-Z0-9_]*/y
const dottedIdentifier = /\.([a-zA-Z][a-zA-Z0-9_]*)/y
const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?![^\s)])/y
const string = /`([^`]*)`|"([^"]*)"/y

/** Reads Consul's filter language. Its words are in lower case, and separated by space. */
export function parseExpression(text: string): Expression {
  return new Parser(text).parse()
}

class Parser {
  readonly #text: string
  #offset = 0

  constructor(text: string) {
    this.#text = text
  }

  parse(): Expression {
    this.#take(/\s*/y)
    const expression = this.#or()
    this.#take(/\s*/y)
    if (this.#offset < this.#text.length) this.#fail('no match found, expected: "and", "or" or EOF')
    return expression
  }

  #or(): Expression {
    const left = this.#and()
    return this.#take(/\s+or\s+/y) ? { kind: 'or', left, right: this.#or() } : left
  }

  #and(): Expression {
    const left = this.#not()
    return this.#take(/\s+and\s+/y) ? { kind: 'and', left, right: this.#and() } : left
  }

  #not(): Expression {
    const start = this.#offset
    if (this.#take(/not\s+/y)) {
      // `not == 1` asks for a field of that name.
      if (/[=!]=/y.test(this.#rest())) this.#offset = start
      else return { kind: 'not', operand: this.#not() }
    }
    if (!this.#take(/\(\s*/y)) return { kind: 'comparison', comparison: this.#comparison() }
    const expression = this.#or()
    this.#take(/\s*/y)
    if (!this.#take(/\)/y)) this.#fail('rule "grouping": Unmatched parentheses')
    return expression
  }

  #comparison(): Comparison {
    const start = this.#offset
    const selector = this.#selector()
    if (selector) {
      const found = infix.find(([pattern]) => this.#take(pattern))
      if (found) {
        const [, operation, negated] = found
        const value = this.#value() ?? this.#fail('no match found, expected: a value')
        return { selector, operation, negated, value }
      }
      if (this.#take(/\s+is\s+empty/y)) {
        return { selector, operation: 'Is Empty', negated: false, value: undefined }
      }
      if (this.#take(/\s+is\s+not\s+empty/y)) {
        return { selector, operation: 'Is Empty', negated: true, value: undefined }
      }
    }
    this.#offset = start
    return this.#membership()
  }

  /** `"value" in Selector` */
  #membership(): Comparison {
    const value = this.#value() ?? this.#fail('no match found, expected: a selector or a value')
    const negated = this.#take(/\s+not\s+in\s+/y) !== undefined
    if (!negated && !this.#take(/\s+in\s+/y)) this.#fail('no match found, expected: an operator')
    const selector = this.#selector() ?? this.#fail('rule "match": Invalid selector')
    return { selector, operation: 'In', negated, value }
  }

  #selector(): string[] | undefined {
    const [first] = this.#take(identifier) ?? []
    if (first === undefined) return undefined
    const path = [first]
    for (;;) {
      const [, field] = this.#take(dottedIdentifier) ?? []
      if (field !== undefined) path.push(field)
      else if (this.#take(/\[\s*/y)) {
        path.push(this.#string() ?? this.#fail('rule "index": Invalid index'))
        this.#take(/\s*/y)
        if (!this.#take(/\]/y)) this.#fail('rule "index": Unclosed index expression')
      } else return path
    }
  }

  /** A bare word is a value too, as it is written. */
  #value(): string | undefined {
    const path = this.#selector()
    if (path) return path.join('.')
    const [digits] = this.#take(number) ?? []
    if (digits !== undefined) return digits
    if (this.#take(/-?(?:0|[1-9]\d*)/y)) this.#fail('rule "number": Invalid number literal')
    return this.#string()
  }

  #string(): string | undefined {
    const start = this.#offset
    const [, raw, quoted] = this.#take(string) ?? []
    if (raw !== undefined) return raw
    if (quoted === undefined) {
      if (this.#take(/[`"].*/sy)) this.#fail('rule "string": Unterminated string literal')
      return undefined
    }
    const unquoted = unquote(quoted)
    if (unquoted !== undefined) return unquoted
    this.#offset = start
    return this.#fail('rule "string": invalid syntax')
  }

  #take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#offset
    const match = pattern.exec(this.#text) ?? undefined
    if (match) this.#offset = pattern.lastIndex
    return match
  }

  #rest(): string {
    return this.#text.slice(this.#offset)
  }

  #fail(problem: string): never {
    const before = this.#text.slice(0, this.#offset).split('\n')
    const column = (before.at(-1)?.length ?? 0) + 1
    throw new FilterSyntaxError(`${before.length}:${column} (${this.#offset}): ${problem}`)
  }
}

/** Go's escapes, as far as JSON has them too. */
function unquote(text: string): string | undefined {
  try {
    const value: unknown = JSON.parse(`"${text}"`)
    return typeof value === 'string' ? value : undefined
  } catch {
    return undefined
  }
}
