import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CHAIN_KINDS } from '../../src/agent/endpoints/config-entries.js'
import { ChainChanges } from '../../src/resolve/chain/chain-changes.js'
import { AWAY } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const PATHS = CHAIN_KINDS.map((kind) => `/v1/config/${kind}`)
const [PATH = ''] = PATHS

function start() {
  const [agent, clock] = [new FakeAgent({}, { hasChains: true }), new FakeClock()]
  const changes = new ChainChanges(agent, { clock, random: () => 0 })
  let count = 0
  changes.on('changed', () => {
    count += 1
  })
  const answer = async (path: string, index: number, ModifyIndex = index, isFiltered = false) => {
    agent.last(path).answer({ body: [{ Name: 'web', ModifyIndex }], index, isFiltered })
    await settle()
  }
  return { agent, clock, changes, answer, count: () => count }
}

describe('ChainChanges', () => {
  it('watches each kind once for all users, and until the last one has ended', async () => {
    const { agent, clock, changes } = start()
    assert.equal(agent.requests.length, 0)
    const [release, releaseOther] = [changes.use(), changes.use()]
    await settle()
    assert.deepEqual(agent.requests.map(({ request }) => request.path).sort(), [...PATHS].sort())
    // The second call has no effect.
    for (let i = 0; i < 2; i += 1) release()
    assert.ok(agent.requests.every(({ request }) => request.signal?.aborted === false))
    releaseOther()
    assert.ok(agent.requests.every(({ request }) => request.signal?.aborted === true))
    await settle()
    assert.equal(clock.pending, 0)
    changes.use()
    await settle()
    assert.equal(agent.requests.length, 10)
  })

  it('reports a change of an entry of any kind, and no answer without a change', async () => {
    const { clock, changes, answer, count } = start()
    changes.use()
    await settle()
    // The first answers are no changes.
    for (const path of PATHS) await answer(path, 5)
    assert.equal(count(), 0)
    for (const [i, path] of PATHS.entries()) {
      await answer(path, 6, 5)
      assert.equal(count(), i)
      await answer(path, 7)
      assert.equal(count(), i + 1)
      await clock.advance(1_000)
    }
  })

  it('reports the first of many changes at once, and the others once a second', async () => {
    const { clock, changes, answer, count } = start()
    const release = changes.use()
    await settle()
    for (const path of PATHS) await answer(path, 5)
    for (const path of PATHS) await answer(path, 6)
    assert.equal(count(), 1)
    await clock.advance(999)
    assert.equal(count(), 1)
    await clock.advance(1)
    assert.equal(count(), 2)
    await answer(PATH, 7)
    release()
    assert.equal(clock.pending, 0)
  })

  it('is ready when each kind was answered or refused, and reports a kind that is answered later', async () => {
    const { agent, clock, changes, answer, count } = start()
    changes.use()
    let isReady = false
    void changes.ready().then(() => (isReady = true))
    await settle()
    agent.last(PATH).fail(AWAY)
    for (const path of PATHS.slice(1)) {
      assert.equal(isReady, false)
      await answer(path, 5)
    }
    assert.equal(isReady, true)
    await clock.advance(100)
    await answer(PATH, 5)
    assert.equal(count(), 1)
  })

  it('is complete while all kinds are answered without a filter', async () => {
    const { agent, clock, changes, answer } = start()
    assert.equal(changes.isComplete, false)
    const release = changes.use()
    await settle()
    for (const path of PATHS) {
      assert.equal(changes.isComplete, false)
      await answer(path, 5)
    }
    assert.equal(changes.isComplete, true)
    await answer(PATH, 6, 5, true)
    assert.equal(changes.isComplete, false)
    await answer(PATH, 7, 5)
    assert.equal(changes.isComplete, true)
    agent.last(PATH).fail(AWAY)
    await settle()
    assert.equal(changes.isComplete, false)
    await clock.advance(100)
    await answer(PATH, 8, 5)
    assert.equal(changes.isComplete, true)
    release()
    assert.equal(changes.isComplete, false)
  })
})
