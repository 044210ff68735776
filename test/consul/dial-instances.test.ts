import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { attemptsOf, followEjections } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { joiner } from './service-mesh.js'
import { type Outcome, SteadyDials, assertNoneFailed, shares } from './steady-dials.js'

const PER_SECOND = 100
const FAILURES = 60
/** Shorter than the first ejection, so that the trial succeeds. */
const FAILURE_MS = 400

test('five instances, one of which fails for a moment every second', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const all = await fleet(t, consul, join('api'), 5)
  const web = join('web')
  const attempts = attemptsOf(t)
  const dials = new SteadyDials(t, web, 'api', { perSecond: PER_SECOND })
  await dials.answeredBy(all.length)

  const startedAt = performance.now()
  for (let i = 0; i < FAILURES; i += 1) {
    await sleep(startedAt + i * 1_000 - performance.now())
    const instance = all[i % all.length]!
    await instance.fail(i % 2 === 0 ? 'closes' : 'refuses')
    await sleep(FAILURE_MS)
    await instance.serve()
  }
  const outcomes = await dials.stop()
  const { problems, pauses, ejections, spared } = followEjections(attempts, dials)
  const figures = { ejections, spared, shortest: Math.min(...pauses), longest: Math.max(...pauses) }
  const failures = attempts.filter(({ connected }) => !connected).length
  t.diagnostic(JSON.stringify({ dials: outcomes.length, failures, ...figures, shares: shares(outcomes) }))

  await t.test('no dial fails', () => {
    // A busy machine dials less often.
    assert.ok(outcomes.length > 0.5 * FAILURES * PER_SECOND, `${outcomes.length} dials`)
    assertNoneFailed(outcomes.filter((outcome) => !wasReset(outcome, all)))
  })

  await t.test('a failed instance gets no dial before its trial', () => {
    assert.deepEqual(problems, [])
    assert.ok(ejections > FAILURES / 2, `${ejections} ejections, ${spared} spared`)
  })

  await t.test('every instance gets its share of dials', () => {
    const counts = shares(outcomes)
    // Each instance is ejected for 1 to 1.5 s in every 5 s.
    for (const { name } of all) {
      assert.ok((counts[name] ?? 0) > (0.5 * outcomes.length) / all.length, JSON.stringify(counts))
    }
  })
})

/** Whether the instance failed before it had answered. */
function wasReset({ address, startedAt, endedAt }: Outcome, all: readonly Instance[]): boolean {
  const { failedAt = [] } = all.find((instance) => instance.address === address) ?? {}
  return failedAt.some((at) => at >= startedAt && at <= endedAt)
}
