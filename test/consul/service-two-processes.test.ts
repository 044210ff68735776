import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, forget, hear, intend, joiner, until } from './service-mesh.js'
import { Program } from './service-program.js'

test('two processes in the mesh of a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const { TrustDomain } = await agentJson<{ TrustDomain: string }>(consul, '/v1/agent/connect/ca/roots')
  const idOf = (name: string): string => `spiffe://${TrustDomain}/ns/default/dc/dc1/svc/${name}`
  const [web, api] = [Program.start(t, consul, 'web'), Program.start(t, consul, 'api')]
  await Promise.all([web.offer(), api.offer()])

  await t.test('talk both ways, and each knows who the other is', async () => {
    assert.notEqual(web.pid, process.pid)
    assert.notEqual(web.pid, api.pid)
    assert.deepEqual(await web.dial('api', 'good morning'), {
      peer: idOf('api'),
      answer: `api heard good morning from ${idOf('web')}`,
    })
    assert.deepEqual(await api.dial('web', 'guten Tag'), {
      peer: idOf('web'),
      answer: `web heard guten Tag from ${idOf('api')}`,
    })
    assert.deepEqual([api.handled, web.handled], [[idOf('web')], [idOf('api')]])
    assert.deepEqual([...web.denied, ...api.denied, ...web.warnings, ...api.warnings], [])
  })

  await t.test('an allowing intention lets in', async () => {
    await intend(consul, 'allow', 'web', 'api')
    assert.equal((await web.dial('api')).peer, idOf('api'))
  })

  await t.test('an intention that changes to deny is heard at once, in its direction only', async () => {
    await intend(consul, 'deny', 'web', 'api')
    await until('web is denied', () => isRejected(web, 'api'))
    await staysDenied(web, api)
    assert.equal((await api.dial('web')).peer, idOf('web'))
  })

  await t.test('and one that changes back to allow, too', async () => {
    await intend(consul, 'allow', 'web', 'api')
    await until('web is let in again', async () => !(await isRejected(web, 'api')))
    assert.equal((await web.dial('api')).answer, `api heard a word from ${idOf('web')}`)
  })

  await t.test('an exact allow goes before a wildcard deny', async (t) => {
    const batch = joiner(t, consul)('batch')
    await intend(consul, 'deny', '*', 'api')
    const error = await until('batch is denied', async () => {
      const tried = await rejection(hear(batch, 'api'))
      return tried.code === 'ERR_CONNECT_REJECTED' && tried
    })
    assert.match(error.message, /dial api: .*closed before its first byte.*intention/)
    await api.told(() => api.denied.at(-1)?.peer === idOf('batch'))
    assert.equal((await web.dial('api')).peer, idOf('api'))
    await forget(consul, 'web', 'api')
    await until('the wildcard denies web', () => isRejected(web, 'api'))
    await staysDenied(web, api)
  })

  await t.test('a destination goes before a source', async () => {
    await intend(consul, 'deny', 'web', '*')
    await intend(consul, 'allow', '*', 'api')
    await until('api lets everybody in', async () => !(await isRejected(web, 'api')))
    assert.equal((await web.dial('api')).peer, idOf('api'))
  })

  await t.test('nothing keeps a process alive whose service is closed', async () => {
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

  /** Each further dial is told why, and the handler never runs. */
  async function staysDenied(from: Program, to: Program): Promise<void> {
    const [handled, denied] = [to.handled.length, to.denied.length]
    for (let i = 1; i <= 5; i += 1) {
      const error = await rejection(from.dial('api'))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      await to.told(() => to.denied.length >= denied + i)
    }
    const last = to.denied.at(-1)
    assert.equal(last?.peer, idOf('web'))
    assert.notEqual(last.reason, '')
    assert.ok(last.message.startsWith('web to api: connection denied; '), last.message)
    assert.equal(to.handled.length, handled)
  }
})
