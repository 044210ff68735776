import { duration, expectKeys, expectObject } from './options.js'

/** Options of `close`: of a service, a listener or a forward. */
export interface CloseOptions {
  /** How long to wait for open connections before they are cut, in milliseconds. @default the service's */
  readonly drainTimeoutMs?: number | undefined
}

/** @throws OptionError */
export function drainTimeout(given: CloseOptions | undefined, otherwise: number): number {
  const options = expectObject('options', given ?? {}) as CloseOptions
  expectKeys('options', options, ['drainTimeoutMs'])
  return duration('drainTimeoutMs', options.drainTimeoutMs, otherwise)
}
