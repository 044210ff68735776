/** Removes the query, and the fragment that a request should not have. */
export function withoutQuery(path: string): string {
  const query = path.indexOf('?')
  const end = query < 0 ? path.length : query
  const fragment = path.indexOf('#')
  return path.slice(0, fragment < 0 ? end : Math.min(end, fragment))
}

/**
 * Returns the first value of a parameter, which Envoy compares as it is sent, without decoding it; an empty string for a
 * parameter without a value.
 */
export function parameterOf(path: string, name: string): string | undefined {
  let start = path.indexOf('?') + 1
  if (start === 0) return undefined
  const fragment = path.indexOf('#')
  const end = fragment < 0 ? path.length : fragment
  while (start < end) {
    const next = path.indexOf('&', start)
    const stop = next < 0 || next > end ? end : next
    if (path.startsWith(name, start)) {
      const after = start + name.length
      if (after === stop) return ''
      if (after < stop && path[after] === '=') return path.slice(after + 1, stop)
    }
    start = stop + 1
  }
  return undefined
}
