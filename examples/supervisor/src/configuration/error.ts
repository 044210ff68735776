import { printable } from 'consul-connect-proxy/printable'

/** An invalid value in the configuration. The message names the file, the place in the file, and what was expected. */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError'

  constructor(message: string, options?: ErrorOptions) {
    super(printable(message), options)
  }
}

/** Describes a value for a message. Long strings and objects are left out: they may hold a secret. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'string') return value.length > 64 ? 'a long string' : JSON.stringify(value)
  if (typeof value === 'number' || typeof value === 'boolean') return `the ${typeof value} ${String(value)}`
  return 'an object'
}
