import { DEFAULTS, expectKeys, expectObject, expectSignal, expectTimeout, optional } from './validate.js'

/** Options of `ready()` of a service or a proxy configuration. */
export interface ReadyOptions {
  readonly signal?: AbortSignal | undefined
  /** How long to wait, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
}

interface ReadyBounds {
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
}

/** @throws OptionError */
export function readyBounds(options: ReadyOptions = {}): ReadyBounds {
  expectKeys('options', expectObject('options', options), ['signal', 'timeoutMs'])
  return readyBoundsOf(options)
}

/**
 * Reads the bounds from options that may have more keys.
 * @throws OptionError
 */
export function readyBoundsOf({ signal, timeoutMs }: ReadyOptions): ReadyBounds {
  return {
    signal: optional(expectSignal)('signal', signal),
    timeoutMs: optional(expectTimeout)('timeoutMs', timeoutMs) ?? DEFAULTS.readyTimeoutMs,
  }
}
