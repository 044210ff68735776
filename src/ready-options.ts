import { DEFAULTS, duration, expectKeys, expectObject, expectSignal, optional } from './options.js'

/** Options of `ready`: of a service, and of a proxy's configuration. */
export interface ReadyOptions {
  readonly signal?: AbortSignal | undefined
  /** How long to wait for the first one, in milliseconds. @default 10000 */
  readonly timeoutMs?: number | undefined
}

/** @throws OptionError */
export function readyBounds(given: ReadyOptions = {}): {
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  const { signal, timeoutMs } = expectObject('options', given) as ReadyOptions
  expectKeys('options', given, ['signal', 'timeoutMs'])
  return {
    signal: optional(expectSignal)('signal', signal),
    timeoutMs: duration('timeoutMs', timeoutMs, DEFAULTS.readyTimeoutMs),
  }
}
