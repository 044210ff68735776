// Dials at a steady rate, each of which asks who answers, and what became of them.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { TestContext } from 'node:test'
import { type DialOptions, type MeshSocket, type Service, type Upstream } from '../../src/index.js'
import { readAll } from '../fixtures/mesh.js'

export interface Outcome {
  /** By `performance.now`, as all times here. */
  readonly startedAt: number
  readonly endedAt: number
  /** How long the dial alone took, in milliseconds. */
  readonly dialMs: number
  /** `host:port` of the instance that the dial came to; undefined when it failed. */
  readonly address: string | undefined
  /** What the instance calls itself; undefined when it did not answer. */
  readonly instance: string | undefined
  readonly error: (Error & { readonly code?: string }) | undefined
}

/** The other end of `SteadyDials`: one line comes in, and goes out with the instance's name before it. */
export function answerAs(name: string): (socket: MeshSocket) => void {
  return (socket) => socket.once('data', (said: Buffer) => socket.end(`${name} ${said.toString()}`))
}

/** Dials once, asks the instance for its name, and waits until the connection is gone. Never rejects. */
export async function dialOnce(from: Service, upstream: Upstream, options?: DialOptions): Promise<Outcome> {
  const startedAt = performance.now()
  let dialledAt: number | undefined
  let address: string | undefined
  const outcome = (rest: Pick<Outcome, 'instance' | 'error'>): Outcome => {
    const endedAt = performance.now()
    return { startedAt, endedAt, dialMs: (dialledAt ?? endedAt) - startedAt, address, ...rest }
  }
  try {
    const socket = await from.dial(upstream, options)
    dialledAt = performance.now()
    address = `${socket.remoteAddress}:${socket.remotePort}`
    const closed = new Promise((resolve) => socket.once('close', resolve))
    const word = randomUUID()
    socket.write(word)
    const [instance, heard] = (await readAll(socket)).split(' ')
    await closed
    if (heard !== word) throw new Error(`it answered ${instance} ${heard} to ${word}`)
    return outcome({ instance, error: undefined })
  } catch (error) {
    return outcome({ instance: undefined, error: error as Error })
  }
}

/** No more dials than these run at a time, so that a busy machine dials less often instead of falling behind. */
const MOST_AT_A_TIME = 32

/** So many dials a second, until they are stopped. */
export class SteadyDials {
  readonly outcomes: Outcome[] = []
  readonly #underWay = new Set<Promise<void>>()
  readonly #timer: NodeJS.Timeout

  constructor(
    t: TestContext,
    from: Service,
    upstream: Upstream,
    {
      perSecond,
      mostAtATime = MOST_AT_A_TIME,
      ...options
    }: DialOptions & { perSecond: number; mostAtATime?: number },
  ) {
    const startedAt = performance.now()
    let begun = 0
    this.#timer = setInterval(() => {
      const due = Math.floor(((performance.now() - startedAt) * perSecond) / 1_000)
      for (; begun < due; begun += 1) {
        if (this.#underWay.size >= mostAtATime) continue
        const dial: Promise<void> = dialOnce(from, upstream, options).then((outcome) => {
          this.outcomes.push(outcome)
          this.#underWay.delete(dial)
        })
        this.#underWay.add(dial)
      }
    }, 1_000 / perSecond)
    t.after(() => this.stop())
  }

  /** When the last of those that were under way at a time was through with its instances. */
  underWayUntil(at: number): number {
    const ends = this.outcomes.map(({ startedAt, dialMs }) => ({ startedAt, end: startedAt + dialMs }))
    return Math.max(
      at,
      ...ends.filter(({ startedAt, end }) => startedAt <= at && end >= at).map(({ end }) => end),
    )
  }

  /** How many were begun in a time. */
  begunBetween(from: number, to: number): number {
    return this.outcomes.filter(({ startedAt }) => startedAt >= from && startedAt <= to).length
  }

  /** Starts no more, and waits for those that are under way. */
  async stop(): Promise<readonly Outcome[]> {
    clearInterval(this.#timer)
    await Promise.all(this.#underWay)
    return this.outcomes
  }
}

/** How often each instance answered. */
export function shares(outcomes: readonly Outcome[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { instance } of outcomes) {
    if (instance !== undefined) counts[instance] = (counts[instance] ?? 0) + 1
  }
  return counts
}

function failures(outcomes: readonly Outcome[]): Outcome[] {
  return outcomes.filter(({ error }) => error !== undefined)
}

/** What went wrong: each kind once, and how often. */
function told(outcomes: readonly Outcome[]): string {
  const kinds = new Map<string, number>()
  for (const { error } of failures(outcomes)) {
    const kind = `${error?.code ?? ''} ${error?.message ?? ''}`.replace(/\(\d+ ms\)/g, '')
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
  }
  return [...kinds].map(([kind, count]) => `${count} x ${kind}`).join('\n')
}

/** With few words, however many there were. */
export function assertNoneFailed(outcomes: readonly Outcome[]): void {
  if (failures(outcomes).length > 0) assert.fail(`of ${outcomes.length} dials\n${told(outcomes)}`)
}
