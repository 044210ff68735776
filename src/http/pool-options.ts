import { OptionError, toError } from '../base/errors.js'
import {
  expectDuration,
  expectKeys,
  expectObject,
  readOptions,
  withDefault,
} from '../base/options/validate.js'

/** Options of a client with a pool of another library. */
export interface PooledOptions<P extends object> {
  readonly dialTimeoutMs?: number | undefined
  readonly pool?: P | undefined
}

/**
 * Validates the options of a pooled client.
 * @param owner - the class of the pool, for messages
 * @param keys - the supported options of the pool
 * @param tryOut - creates a pool, which throws for invalid values
 * @throws OptionError
 */
export function readPooled<P extends object>(
  given: PooledOptions<P>,
  dialTimeoutMs: number,
  { owner, keys, tryOut }: { owner: string; keys: readonly string[]; tryOut: (pool: P) => void },
): { readonly timeoutMs: number; readonly pool: P } {
  const options = readOptions(given, {
    dialTimeoutMs: withDefault(expectDuration, dialTimeoutMs),
    pool: withDefault(expectObject, {}),
  })
  const pool = { ...options.pool } as P
  expectKeys('pool', pool, keys)
  try {
    tryOut(pool)
  } catch (cause) {
    if (cause instanceof OptionError) throw cause
    throw new OptionError('pool', `options as ${owner} takes them`, toError(cause).message, { cause })
  }
  return { timeoutMs: options.dialTimeoutMs, pool }
}
