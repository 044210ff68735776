import { readFileSync } from 'node:fs'
import { UsageError } from './command-line.js'

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>

/**
 * Reads a configuration file, which must hold a JSON object.
 * @throws UsageError with the path and position, never with content of the file
 */
export function readConfigFile(path: string): Json {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(`-config-file: cannot read ${path} (${code ?? 'unknown error'})`, {
      cause: error,
    })
  }
  const parsed = parseJson(path, text)
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as Json
  throw new UsageError(
    `${path}: expected a JSON object, got ${Array.isArray(parsed) ? 'an array' : typeof parsed}`,
  )
}

function parseJson(path: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const position = positionOf(error, text)
    // No cause: the message of Node.js quotes the file, which may hold secrets.
    throw new UsageError(`${path}${position}: invalid JSON; expected a JSON object`)
  }
}

/** Returns `:line:column` of a syntax error; an empty string if Node.js does not report the position. */
function positionOf(error: unknown, text: string): string {
  const position = /at position (\d+)/.exec(String(error))?.[1]
  if (position === undefined) return ''
  const before = text.slice(0, Number(position)).split('\n')
  return `:${before.length}:${(before.at(-1)?.length ?? 0) + 1}`
}
