import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { DialError } from '../../src/index.js'
import { attemptsOf, followEjections } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { instances, joiner, until } from './service-mesh.js'
import { Program } from './service-program.js'
import { SteadyDials, assertNoneFailed, dialOnce, shares } from './steady-dials.js'
import { waitBound } from '../fixtures/bounds.js'

const PER_SECOND = 100
/** How long the instance is dead whose trials are counted: three ejections of at most 1.5, 3 and 6 s. */
const TRIALS = 3
test('instances that are dead for longer', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  await t.test('one: it is tried after 1, 2 and 4 s, and half as long again at most', async (t) => {
    const all = await offered('one')
    const [dead] = all as [Instance]
    const attempts = attemptsOf(t)
    const dials = new SteadyDials(t, web, 'one', { perSecond: PER_SECOND })
    await everybodyAnswers(dials, all)
    await dead.die('closes')
    await until(
      'its trials',
      () => followEjections(attempts, dials).pauses.length === TRIALS,
      waitBound(20_000),
    )
    await dead.live()
    const before = dials.outcomes.length
    await until(
      'it answers again',
      () => dead.name in shares(dials.outcomes.slice(before)),
      waitBound(20_000),
    )
    const outcomes = await dials.stop()
    const { problems, pauses } = followEjections(attempts, dials)
    t.diagnostic(JSON.stringify({ dials: outcomes.length, calls: dead.calls.length, pauses }))
    // It was cut off in the middle of some.
    assertNoneFailed(outcomes.filter(({ address }) => address !== dead.address))
    assert.deepEqual(problems, [])
    // Three that failed, and the one that brought it back.
    assert.equal(pauses.length, TRIALS + 1)
    // It has seen no more of them itself.
    const tries = attempts.filter(({ address, connected }) => address === dead.address && !connected)
    assert.ok(dead.calls.length >= TRIALS && dead.calls.length <= tries.length, `${dead.calls.length} calls`)
  })

  await t.test('more than half of them: the others serve, and no dial fails', async (t) => {
    const all = await offered('half')
    const dials = new SteadyDials(t, web, 'half', { perSecond: PER_SECOND })
    await everybodyAnswers(dials, all)
    for (const instance of all.slice(1)) await instance.die('refuses')
    const before = dials.outcomes.length
    await until('dials', () => dials.outcomes.length > before + 3 * PER_SECOND)
    const outcomes = (await dials.stop()).slice(before)
    assertNoneFailed(outcomes.filter(({ address }) => address === undefined))
    for (const instance of all) if (!instance.isAlive) await instance.live()
  })

  await t.test('all of them: a dial tries each once, says so at once, and finds who comes back', async () => {
    const all = await offered('none')
    for (const instance of all) await instance.die('refuses')
    for (let i = 0; i < 3; i += 1) {
      const { error, dialMs } = await dialOnce(web, 'none')
      assert.ok(error instanceof DialError, String(error))
      assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
      const tried = error.attempts.map(({ address }) => address)
      assert.deepEqual(tried.toSorted(), all.map(({ address }) => address).toSorted())
      assert.ok(dialMs < 1_000, `it took ${dialMs} ms`)
    }
    await all[3]?.live()
    for (let i = 0; i < 20; i += 1) assert.equal((await dialOnce(web, 'none')).instance, all[3]?.name)
  })

  await t.test('one that accepts and says nothing: few dials wait for it', async (t) => {
    const all = await offered('silent')
    const [silent] = all as [Instance]
    const dials = new SteadyDials(t, web, 'silent', { perSecond: PER_SECOND })
    await everybodyAnswers(dials, all)
    await silent.die('says nothing')
    await until('it was called', () => silent.calls.length > 0)
    const before = dials.outcomes.length
    await until('dials', () => dials.outcomes.length > before + 6 * PER_SECOND)
    await silent.live()
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
    // Those that came to it before the first of them gave up, and one for each trial.
    assert.ok(silent.calls.length <= 20, `${silent.calls.length} dials came to it`)
  })

  await t.test('a process that is killed', async (t) => {
    const programs = [1, 2, 3].map(() => Program.start(t, consul, 'process'))
    await Promise.all(programs.map((program) => program.offer()))
    await until('all are known', async () => (await instances(consul, 'process')) === programs.length)
    const peers = new Map<string, number>()
    const dial = async (): Promise<void> => {
      const socket = await web.dial('process')
      const address = `${socket.remoteAddress}:${socket.remotePort}`
      peers.set(address, (peers.get(address) ?? 0) + 1)
      socket.on('error', () => undefined).destroy()
      if (!socket.closed) await once(socket, 'close')
    }
    while (peers.size < programs.length) await dial()
    await programs[0]?.kill()
    peers.clear()
    for (let i = 0; i < 200; i += 1) await dial()
    t.diagnostic(JSON.stringify([...peers]))
    assert.equal(peers.size, programs.length - 1)
  })

  function offered(name: string): Promise<Instance[]> {
    return fleet(t, consul, join(name), 5)
  }
})

async function everybodyAnswers(dials: SteadyDials, all: readonly Instance[]): Promise<void> {
  await until('all have answered', () => Object.keys(shares(dials.outcomes)).length === all.length)
}
