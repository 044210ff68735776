import type { Fields, FieldType } from './filter-fields.js'
import {
  FilterSyntaxError,
  parseExpression,
  type Comparison,
  type Expression,
  type Operation,
} from './filter-parser.js'
import { compileGoRegexp } from './go-regexp.js'
import { HttpError } from './http.js'
import { isObject, type Json } from './json.js'

type Filter = (item: Json) => boolean

/** Compares what a selector found, in JSON, with the value of the comparison. */
type Test = (found: Json | undefined) => boolean

/**
 * Consul's filter language over items with these fields. Throws Consul's complaint when the expression is malformed
 * or asks something of a field that its type has not.
 */
export function parseFilter(expression: string, fields: Fields): Filter {
  try {
    return build(parseExpression(expression), fields)
  } catch (error) {
    if (error instanceof FilterSyntaxError) throw invalid(error.message)
    throw error
  }
}

function build(expression: Expression, fields: Fields): Filter {
  if (expression.kind === 'comparison') return compare(expression.comparison, { struct: fields })
  if (expression.kind === 'not') {
    const operand = build(expression.operand, fields)
    return (item) => !operand(item)
  }
  const left = build(expression.left, fields)
  const right = build(expression.right, fields)
  if (expression.kind === 'and') return (item) => left(item) && right(item)
  return (item) => left(item) || right(item)
}

function compare(comparison: Comparison, root: FieldType): Filter {
  const { selector, operation, negated } = comparison
  const field = fieldAt(selector, root)
  if (!operationsOf(field).includes(operation)) {
    const name = operatorNames[operation][negated ? 1 : 0]
    throw invalid(`Invalid match operator ${JSON.stringify(name)} for selector ${quoted(selector)}`)
  }
  const test = testOf(comparison, field)
  const signed: Test = (found) => test(found) !== negated
  // A missing key of a map matches every expression, but equals nothing and is in nothing.
  const ifMissing = negated ? operation !== 'Is Empty' : operation === 'Matches' || operation === 'Is Empty'
  return (item) => evaluate(item, selector, root, { test: signed, ifMissing })
}

/** Goes down the selector. A list of structures is like each of its elements, and one that fits is enough. */
function evaluate(
  value: Json | undefined,
  [key, ...rest]: string[],
  type: FieldType,
  goal: { test: Test; ifMissing: boolean },
): boolean {
  if (key === undefined || typeof type === 'string') return goal.test(value)
  if ('list' in type) {
    const struct: FieldType = { struct: type.list }
    return (Array.isArray(value) ? value : []).some((item) => evaluate(item, [key, ...rest], struct, goal))
  }
  const found = isObject(value) ? value[key] : undefined
  if ('map' in type) return found === undefined ? goal.ifMissing : evaluate(found, rest, type.map, goal)
  const field = type.struct[key]
  return field !== undefined && evaluate(found, rest, field, goal)
}

function fieldAt(selector: string[], root: FieldType): FieldType {
  let field = root
  for (const [depth, key] of selector.entries()) {
    const next = subfield(field, key)
    if (!next) throw invalid(`Selector ${quoted(selector.slice(0, depth + 1))} is not valid`)
    field = next
  }
  return field
}

function subfield(field: FieldType, key: string): FieldType | undefined {
  if (typeof field === 'string') return undefined
  if ('map' in field) return field.map
  const fields = 'list' in field ? field.list : field.struct
  return Object.hasOwn(fields, key) ? fields[key] : undefined
}

const operatorNames: Record<Operation, [string, string]> = {
  Equal: ['Equal', 'Not Equal'],
  In: ['In', 'Not In'],
  'Is Empty': ['Is Empty', 'Is Not Empty'],
  Matches: ['Matches', 'Not Matches'],
}

function operationsOf(field: FieldType): Operation[] {
  if (field === 'string') return ['Equal', 'In', 'Matches']
  if (field === 'int' || field === 'bool') return ['Equal']
  if (field === 'strings' || 'map' in field) return ['In', 'Is Empty']
  return 'list' in field ? ['Is Empty'] : []
}

function testOf({ operation, value = '', selector }: Comparison, field: FieldType): Test {
  switch (operation) {
    case 'Is Empty':
      return (found) => Object.keys(found ?? {}).length === 0
    case 'Matches': {
      const pattern = compileMatch(value)
      return (found) => pattern.test(text(found))
    }
    case 'In':
      if (field === 'string') return (found) => text(found).includes(value)
      if (field === 'strings') return (found) => Array.isArray(found) && found.includes(value)
      return (found) => isObject(found) && Object.hasOwn(found, value)
    case 'Equal':
      if (field === 'int') {
        const number = coerceInt(value, selector)
        return (found) => BigInt(text(found) || 0) === number
      }
      if (field === 'bool') {
        const wanted = coerceBool(value, selector)
        return (found) => (found === true) === wanted
      }
      return (found) => text(found) === value
  }
}

function text(found: Json | undefined): string {
  return typeof found === 'string' || typeof found === 'number' ? String(found) : ''
}

function compileMatch(expression: string): RegExp {
  try {
    return compileGoRegexp(expression)
  } catch (error) {
    const problem = error instanceof Error ? error.message : ''
    throw invalid(`Failed to compile regular expression ${JSON.stringify(expression)}: ${problem}`)
  }
}

function coerceInt(value: string, selector: string[]): bigint {
  const isNumber = /^[+-]?(?:\d+|0x[\da-f]+)$/i.test(value)
  if (!isNumber) throw uncoerced(value, selector, 'ParseInt', 'invalid syntax')
  const number = value.startsWith('-') ? -BigInt(value.slice(1)) : BigInt(value.replace('+', ''))
  if (BigInt.asIntN(64, number) !== number) {
    throw uncoerced(value, selector, 'ParseInt', 'value out of range')
  }
  return number
}

function coerceBool(value: string, selector: string[]): boolean {
  if (['1', 't', 'T', 'TRUE', 'true', 'True'].includes(value)) return true
  if (['0', 'f', 'F', 'FALSE', 'false', 'False'].includes(value)) return false
  throw uncoerced(value, selector, 'ParseBool', 'invalid syntax')
}

function uncoerced(value: string, selector: string[], parser: string, problem: string): HttpError {
  const word = JSON.stringify(value)
  return invalid(
    `Failed to coerce value ${word} for selector ${quoted(selector)}: strconv.${parser}: parsing ${word}: ${problem}`,
  )
}

function quoted(selector: string[]): string {
  return JSON.stringify(selector.join('.'))
}

function invalid(problem: string): HttpError {
  return new HttpError(500, `Failed to create boolean expression evaluator: ${problem}`)
}
