import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { attemptsOf, followEjections } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { joiner, until } from './service-mesh.js'
import { type Outcome, SteadyDials, assertNoneFailed, shares } from './steady-dials.js'

const PER_SECOND = 100
const DEATHS = 60
/** How long each is dead: shorter than the first ejection, so that its trial finds it alive. */
const DEAD_MS = 400

test('five instances, one of which dies every second and comes back', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const all = await fleet(t, consul, join('api'), 5)
  const web = join('web')
  const attempts = attemptsOf(t)
  const dials = new SteadyDials(t, web, 'api', { perSecond: PER_SECOND })
  await until('all have answered', () => Object.keys(shares(dials.outcomes)).length === all.length)

  const startedAt = performance.now()
  for (let i = 0; i < DEATHS; i += 1) {
    await sleep(startedAt + i * 1_000 - performance.now())
    const victim = all[i % all.length]!
    await victim.die(i % 2 === 0 ? 'closes' : 'refuses')
    await sleep(DEAD_MS)
    await victim.live()
  }
  const outcomes = await dials.stop()
  const { problems, pauses, ejections, spared } = followEjections(attempts, dials)
  const figures = { ejections, spared, shortest: Math.min(...pauses), longest: Math.max(...pauses) }
  const failures = attempts.filter(({ connected }) => !connected).length
  t.diagnostic(JSON.stringify({ dials: outcomes.length, failures, ...figures, shares: shares(outcomes) }))

  await t.test('no dial fails', () => {
    // A busy machine makes fewer, and some of them would prove nothing.
    assert.ok(outcomes.length > 0.5 * DEATHS * PER_SECOND, `${outcomes.length} dials`)
    assertNoneFailed(outcomes.filter((outcome) => !wasCut(outcome, all)))
  })

  await t.test('one that has failed is left alone until its trial', () => {
    assert.deepEqual(problems, [])
    // Otherwise nothing was proved.
    assert.ok(ejections > DEATHS / 2, `${ejections} ejections, ${spared} spared`)
  })

  await t.test('and nobody is forgotten', () => {
    const counts = shares(outcomes)
    // Each is away for its ejection, of 1 to 1.5 s, and its trial, in every 5 s.
    for (const { name } of all) {
      assert.ok((counts[name] ?? 0) > (0.5 * outcomes.length) / all.length, JSON.stringify(counts))
    }
  })
})

/** Whether the instance that it came to died before it had answered. */
function wasCut({ address, startedAt, endedAt }: Outcome, all: readonly Instance[]): boolean {
  const { deaths = [] } = all.find((instance) => instance.address === address) ?? {}
  return deaths.some((at) => at >= startedAt && at <= endedAt)
}
