import { expectDurationOrNone, readOptions, withDefault } from './validate.js'

/** Options of `close()` of a service, a listener, or a forward. */
export interface CloseOptions {
  /**
   * How long to wait for open connections before they are cut, in milliseconds; 0 cuts at once. @default that of the
   * service
   */
  readonly drainTimeoutMs?: number | undefined
}

/** @throws OptionError */
export function drainTimeout(given: CloseOptions | undefined, otherwise: number): number {
  return readOptions(given ?? {}, { drainTimeoutMs: withDefault(expectDurationOrNone, otherwise) })
    .drainTimeoutMs
}
