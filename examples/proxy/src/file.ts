import { readFileSync } from 'node:fs'
import { UsageError } from './command-line.js'

/** The values of a file, by their keys. */
export type Json = Readonly<Record<string, unknown>>

/**
 * Reads a JSON object.
 * @throws UsageError, with the place and without the content of the file
 */
export function readFile(path: string): Json {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(`-config-file: ${path} cannot be read (${code ?? 'unknown error'})`, {
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
    const place = placeOf(error, text)
    // Node quotes the text, which may hold anything: no cause.
    throw new UsageError(`${path}${place}: expected JSON`)
  }
}

/** `:line:column` of a syntax error, where Node reports it. */
function placeOf(error: unknown, text: string): string {
  const position = /at position (\d+)/.exec(String(error))?.[1]
  if (position === undefined) return ''
  const before = text.slice(0, Number(position)).split('\n')
  return `:${before.length}:${(before.at(-1)?.length ?? 0) + 1}`
}
