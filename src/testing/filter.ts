import { HttpError } from './http.js'
import { isObject, type Json } from './json.js'

/** A part of Consul's filter language: `==`, `!=`, `and`, `or`, `not` and parentheses. */
type Filter = (item: Json) => boolean

const token = /\s*(?:([()])|(==|!=)|"((?:[^"\\]|\\.)*)"|`([^`]*)`|(\w[\w.\-/]*(?:\["[^"]*"\])?)|(\S))/y

interface Token {
  kind: 'symbol' | 'text' | 'word'
  value: string
}

/** Throws when the expression is malformed, or needs more of the language than there is here. */
export function parseFilter(expression: string): Filter {
  const tokens = tokenize(expression)
  let position = 0
  const peek = (): Token | undefined => tokens[position]
  const takeWord = (value: string): boolean => {
    const found = peek()?.kind !== 'text' && peek()?.value.toLowerCase() === value
    if (found) position++
    return found
  }

  const or = (): Filter => {
    const left = and()
    if (!takeWord('or')) return left
    const right = or()
    return (item) => left(item) || right(item)
  }
  const and = (): Filter => {
    const left = not()
    if (!takeWord('and')) return left
    const right = and()
    return (item) => left(item) && right(item)
  }
  const not = (): Filter => {
    if (!takeWord('not')) return primary()
    const inner = not()
    return (item) => !inner(item)
  }
  const primary = (): Filter => {
    if (takeWord('(')) {
      const inner = or()
      if (!takeWord(')')) throw malformed(expression)
      return inner
    }
    const [selector, operator, operand] = tokens.slice(position, position + 3)
    position += 3
    if (selector?.kind !== 'word' || !operator || !operand || operand.kind === 'symbol')
      throw malformed(expression)
    if (operator.value !== '==' && operator.value !== '!=') throw malformed(expression)
    const equal = operator.value === '=='
    const path = selectorPath(selector.value)
    return (item) => (select(item, path) === operand.value) === equal
  }

  const filter = or()
  if (position < tokens.length) throw malformed(expression)
  return filter
}

function tokenize(expression: string): Token[] {
  const tokens: Token[] = []
  token.lastIndex = 0
  while (expression.slice(token.lastIndex).trim() !== '') {
    const match = token.exec(expression)
    const [, parenthesis, operator, quoted, raw, word] = match ?? []
    const symbol = parenthesis ?? operator
    const string = quoted?.replace(/\\(.)/g, '$1') ?? raw
    if (symbol !== undefined) tokens.push({ kind: 'symbol', value: symbol })
    else if (string !== undefined) tokens.push({ kind: 'text', value: string })
    else if (word !== undefined) tokens.push({ kind: 'word', value: word })
    else throw malformed(expression)
  }
  return tokens
}

function selectorPath(selector: string): string[] {
  const [, dotted = '', key] = /^([^[]*)(?:\["([^"]*)"\])?$/.exec(selector) ?? []
  return key === undefined ? dotted.split('.') : [...dotted.split('.'), key]
}

function select(item: Json, path: string[]): string | undefined {
  let value: Json | undefined = item
  for (const [depth, key] of path.entries()) {
    if (!isObject(value)) return undefined
    // Deeper down it may be a map, where a missing key is no mistake.
    if (depth === 0 && !(key in value)) throw invalidSelector(path)
    value = value[key]
  }
  return typeof value === 'object' || value === undefined ? undefined : String(value)
}

function invalidSelector(path: string[]): HttpError {
  const selector = JSON.stringify(path.join('.'))
  return new HttpError(
    500,
    `Failed to create boolean expression evaluator: Selector ${selector} is not valid`,
  )
}

function malformed(expression: string): HttpError {
  return new HttpError(
    400,
    `The embedded agent does not understand the filter ${JSON.stringify(expression)}: ` +
      'it takes ==, !=, and, or, not and parentheses',
  )
}
