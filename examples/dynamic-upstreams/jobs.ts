// What goes over the queue: a job a line, and a result a line. Both are JSON, and neither is trusted.
import type { Upstream } from 'consul-connect'

export interface Job {
  readonly id: number
  /** Whom to ask: an upstream, or the name of one that the KV store knows. */
  readonly upstream: Upstream | { readonly kv: string }
  /** How: a line over a connection of the mesh, or a GET through a local port by a client that knows no mesh. */
  readonly by: 'line' | 'http'
  readonly payload: string
}

export interface Result {
  readonly id: number
  readonly answer?: string
  readonly error?: string
}

/** Checks what a queue says. What an upstream may be is checked by whoever dials it. */
export function parseJob(line: string): Job {
  const job = JSON.parse(line) as Partial<Record<keyof Job, unknown>>
  const { id, upstream, by, payload } = job
  if (!Number.isSafeInteger(id) || (by !== 'line' && by !== 'http') || typeof payload !== 'string') {
    throw new Error(`not a job: ${line.slice(0, 200)}`)
  }
  if (typeof upstream !== 'string' && (typeof upstream !== 'object' || upstream === null)) {
    throw new Error(`job ${String(id)} names no upstream`)
  }
  return { id: id as number, upstream: upstream as Upstream, by, payload }
}

export function parseResult(line: string): Result {
  return JSON.parse(line) as Result
}
