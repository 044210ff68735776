/**
 * An expression of Go's regexp package as one of JavaScript's: the flags at its start, named groups and the anchors
 * of the whole text are written otherwise. Throws an error in Go's words.
 */
export function compileGoRegexp(expression: string): RegExp {
  const [start = '', flags = ''] = /^\(\?([ims]+)\)/.exec(expression) ?? []
  const source = expression
    .slice(start.length)
    .replaceAll('(?P<', '(?<')
    .replace(/\\([pP])(\w)/g, '\\$1{$2}')
    .replace(/\\A/g, '(?<![\\s\\S])')
    .replace(/\\z/g, '(?![\\s\\S])')
  try {
    // Go takes escapes and braces that JavaScript refuses in its Unicode mode, which only classes like \pL need.
    return new RegExp(source, /\\[pP]/.test(source) ? `u${flags}` : flags)
  } catch (cause) {
    throw new Error(`error parsing regexp: ${explain(expression, cause)}`, { cause })
  }
}

function explain(expression: string, cause: unknown): string {
  const message = cause instanceof Error ? cause.message : ''
  if (message.includes('Unterminated group')) return `missing closing ): \`${expression}\``
  if (message.includes('Unmatched')) return `unexpected ): \`${expression}\``
  if (message.includes('Unterminated character class')) {
    return `missing closing ]: \`${expression.slice(expression.lastIndexOf('['))}\``
  }
  const repeated = /(^|[(|])([*+?])/.exec(expression)?.[2]
  if (message.includes('Nothing to repeat') && repeated !== undefined)
    return `missing argument to repetition operator: \`${repeated}\``
  return `invalid syntax: \`${expression}\``
}
