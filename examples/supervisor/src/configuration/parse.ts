import { type Node, type ParseError, parseTree, printParseErrorCode } from 'jsonc-parser'
import { expectShallow } from './depth.js'
import { ConfigurationError, describe } from './error.js'
import { hclToJson } from './hcl.js'

/** An object of a file, not checked yet. */
export type Json = Readonly<Record<string, unknown>>

/**
 * Reads a JSON object. A key that is there twice is an error: one of both would be without effect.
 * @throws ConfigurationError, with line and column
 */
export function parseJson(path: string, text: string): Json {
  const errors: ParseError[] = []
  const tree = readTree(path, text, errors)
  const [error] = errors
  if (error !== undefined) {
    const found = printParseErrorCode(error.error).replaceAll(
      /\B[A-Z]/g,
      (letter) => ` ${letter.toLowerCase()}`,
    )
    throw new ConfigurationError(`${at(path, text, error.offset)}: expected JSON: ${found.toLowerCase()}`)
  }
  const value = parsed(path, text)
  expectShallow(path, value)
  const repeated = tree && findRepeated(tree)
  if (repeated !== undefined) {
    const key: unknown = repeated.value
    throw new ConfigurationError(
      `${at(path, text, repeated.offset)}: the key ${describe(key)} is there twice`,
    )
  }
  return object(path, value)
}

function parsed(path: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Node quotes the text, which may hold a token: no cause.
    throw new ConfigurationError(`${path}: expected JSON`)
  }
}

/**
 * Reads HCL as Consul does, with the parser that Consul has. A block is a list of objects: see `shape.ts`.
 * @throws ConfigurationError, with line and column
 */
export async function parseHcl(path: string, text: string): Promise<Json> {
  // JSON is HCL as well, but for its mistakes the parser knows no place.
  if (/^\s*\{/.test(text)) return parseJson(path, text)
  const json = await hclToJson(text).catch((cause: unknown) => {
    throw new ConfigurationError(`${path}:1:1: expected HCL, and it cannot be parsed`, { cause })
  })
  try {
    return object(path, JSON.parse(json))
  } catch (cause) {
    if (cause instanceof ConfigurationError) throw cause
    const [, line = '1', column = '1', said] = /At (\d+):(\d+): (.*)/s.exec(json) ?? []
    // The parser quotes what it found, which may be a token without its quotes.
    const problem = said?.replace(/^Unknown token: .*/s, 'Unknown token').replaceAll(/'[^']*'|"[^"]*"/g, '…')
    throw new ConfigurationError(
      `${path}:${line}:${column}: expected HCL: ${problem?.slice(0, 200) ?? 'a value cannot be parsed'}`,
    )
  }
}

function readTree(path: string, text: string, errors: ParseError[]): Node | undefined {
  try {
    return parseTree(text, errors, { disallowComments: true, allowTrailingComma: false })
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    throw new ConfigurationError(
      `${path}: expected JSON, found more levels inside each other than can be read`,
    )
  }
}

function object(path: string, value: unknown): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw new ConfigurationError(`${path}:1:1: expected an object, got ${describe(value)}`)
}

function at(path: string, text: string, offset: number): string {
  const lines = text.slice(0, offset).split('\n')
  return `${path}:${lines.length}:${(lines.at(-1)?.length ?? 0) + 1}`
}

function findRepeated(node: Node): Node | undefined {
  const seen = new Set<unknown>()
  for (const child of node.children ?? []) {
    const [key, value] = child.type === 'property' ? (child.children ?? []) : []
    if (key !== undefined && seen.has(key.value)) return key
    seen.add(key?.value)
    const inner = findRepeated(value ?? child)
    if (inner !== undefined) return inner
    if (key === undefined) seen.clear()
  }
  return undefined
}
