import {
  type Check,
  DEFAULTS,
  expectSignal,
  expectTimeout,
  optional,
  readOptions,
  withDefault,
} from './validate.js'

/** Options of `ready()` of a service or a proxy configuration. */
export interface ReadyOptions {
  readonly signal?: AbortSignal | undefined
  /** How long to wait, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
}

/** The checks of these options, also for calls that have more. */
export const READY_CHECKS: {
  readonly signal: Check<AbortSignal | undefined>
  readonly timeoutMs: Check<number>
} = {
  signal: optional(expectSignal),
  timeoutMs: withDefault(expectTimeout, DEFAULTS.readyTimeoutMs),
}

/** @throws OptionError */
export function readyBounds(options: ReadyOptions = {}): {
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
} {
  return readOptions(options, READY_CHECKS)
}
