import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, deleteIntention, dialAndRead, intend, joiner, spiffeIds, until } from './service-mesh.js'
import { Program } from './service-program.js'

test('two processes with a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const idOf = await spiffeIds(consul)
  const [web, api] = [Program.start(t, consul, 'web'), Program.start(t, consul, 'api')]
  await Promise.all([web.offer(), api.offer()])

  await t.test('dial each other, and see each other’s identity', async () => {
    assert.notEqual(web.pid, process.pid)
    assert.notEqual(web.pid, api.pid)
    assert.deepEqual(await web.dial('api', 'one'), {
      peer: idOf('api'),
      answer: `api received one from ${idOf('web')}`,
    })
    assert.deepEqual(await api.dial('web', 'two'), {
      peer: idOf('web'),
      answer: `web received two from ${idOf('api')}`,
    })
    assert.deepEqual([api.handled, web.handled], [[idOf('web')], [idOf('api')]])
    assert.deepEqual([...web.denied, ...api.denied, ...web.warnings, ...api.warnings], [])
  })

  await t.test('an intention that changes to deny applies in its direction only', async () => {
    await intend(consul, 'deny', 'web', 'api')
    await until('web is denied', () => isRejected(web, 'api'))
    await assertDenied(web, api)
    assert.equal((await api.dial('web')).peer, idOf('web'))
  })

  await t.test('an intention that changes back to allow applies', async () => {
    await intend(consul, 'allow', 'web', 'api')
    await until('web is allowed again', async () => !(await isRejected(web, 'api')))
    assert.equal((await web.dial('api')).answer, `api received hello from ${idOf('web')}`)
  })

  await t.test('an exact allow has precedence over a wildcard deny', async (t) => {
    const batch = joiner(t, consul)('batch')
    await intend(consul, 'deny', '*', 'api')
    const error = await until('batch is denied', async () => {
      const rejected = await rejection(dialAndRead(batch, 'api'))
      return rejected.code === 'ERR_CONNECT_REJECTED' && rejected
    })
    assert.match(error.message, /dial api: .*closed before its first byte.*intention/)
    await api.reported(() => api.denied.at(-1)?.peer === idOf('batch'))
    assert.equal((await web.dial('api')).peer, idOf('api'))
    await deleteIntention(consul, 'web', 'api')
    await until('the wildcard denies web', () => isRejected(web, 'api'))
    await assertDenied(web, api)
  })

  await t.test('an exact destination has precedence over an exact source', async () => {
    await intend(consul, 'deny', 'web', '*')
    await intend(consul, 'allow', '*', 'api')
    await until('api allows web', async () => !(await isRejected(web, 'api')))
    assert.equal((await web.dial('api')).peer, idOf('api'))
  })

  await t.test('a closed service does not keep its process alive', async () => {
    assert.deepEqual(await Promise.all([web.close(), api.close()]), [0, 0])
    assert.deepEqual(Object.keys(await agentJson<object>(consul, '/v1/agent/services')), [])
  })

  async function isRejected(from: Program, to: string): Promise<boolean> {
    try {
      await from.dial(to)
      return false
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'ERR_CONNECT_REJECTED')
      return true
    }
  }

  /** Asserts that dials are rejected and reported, without a call of the handler. */
  async function assertDenied(from: Program, to: Program): Promise<void> {
    const [handled, denied] = [to.handled.length, to.denied.length]
    for (let i = 1; i <= 5; i += 1) {
      const error = await rejection(from.dial('api'))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      await to.reported(() => to.denied.length >= denied + i)
    }
    const last = to.denied.at(-1)
    assert.equal(last?.peer, idOf('web'))
    assert.notEqual(last.reason, '')
    assert.ok(last.message.startsWith('web to api: connection denied; '), last.message)
    assert.equal(to.handled.length, handled)
  }
})
