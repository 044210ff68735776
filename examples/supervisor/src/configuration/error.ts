/** A mistake in what an operator wrote: which file, where in it, what was expected and what was found. */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError'
}

/** What a value is, for a message; long ones and those that may be secret are not shown. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'string') return value.length > 64 ? 'a long string' : JSON.stringify(value)
  if (typeof value === 'number' || typeof value === 'boolean') return `the ${typeof value} ${String(value)}`
  return 'an object'
}
