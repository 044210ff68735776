// Dials at a steady rate, and their outcomes.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { TestContext } from 'node:test'
import { type DialOptions, type MeshSocket, type Service, type Upstream } from '../../src/index.js'
import { readAll, until } from '../fixtures/mesh.js'

export interface Outcome {
  /** By `performance.now`, like all times in this file. */
  readonly startedAt: number
  readonly endedAt: number
  /** The duration of the dial without the exchange, in milliseconds. */
  readonly dialMs: number
  /** `host:port` of the instance; undefined when the dial failed. */
  readonly address: string | undefined
  /** The name of the instance; undefined when it did not answer. */
  readonly instance: string | undefined
  readonly error: (Error & { readonly code?: string }) | undefined
}

/** A connection handler for `dialOnce`: answers one message with the name of the instance and the message. */
export function answerAs(name: string): (socket: MeshSocket) => void {
  return (socket) => socket.once('data', (message: Buffer) => socket.end(`${name} ${message.toString()}`))
}

/** Dials once, reads the name of the instance, and waits until the connection has closed. Never rejects. */
export async function dialOnce(from: Service, upstream: Upstream, options?: DialOptions): Promise<Outcome> {
  const startedAt = performance.now()
  let dialedAt: number | undefined
  let address: string | undefined
  const outcome = (rest: Pick<Outcome, 'instance' | 'error'>): Outcome => {
    const endedAt = performance.now()
    return { startedAt, endedAt, dialMs: (dialedAt ?? endedAt) - startedAt, address, ...rest }
  }
  try {
    const socket = await from.dial(upstream, options)
    dialedAt = performance.now()
    address = `${socket.remoteAddress}:${socket.remotePort}`
    const closed = new Promise((resolve) => socket.once('close', resolve))
    const message = randomUUID()
    socket.write(message)
    const [instance, echoed] = (await readAll(socket)).split(' ')
    await closed
    if (echoed !== message) throw new Error(`${instance} answered ${echoed} to ${message}`)
    return outcome({ instance, error: undefined })
  } catch (error) {
    return outcome({ instance: undefined, error: error as Error })
  }
}

/** Dials one after the other. Fails if one of them fails. */
export async function dialMany(from: Service, count: number, upstream: Upstream): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  for (let i = 0; i < count; i += 1) outcomes.push(await dialOnce(from, upstream))
  assertNoneFailed(outcomes)
  return outcomes
}

/** The bound of parallel dials: a busy machine dials less often instead of falling behind. */
const MAX_PARALLEL_DIALS = 32

/** Dials at a constant rate until `stop()`. */
export class SteadyDials {
  readonly outcomes: Outcome[] = []
  readonly #pending = new Set<Promise<void>>()
  readonly #timer: NodeJS.Timeout

  constructor(
    t: TestContext,
    from: Service,
    upstream: Upstream,
    {
      perSecond,
      maxParallel = MAX_PARALLEL_DIALS,
      ...options
    }: DialOptions & { perSecond: number; maxParallel?: number },
  ) {
    const startedAt = performance.now()
    let started = 0
    this.#timer = setInterval(() => {
      const due = Math.floor(((performance.now() - startedAt) * perSecond) / 1_000)
      for (; started < due; started += 1) {
        if (this.#pending.size >= maxParallel) continue
        const dial: Promise<void> = dialOnce(from, upstream, options).then((outcome) => {
          this.outcomes.push(outcome)
          this.#pending.delete(dial)
        })
        this.#pending.add(dial)
      }
    }, 1_000 / perSecond)
    t.after(() => this.stop())
  }

  /** Waits until this number of instances has answered. */
  async answeredBy(count: number): Promise<void> {
    await until(`${count} instances have answered`, () => instanceNames(this.outcomes).length === count)
  }

  /** When the last of the dials that were pending at a time ended. */
  pendingUntil(at: number): number {
    const ends = this.outcomes.map(({ startedAt, dialMs }) => ({ startedAt, end: startedAt + dialMs }))
    return Math.max(
      at,
      ...ends.filter(({ startedAt, end }) => startedAt <= at && end >= at).map(({ end }) => end),
    )
  }

  /** The number of dials that started in this interval. */
  startedBetween(from: number, to: number): number {
    return this.outcomes.filter(({ startedAt }) => startedAt >= from && startedAt <= to).length
  }

  /** Starts no more dials, and waits for the pending ones. */
  async stop(): Promise<readonly Outcome[]> {
    clearInterval(this.#timer)
    await Promise.all(this.#pending)
    return this.outcomes
  }
}

/** The number of answers of each instance. */
export function shares(outcomes: readonly Outcome[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { instance } of outcomes) {
    if (instance !== undefined) counts[instance] = (counts[instance] ?? 0) + 1
  }
  return counts
}

/** The names of the instances that answered, sorted. */
export function instanceNames(outcomes: readonly Outcome[]): string[] {
  return Object.keys(shares(outcomes)).toSorted()
}

/** Fails if a dial failed, with the count of each error. */
export function assertNoneFailed(outcomes: readonly Outcome[]): void {
  const counts = new Map<string, number>()
  for (const { error } of outcomes) {
    if (error === undefined) continue
    const kind = `${error.code ?? ''} ${error.message}`.replace(/\(\d+ ms\)/g, '')
    counts.set(kind, (counts.get(kind) ?? 0) + 1)
  }
  const errors = [...counts].map(([kind, count]) => `${count} x ${kind}`)
  if (errors.length > 0) assert.fail(`of ${outcomes.length} dials\n${errors.join('\n')}`)
}
