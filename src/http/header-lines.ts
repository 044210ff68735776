/** Headers as undici passes them: name, value, name, value. */
export type RawHeaders = Buffer[]

/** Converts headers to lines, with a character for each byte: name, value, name, value. */
export function linesOf(headers: RawHeaders): string[] {
  return headers.map((item) => item.toString('latin1'))
}

export function pairsOf(lines: readonly string[]): [name: string, value: string][] {
  return lines.flatMap((name, i) => (i % 2 === 0 ? [[name, lines[i + 1] ?? '']] : []))
}

/** Returns the first value of a header. @param name - in lower case */
export function valueOf(headers: readonly Buffer[], name: string): string | undefined {
  const at = headers.findIndex((item, i) => i % 2 === 0 && item.toString('latin1').toLowerCase() === name)
  return at === -1 ? undefined : headers[at + 1]?.toString('latin1')
}
