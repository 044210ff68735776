import { DEFAULTS, expectKeys, expectObject, expectSignal, expectTimeout, optional } from './validate.js'

/** Options of `ready()` of a service or a proxy configuration. */
export interface ReadyOptions {
  readonly signal?: AbortSignal | undefined
  /** How long to wait, in milliseconds; `Infinity` for no limit. @default 10000 */
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
    timeoutMs: optional(expectTimeout)('timeoutMs', timeoutMs) ?? DEFAULTS.readyTimeoutMs,
  }
}
