import { HttpError, isObject, type Json } from '../http/http.js'

type Filter = (item: Json) => boolean

/** An operator or a parenthesis, a quoted string, or a bare word: a keyword, a value, or a selector such as `A.B["c"]`. */
const TOKEN = /[=!]=|[()]|`[^`]*`|"(?:[^"\\]|\\.)*"|-?[\w.:/-]+(?:\["[^"]*"\])*/g

/**
 * Parses the part of Consul's filter language that the embedded agent supports: `==`, `!=`, `in`, `not in`, `and`, `or`,
 * `not`, and parentheses. Unlike Consul, it does not check that a selector exists.
 * @throws HttpError with the status of Consul and the start of its message
 */
export function parseFilter(expression: string): Filter {
  const rest = expression.replace(TOKEN, '').trim()
  if (rest !== '') throw invalid(`unexpected ${JSON.stringify(rest.slice(0, 40))}`)
  return new Parser(expression.match(TOKEN) ?? []).parse()
}

/** A recursive-descent parser. `or` binds weaker than `and`, which binds weaker than `not`. */
class Parser {
  readonly #tokens: readonly string[]
  #next = 0

  constructor(tokens: readonly string[]) {
    this.#tokens = tokens
  }

  parse(): Filter {
    const filter = this.#or()
    if (this.#next < this.#tokens.length) this.#fail('"and", "or", or the end')
    return filter
  }

  #or(): Filter {
    const filters = this.#separated('or', () => this.#and())
    return (item) => filters.some((filter) => filter(item))
  }

  #and(): Filter {
    const filters = this.#separated('and', () => this.#not())
    return (item) => filters.every((filter) => filter(item))
  }

  #separated(separator: string, parse: () => Filter): Filter[] {
    const filters = [parse()]
    while (this.#take(separator)) filters.push(parse())
    return filters
  }

  #not(): Filter {
    if (this.#take('not')) {
      const operand = this.#not()
      return (item) => !operand(item)
    }
    if (!this.#take('(')) return this.#comparison()
    const filter = this.#or()
    if (!this.#take(')')) this.#fail('")"')
    return filter
  }

  /** Parses `selector == value`, `selector != value`, `value in selector`, or `value not in selector`. */
  #comparison(): Filter {
    const left = this.#operand()
    const isEqual = this.#take('==')
    if (isEqual || this.#take('!='))
      return matcher(selectorOf(left), valueOf(this.#operand()), equals, !isEqual)
    const isNegated = this.#take('not')
    if (!this.#take('in')) this.#fail('"==", "!=", "in", or "not in"')
    return matcher(selectorOf(this.#operand()), valueOf(left), contains, isNegated)
  }

  #operand(): string {
    const token = this.#tokens[this.#next]
    if (token === undefined || /^[=!()]/.test(token)) return this.#fail('a selector or a value')
    this.#next += 1
    return token
  }

  #take(token: string): boolean {
    if (this.#tokens[this.#next] !== token) return false
    this.#next += 1
    return true
  }

  #fail(expected: string): never {
    const found = this.#tokens[this.#next]?.slice(0, 40) ?? 'the end'
    throw invalid(`expected ${expected}, got ${JSON.stringify(found)}`)
  }
}

function valueOf(token: string): string {
  if (token.startsWith('`')) return token.slice(1, -1)
  return token.startsWith('"') ? token.slice(1, -1).replace(/\\(.)/g, '$1') : token
}

/** Splits `A.B["c.d"]` into `A`, `B`, and `c.d`. */
function selectorOf(token: string): string[] {
  if (/^["`]/.test(token)) throw invalid(`expected a selector, got ${token.slice(0, 40)}`)
  const [path = '', ...keys] = token.split('["')
  return [...path.split('.'), ...keys.map((key) => key.slice(0, -2))]
}

/** Creates a filter from a test of the selected values. A missing value equals nothing and contains nothing. */
function matcher(
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

/** Returns the values at a path. A list of objects has a value for each of its elements. */
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
