// Random sessions, and damaged ones. MUX_FUZZ_SECONDS sets the time, and MUX_FUZZ_SEED the first seed.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { MuxSession } from '../../src/transport/mux/session.js'
import { MuxStream } from '../../src/transport/mux/stream.js'
import { damage, feed, runSession } from '../fixtures/mux-fuzz.js'

const SECONDS = Number(process.env['MUX_FUZZ_SECONDS'] ?? 6)
const FIRST_SEED = Number(process.env['MUX_FUZZ_SEED'] ?? 1)
/** Damaged copies of each recorded session, for each end. */
const DAMAGED = 10

interface Findings {
  readonly problems: string[]
  sessions: number
  damaged: number
  /** How many damaged ones have ended the session. */
  broken: number
  bytes: number
}

/** Runs for a time, and stops at the first problem. */
async function fuzz(seconds: number): Promise<Findings> {
  const found: Findings = { problems: [], sessions: 0, damaged: 0, broken: 0, bytes: 0 }
  const end = performance.now() + seconds * 1_000
  for (let seed = FIRST_SEED; performance.now() < end; seed += 1) {
    await fuzzOne(seed, found)
    if (found.problems.length > 0) break
  }
  return found
}

async function fuzzOne(seed: number, found: Findings): Promise<void> {
  const run = await runSession(seed)
  found.sessions += 1
  found.bytes += run.bytes
  found.problems.push(...run.problems.map((problem) => `seed ${seed}: ${problem}`))
  if (run.problems.length > 0) return
  for (let i = 0; i < DAMAGED; i += 1) {
    for (const role of ['dialer', 'listener'] as const) {
      const bytes = damage(role === 'listener' ? run.fromDialer : run.fromListener, seed * 1_000 + i)
      const { problems, error } = await feed(bytes, role, seed * 1_000 + i)
      found.damaged += 1
      if (error !== undefined) found.broken += 1
      found.problems.push(...problems.map((problem) => `seed ${seed}, damage ${i}, ${role}: ${problem}`))
    }
  }
}

describe('random sessions', () => {
  it('deliver what was sent, and damaged ones end without a trace', async (t) => {
    const { problems, sessions, damaged, broken, bytes } = await fuzz(SECONDS)
    t.diagnostic(`${sessions} sessions, ${bytes} bytes, ${damaged} damaged, of which ${broken} were refused`)
    assert.deepEqual(problems, [])
    assert.ok(sessions > 20 && broken > damaged / 4, `${sessions} sessions, ${broken} of ${damaged}`)
  })

  /** Makes every fifth stream skip a method. */
  function skip<K extends string>(prototype: Record<K, (...args: never[]) => void>, method: K): () => void {
    const original = prototype[method]
    prototype[method] = function (this: MuxStream, ...args: never[]) {
      const [stream = this] = args as unknown[] as (MuxStream | undefined)[]
      if (stream.id % 5 !== 0) Reflect.apply(original, this, args)
    }
    return () => (prototype[method] = original)
  }
  const planted: Readonly<Record<string, () => () => void>> = {
    'a credit that is not returned': () => skip(MuxSession.prototype, 'taken'),
    'an end that is lost': () => skip(MuxStream.prototype, 'receiveEnd'),
  }
  for (const [name, plant] of Object.entries(planted)) {
    it(`find ${name} within the time of a run`, async () => {
      const heal = plant()
      try {
        const { problems } = await fuzz(SECONDS)
        assert.match(problems[0] ?? 'nothing', /streams do not end/)
      } finally {
        heal()
      }
    })
  }
})
