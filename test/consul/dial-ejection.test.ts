import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DialError } from '../../src/index.js'
import { waitBound } from '../fixtures/bounds.js'
import { attemptsOf, followEjections } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { joiner, until } from './service-mesh.js'
import { SteadyDials, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

const PER_SECOND = 100
/** Failed trials, after ejections of at most 1.5, 3, and 6 s. */
const TRIALS = 3

test('instances that fail for seconds', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  await t.test('one: it gets trials after 1, 2, and 4 s, each with up to 50 % of jitter', async (t) => {
    const all = await startFleet('one')
    const [failing] = all as [Instance]
    const attempts = attemptsOf(t)
    const dials = new SteadyDials(t, web, 'one', { perSecond: PER_SECOND })
    await dials.answeredBy(all.length)
    await failing.fail('closes')
    await until(
      'the trials have failed',
      () => followEjections(attempts, dials).pauses.length === TRIALS,
      waitBound(20_000),
    )
    await failing.serve()
    const before = dials.outcomes.length
    await until(
      'the instance answers again',
      () => failing.name in shares(dials.outcomes.slice(before)),
      waitBound(20_000),
    )
    const outcomes = await dials.stop()
    const { problems, pauses } = followEjections(attempts, dials)
    t.diagnostic(JSON.stringify({ dials: outcomes.length, calls: failing.calls.length, pauses }))
    // The failure resets the open connections of the instance.
    assertNoneFailed(outcomes.filter(({ address }) => address !== failing.address))
    assert.deepEqual(problems, [])
    // The failed trials, and the successful one.
    assert.equal(pauses.length, TRIALS + 1)
    const failed = attempts.filter(({ address, connected }) => address === failing.address && !connected)
    const calls = failing.calls.length
    assert.ok(calls >= TRIALS && calls <= failed.length, `${calls} calls`)
  })

  await t.test('more than half of them: the others serve all dials', async (t) => {
    const all = await startFleet('half')
    const dials = new SteadyDials(t, web, 'half', { perSecond: PER_SECOND })
    await dials.answeredBy(all.length)
    for (const instance of all.slice(1)) await instance.fail('refuses')
    const before = dials.outcomes.length
    await until('three seconds of dials', () => dials.outcomes.length > before + 3 * PER_SECOND)
    const outcomes = (await dials.stop()).slice(before)
    assertNoneFailed(outcomes.filter(({ address }) => address === undefined))
  })

  await t.test('all of them: a dial tries each once and fails at once, until one recovers', async () => {
    const all = await startFleet('none')
    for (const instance of all) await instance.fail('refuses')
    for (let i = 0; i < 3; i += 1) {
      const { error, dialMs } = await dialOnce(web, 'none')
      assert.ok(error instanceof DialError, String(error))
      assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
      const tried = error.attempts.map(({ address }) => address)
      assert.deepEqual(tried.toSorted(), all.map(({ address }) => address).toSorted())
      assert.ok(dialMs < 1_000, `it took ${dialMs} ms`)
    }
    await all[3]?.serve()
    for (let i = 0; i < 20; i += 1) assert.equal((await dialOnce(web, 'none')).instance, all[3]?.name)
  })

  await t.test('one that stays silent: few dials wait for it', async (t) => {
    const all = await startFleet('silent')
    const [silent] = all as [Instance]
    const dials = new SteadyDials(t, web, 'silent', { perSecond: PER_SECOND })
    await dials.answeredBy(all.length)
    await silent.fail('stays silent')
    await until('a dial has reached it', () => silent.calls.length > 0)
    const before = dials.outcomes.length
    await until('six seconds of dials', () => dials.outcomes.length > before + 6 * PER_SECOND)
    await silent.serve()
    const outcomes = await dials.stop()
    const slow = outcomes.filter(({ dialMs }) => dialMs > 1_000)
    t.diagnostic(
      JSON.stringify({
        dials: outcomes.length,
        slow: slow.length,
        slowest: Math.max(...slow.map(({ dialMs }) => dialMs)),
        calls: silent.calls.length,
      }),
    )
    assertNoneFailed(outcomes.filter(({ address }) => address !== silent.address))
    // The dials before the first of them timed out, and one dial for each trial.
    assert.ok(silent.calls.length <= 20, `${silent.calls.length} dials`)
  })

  function startFleet(name: string): Promise<Instance[]> {
    return fleet(t, consul, join(name), 5)
  }
})
