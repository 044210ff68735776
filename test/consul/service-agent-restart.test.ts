import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { type MeshSocket, TimeoutError } from '../../src/index.js'
import { greet, offer, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import {
  ALLOW_ALL,
  agentJson,
  ask,
  deleteIntention,
  deregister,
  dialAndRead,
  instances,
  intend,
  joiner,
  nextEvent,
  rotateCa,
  until,
} from './service-mesh.js'

test('an agent that is killed and restarted', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  const free = join('free', { authorize: ALLOW_ALL })

  let handled = 0
  const apiListener = await offer(api, (socket: MeshSocket) => {
    handled += 1
    socket.pipe(socket)
  })
  const [unknown, strict] = [join('unknown'), join('strict', { staleIntentionsMs: 0 })]
  await unknown.ready()
  const strictListener = await strict.listen({ port: 0, host: '127.0.0.1' }, greet)
  const toStrict = { address: `127.0.0.1:${portOf(strictListener)}`, service: 'strict' }
  assert.equal(await dialAndRead(web, toStrict), 'hello web')
  const freeListener = await free.listen({ port: 0, host: '127.0.0.1' }, greet)
  const toApi = { address: `127.0.0.1:${portOf(apiListener)}`, service: 'api' }
  const toFree = { address: `127.0.0.1:${portOf(freeListener)}`, service: 'free' }
  const [ttl, tcp] = [join('ttl'), join('tcp')]
  const instance = { port: portOf(freeListener), address: '127.0.0.1' }
  await ttl.register({ ...instance, id: 'ttl', check: { ttlMs: 3000 } })
  await tcp.register({ ...instance, id: 'tcp', check: { tcp: toFree.address, intervalMs: 1000 } })

  const open = await web.dial('api')
  assert.equal(await ask(open, 'one'), 'one')
  const serial = web.leaf?.serialNumber

  const warned = nextEvent(web, 'warning', isUnreachable)
  await consul.kill()

  await t.test('causes a warning with advice', async () => {
    const [warning] = await warned
    assert.match(
      warning.message,
      new RegExp(`agent at http://${consul.address}: .*(check that it runs|it is stopping)`),
    )
  })

  await t.test('is not needed by open connections', async () => {
    assert.equal(await ask(open, 'two'), 'two')
  })

  await t.test('is not needed to dial an address with the last certificate', async () => {
    assert.equal(await dialAndRead(web, toFree), 'hello web')
    await web.ready()
    assert.equal(web.leaf?.serialNumber, serial)
  })

  await t.test('is not needed for sources that it has allowed before', async () => {
    const socket = await web.dial(toApi)
    assert.equal(await ask(socket, 'hello'), 'hello')
    socket.destroy()
  })

  await t.test('is needed for new sources, and with staleIntentionsMs: 0', async () => {
    const before = handled
    for (const [caller, target] of [
      [unknown, api],
      [web, strict],
    ] as const) {
      const deniedNext = nextEvent(target, 'denied')
      const error = await rejection(dialAndRead(caller, target === api ? toApi : toStrict))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      const [denied] = await deniedNext
      assert.equal(denied.peer.service, caller.name)
      assert.match(denied.reason, /no answer from the agent/)
    }
    assert.equal(handled, before)
  })

  await t.test('is found again by all watches', async () => {
    // The agent keeps leaves in memory only, so that it issues new ones. It keeps the roots on disk.
    const rotated = [web, api, free].map((each) => nextEvent(each, 'rotated'))
    await consul.restart()
    for (const [leaf] of await Promise.all(rotated)) assert.notEqual(leaf.serialNumber, serial)
    await until('api can be dialed by name', async () => {
      const socket = await web.dial('api')
      assert.equal(await ask(socket, 'hello'), 'hello')
      socket.destroy()
      return true
    })
    assert.equal(await ask(open, 'three'), 'three')
  })

  await t.test('is no longer the cause of timeouts', async () => {
    const never = { name: 'never', resolve: () => new Promise<never>(() => undefined) }
    // The watch of the roots can recover a little later.
    await until('a timeout has no cause', async () => {
      const error = await rejection(web.dial(never, { timeoutMs: 50 }))
      assert.ok(error instanceof TimeoutError)
      assert.equal(error.cause, undefined)
      return true
    })
  })

  await t.test('ends connections by intentions again', async () => {
    assert.equal(await ask(open, 'four'), 'four')
    const failed = rejection(once(open, 'close'))
    await intend(consul, 'deny', 'web', 'api')
    assert.equal((await failed).code, 'ECONNRESET')
    await until('web is denied', async () => {
      const socket = await web.dial('api')
      const { code } = await rejection(ask(socket, 'hello'))
      return code === 'ERR_CONNECT_REJECTED'
    })
    await deleteIntention(consul, 'web', 'api')
  })

  await t.test('rotates roots again', async () => {
    const rotated = nextEvent(web, 'roots')
    await rotateCa(consul)
    assert.equal((await rotated)[0].certificates.length, 2)
  })

  for (const [kind, service] of [
    ['TTL', ttl],
    ['TCP', tcp],
  ] as const) {
    await t.test(`has kept the registration with a ${kind} check`, async () => {
      await until('the instance is passing', async () => (await instances(consul, service.name)) === 1)
    })

    await t.test(`gets a lost registration with a ${kind} check again`, async () => {
      const before = await createdAt(service.name)
      await deregister(consul, service.name)
      await until('the instance is registered again', async () => {
        const after = await createdAt(service.name)
        return after !== undefined && after !== before
      })
    })
  }

  await t.test('has no registration of closed services', async () => {
    await Promise.all([ttl.close(), tcp.close()])
    assert.deepEqual(await services(), [`api-127.0.0.1-${portOf(apiListener)}`])
  })

  /** The creation index of the passing instance. */
  async function createdAt(name: string): Promise<number | undefined> {
    const path = `/v1/health/connect/${name}?passing`
    const found = await agentJson<{ Service: { CreateIndex: number } }[]>(consul, path)
    return found[0]?.Service.CreateIndex
  }

  async function services(): Promise<string[]> {
    return Object.keys(await agentJson<object>(consul, '/v1/agent/services'))
  }
})

function isUnreachable(error: Error): boolean {
  return (error as NodeJS.ErrnoException).code === 'ERR_CONNECT_AGENT_UNREACHABLE'
}
