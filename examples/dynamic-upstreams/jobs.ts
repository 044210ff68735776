// Messages on the queue: one job or result per line, as JSON.
import type { Upstream } from 'consul-connect'

export interface Job {
  readonly id: number
  /** An upstream, or a key of the KV store that holds one. */
  readonly upstream: Upstream | { readonly kv: string }
  /** `text` sends the payload over a mesh connection; `http` sends a GET request through a local port. */
  readonly protocol: 'text' | 'http'
  readonly payload: string
}

export interface Result {
  readonly id: number
  readonly answer?: string
  readonly error?: string
}

/**
 * Parses and validates a job. The upstream is validated by `dial()` or `forward()`.
 * @throws Error for an invalid job
 */
export function parseJob(line: string): Job {
  const job = JSON.parse(line) as Partial<Record<keyof Job, unknown>>
  const { id, upstream, protocol, payload } = job
  if (
    !Number.isSafeInteger(id) ||
    (protocol !== 'text' && protocol !== 'http') ||
    typeof payload !== 'string'
  ) {
    throw new Error(`invalid job: ${line.slice(0, 200)}`)
  }
  if (typeof upstream !== 'string' && (typeof upstream !== 'object' || upstream === null)) {
    throw new Error(`job ${String(id)}: upstream is missing`)
  }
  return { id: id as number, upstream: upstream as Upstream, protocol, payload }
}

export function parseResult(line: string): Result {
  return JSON.parse(line) as Result
}
