import { type Node, type ParseErrorCode, parseTree, printParseErrorCode, visit } from 'jsonc-parser'
import { expectShallow, expectShallowText } from './depth.js'
import { ConfigurationError, describe } from './error.js'
import { hclToJson } from './hcl.js'

/** An object that was parsed but not validated. */
export type Json = Readonly<Record<string, unknown>>

/**
 * Parses a JSON object. Rejects repeated keys, because one of the two values would be ignored.
 * @throws ConfigurationError, with line and column
 */
export function parseJson(path: string, text: string): Json {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The error of JSON.parse quotes the input, which may hold a token, so it is not the cause.
    throw syntaxError(path, text)
  }
  expectShallow(path, value)
  const tree = parseTree(text)
  const repeated = tree && findRepeated(tree)
  if (repeated !== undefined) {
    const key: unknown = repeated.value
    throw new ConfigurationError(`${at(path, text, repeated.offset)}: duplicate key ${describe(key)}`)
  }
  return object(path, value)
}

class FirstError extends Error {
  readonly error: ParseErrorCode
  readonly offset: number

  constructor(error: ParseErrorCode, offset: number) {
    super()
    this.error = error
    this.offset = offset
  }
}

function syntaxError(path: string, text: string): ConfigurationError {
  const onError = (error: ParseErrorCode, offset: number): never => {
    // Stops at the first error: an invalid file may have one at each character.
    throw new FirstError(error, offset)
  }
  try {
    visit(text, { onError }, { disallowComments: true, allowTrailingComma: false })
  } catch (error) {
    if (error instanceof RangeError) {
      return new ConfigurationError(`${path}: expected JSON: nested too deeply`)
    }
    if (!(error instanceof FirstError)) throw error
    const found = printParseErrorCode(error.error).replaceAll(
      /\B[A-Z]/g,
      (letter) => ` ${letter.toLowerCase()}`,
    )
    return new ConfigurationError(`${at(path, text, error.offset)}: expected JSON: ${found.toLowerCase()}`)
  }
  return new ConfigurationError(`${path}: expected JSON`)
}

/**
 * Parses HCL with the parser of Consul. A block becomes a list of objects, which `unwrapBlocks` converts.
 * @throws ConfigurationError, with line and column
 */
export async function parseHcl(path: string, text: string): Promise<Json> {
  // JSON is valid HCL, but the HCL parser reports no position for errors in JSON.
  if (/^\s*\{/.test(text)) return parseJson(path, text)
  expectShallowText(path, text)
  const json = await hclToJson(text).catch((cause: unknown) => {
    throw new ConfigurationError(`${path}:1:1: expected HCL: cannot be parsed`, { cause })
  })
  try {
    const value: unknown = JSON.parse(json)
    expectShallow(path, value)
    return object(path, value)
  } catch (cause) {
    if (cause instanceof ConfigurationError) throw cause
    const [, line = '1', column = '1', parserMessage] = /At (\d+):(\d+): (.*)/s.exec(json) ?? []
    // The parser quotes the input, which may be an unquoted token.
    const problem = parserMessage
      ?.replace(/^Unknown token: .*/s, 'Unknown token')
      .replaceAll(/'[^']*'|"[^"]*"/g, '…')
    throw new ConfigurationError(
      `${path}:${line}:${column}: expected HCL: ${problem?.slice(0, 200) ?? 'a value cannot be parsed'}`,
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
