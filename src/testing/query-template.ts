import { compileGoRegexp } from './go-regexp.js'
import { HttpError } from './http.js'
import type { PreparedQuery, ServiceQuery } from './query.js'

/** A piece of a text: as it stands, or an interpolation `${...}` with the column where it begins. */
type Piece = { text: string } | { expression: string; column: number }

/** What the interpolations of one lookup stand for. */
interface Scope {
  variables: Record<string, string>
  match: (group: number) => string
}

/**
 * The query that a template becomes for a name; throws Consul's complaint about a template that makes no sense. Of
 * the template language there are the variables and `match`, and no other function or arithmetic.
 */
export function renderTemplate(query: PreparedQuery, name: string): PreparedQuery {
  if (query.template.type !== 'name_prefix_match')
    throw compileError(`Bad Template.Type '${query.template.type}'`)
  const groups = matchName(query.template.regexp, name)
  const scope: Scope = {
    variables: {
      'name.full': name,
      'name.prefix': query.name,
      'name.suffix': name.startsWith(query.name) ? name.slice(query.name.length) : name,
      'agent.segment': '',
    },
    match: (group) => groups[group] ?? '',
  }
  const service = renderService(query.service, scope)
  if (query.template.removeEmptyTags) service.tags = service.tags.filter((tag) => tag !== '')
  return { ...query, service }
}

function renderService(service: ServiceQuery, scope: Scope): ServiceQuery {
  const text = (value: string, path: string): string => render(value, path, scope)
  const list = (values: string[], path: string): string[] =>
    values.map((value, index) => text(value, `${path}[${index}]`))
  const map = (values: Record<string, string>, path: string): Record<string, string> =>
    Object.fromEntries(Object.entries(values).map(([key, value]) => [key, text(value, `${path}[${key}]`)]))
  return {
    ...service,
    service: text(service.service, '.Service'),
    failover: {
      ...service.failover,
      datacenters: list(service.failover.datacenters, '.Failover.Datacenters'),
    },
    ignoreCheckIds: list(service.ignoreCheckIds, '.IgnoreCheckIDs'),
    near: text(service.near, '.Near'),
    tags: list(service.tags, '.Tags'),
    nodeMeta: map(service.nodeMeta, '.NodeMeta'),
    serviceMeta: map(service.serviceMeta, '.ServiceMeta'),
  }
}

function render(text: string, path: string, scope: Scope): string {
  const pieces = parse(text)
  if (!pieces) throw compileError(`Bad format '${text}' in Service${path}: parse error: syntax error`)
  return pieces
    .map((piece) => {
      if ('text' in piece) return piece.text
      const value = evaluate(piece.expression, scope)
      if (typeof value === 'string') return value
      throw compileError(
        `Bad evaluation for '${text}' in Service${path}: 1:${piece.column}: ${value.problem}`,
      )
    })
    .join('')
}

/** Undefined for an interpolation without an end. */
function parse(text: string): Piece[] | undefined {
  const pieces: Piece[] = []
  // `$${` is a way to write `${` itself.
  const pattern = /\$\$\{|\$\{([^}]*)(\}?)/g
  let end = 0
  for (const match of text.matchAll(pattern)) {
    const [whole, expression, close] = match
    pieces.push({ text: text.slice(end, match.index) })
    end = match.index + whole.length
    if (expression === undefined) pieces.push({ text: '${' })
    else if (close === '') return undefined
    else pieces.push({ expression: expression.trim(), column: match.index + 3 })
  }
  return [...pieces, { text: text.slice(end) }]
}

function evaluate(expression: string, scope: Scope): string | { problem: string } {
  const [, called = '', inside] = /^(\w+)\(([^)]*)\)$/.exec(expression) ?? []
  const argument = inside?.trim()
  if (argument === undefined) {
    return scope.variables[expression] ?? { problem: `unknown variable accessed: ${expression}` }
  }
  if (called !== 'match') return { problem: `unknown function called: ${called}` }
  if (/^\d+$/.test(argument)) return scope.match(Number(argument))
  return { problem: 'match: argument 1 should be int' }
}

function matchName(regexp: string, name: string): string[] {
  if (regexp === '') return []
  try {
    return [...(compileGoRegexp(regexp).exec(name) ?? [])].map((group: string | undefined) => group ?? '')
  } catch (error) {
    throw compileError(`Bad Regexp: ${error instanceof Error ? error.message : ''}`)
  }
}

function compileError(message: string): HttpError {
  return new HttpError(500, `failed compiling template: ${message}`)
}
