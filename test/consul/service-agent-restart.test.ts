import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { type AgentError, type MeshSocket, TimeoutError } from '../../src/index.js'
import { greet, offer, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import {
  agentJson,
  ask,
  forget,
  hear,
  instances,
  intend,
  joiner,
  nextEvent,
  rotateCa,
  until,
} from './service-mesh.js'

test('an agent that dies and comes back', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  const free = join('free', { authorize: () => ({ authorized: true, reason: 'test' }) })

  const echo = (socket: MeshSocket): unknown => socket.pipe(socket)
  let handled = 0
  const apiListener = await offer(api, (socket) => {
    handled += 1
    echo(socket)
  })
  const [unknown, strict] = [join('unknown'), join('strict', { staleIntentionsMs: 0 })]
  await unknown.ready()
  const strictListener = await strict.listen({ port: 0, host: '127.0.0.1' }, greet)
  const toStrict = { address: `127.0.0.1:${portOf(strictListener)}`, service: 'strict' }
  assert.equal(await hear(web, toStrict), 'hello web')
  const freeListener = await free.listen({ port: 0, host: '127.0.0.1' }, greet)
  const toApi = { address: `127.0.0.1:${portOf(apiListener)}`, service: 'api' }
  const toFree = { address: `127.0.0.1:${portOf(freeListener)}`, service: 'free' }
  const [ttl, tcp] = [join('ttl'), join('tcp')]
  const other = { port: portOf(freeListener), address: '127.0.0.1' }
  await ttl.register({ ...other, id: 'ttl', check: { ttlMs: 3000 } })
  await tcp.register({ ...other, id: 'tcp', check: { tcp: toFree.address, intervalMs: 1000 } })

  const open = await web.dial('api')
  assert.equal(await ask(open, 'one'), 'one')
  const serial = web.leaf?.serialNumber

  const missed = nextEvent(web, 'warning', isUnreachable)
  await consul.kill()

  await t.test('is missed, with a warning that says what to look at', async () => {
    const [warning] = await missed
    assert.match(
      warning.message,
      new RegExp(`agent at http://${consul.address}: .*(check that it runs|it is stopping)`),
    )
  })

  await t.test('is not needed by open connections', async () => {
    assert.equal(await ask(open, 'two'), 'two')
  })

  await t.test('is not needed to dial an address with the last good certificate', async () => {
    assert.equal(await hear(web, toFree), 'hello web')
    await web.ready()
    assert.equal(web.leaf?.serialNumber, serial)
  })

  await t.test('is not needed to let in whom it has let in before', async () => {
    const socket = await web.dial(toApi)
    assert.equal(await ask(socket, 'hello'), 'hello')
    socket.destroy()
  })

  await t.test('is needed to authorize anybody else, and where nothing may be stale', async () => {
    const before = handled
    for (const [caller, target] of [
      [unknown, api],
      [web, strict],
    ] as const) {
      const told = nextEvent(target, 'denied')
      const error = await rejection(hear(caller, target === api ? toApi : toStrict))
      assert.equal(error.code, 'ERR_CONNECT_REJECTED')
      const [denied] = await told
      assert.equal(denied.peer.service, caller.name)
      assert.match(denied.reason, /no answer from the agent/)
    }
    assert.equal(handled, before)
  })

  await t.test('is needed to register', async () => {
    const error = await rejection(join('late').register({ port: 1, timeoutMs: 1_000 }))
    assert.equal(error.code, 'ERR_CONNECT_TIMEOUT')
    assert.equal((error.cause as AgentError).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
  })

  await t.test('is found again by every watch', async () => {
    // Its certificates were in its memory only, so it gives new ones; the roots it has kept.
    const rotated = [web, api, free].map((each) => nextEvent(each, 'rotated'))
    await consul.restart()
    for (const [leaf] of await Promise.all(rotated)) assert.notEqual(leaf.serialNumber, serial)
    await until('api can be dialled by its name', async () => {
      const socket = await web.dial('api')
      assert.equal(await ask(socket, 'hello'), 'hello')
      socket.destroy()
      return true
    })
    assert.equal(await ask(open, 'three'), 'three')
  })

  await t.test('is not blamed any longer', async () => {
    const never = { name: 'never', resolve: () => new Promise<never>(() => undefined) }
    // The roots have a watch of their own, which may come back a little later.
    await until('a timeout has no cause', async () => {
      const error = await rejection(web.dial(never, { timeoutMs: 50 }))
      assert.ok(error instanceof TimeoutError)
      assert.equal(error.cause, undefined)
      return true
    })
  })

  await t.test('is listened to again: intentions', async () => {
    assert.equal(await ask(open, 'four'), 'four')
    const cut = rejection(once(open, 'close'))
    await intend(consul, 'deny', 'web', 'api')
    assert.equal((await cut).code, 'ECONNRESET')
    await until('web is denied', async () => {
      const socket = await web.dial('api')
      const { code } = await rejection(ask(socket, 'hello'))
      return code === 'ERR_CONNECT_REJECTED'
    })
    await forget(consul, 'web', 'api')
  })

  await t.test('and roots', async () => {
    const told = nextEvent(web, 'roots')
    await rotateCa(consul)
    assert.equal((await told)[0].certificates.length, 2)
  })

  for (const [kind, service] of [
    ['TTL', ttl],
    ['TCP', tcp],
  ] as const) {
    await t.test(`has kept a registration with a ${kind} check`, async () => {
      await until('it is passing', async () => (await instances(consul, service.name)) === 1)
    })

    await t.test(`is told again when it has lost a registration with a ${kind} check`, async () => {
      const before = await createdAt(service.name)
      await agentJson(consul, `/v1/agent/service/deregister/${service.name}`, { method: 'PUT' })
      await until('it is there anew', async () => {
        const after = await createdAt(service.name)
        return after !== undefined && after !== before
      })
    })
  }

  await t.test('forgets those that are closed', async () => {
    await Promise.all([ttl.close(), tcp.close()])
    assert.deepEqual(await services(), [`api-127.0.0.1-${portOf(apiListener)}`])
  })

  /** When its passing instance was made, on the agent's own count. */
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
