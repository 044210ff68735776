import assert from 'node:assert/strict'
import { hostname } from 'node:os'
import { test } from 'node:test'
import { AgentError, DialError, IdentityError } from '../../src/index.js'
import { greet, offer, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import {
  agentJson,
  agentOptions,
  hear,
  instances,
  intend,
  joiner,
  nextEvent,
  register,
  until,
} from './service-mesh.js'

test('an agent without Connect is named as such', { skip }, async (t) => {
  const consul = await startConsul(t, { extraConfig: { connect: { enabled: false } } })
  const web = joiner(t, consul)('web')
  const told = nextEvent(web, 'warning')
  const error = await rejection(web.ready({ timeoutMs: 1000 }))
  assert.ok(error instanceof IdentityError)
  assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
  for (const refusal of [error.cause, (await told)[0]]) {
    assert.ok(refusal instanceof AgentError)
    assert.equal(refusal.code, 'ERR_CONNECT_DISABLED')
    assert.equal(refusal.status, 500)
    assert.match(refusal.message, /set connect \{ enabled = true \} on the servers/)
  }
  for (const work of [
    () => web.dial('api', { timeoutMs: 500 }),
    () => web.dial({ address: '127.0.0.1:1', service: 'api' }, { timeoutMs: 500 }),
  ]) {
    assert.equal(((await rejection(work())).cause as AgentError).code, 'ERR_CONNECT_DISABLED')
  }
})

test('what a real agent says no to', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  const port = portOf(await offer(api, greet))

  await t.test('a service that nobody offers', async () => {
    await assertNoInstances('nobody')
    await assertNoInstances('no such name, & none to come')
  })

  await t.test('a service that is not in the mesh', async () => {
    await register(consul, { Name: 'plain', Port: port, Address: '127.0.0.1' })
    await assertNoInstances('plain')
  })

  await t.test('an instance that is critical, until it is passing', async () => {
    const check = { CheckID: 'alive', TTL: '60s' }
    const definition = {
      Name: 'api',
      ID: 'sick',
      Port: port,
      Address: '127.0.0.1',
      Connect: { Native: true },
    }
    await register(consul, { ...definition, Name: 'sick', Check: check })
    await assertNoInstances('sick')
    await agentJson(consul, '/v1/agent/check/pass/alive', { method: 'PUT' })
    // It is found now, and is not who it says: the listener there is of api.
    await until('it is found', async () => {
      const { code } = await rejection(web.dial('sick'))
      return code === 'ERR_CONNECT_PEER_IDENTITY'
    })
    await agentJson(consul, '/v1/agent/check/fail/alive', { method: 'PUT' })
    await until('it is lost', async () => {
      const { code } = await rejection(web.dial('sick'))
      return code === 'ERR_CONNECT_NO_INSTANCES'
    })
  })

  await t.test('an instance whose process no longer says that it lives', async () => {
    const short = join('short')
    await short.register({ port, address: '127.0.0.1', check: { ttlMs: 1000 } })
    assert.equal(await instances(consul, 'short'), 1)
    short.destroy()
    await until('its check is critical', async () => (await instances(consul, 'short')) === 0)
    await assertNoInstances('short')
  })

  await t.test('an instance that has closed is gone from the catalog', async () => {
    const brief = join('brief')
    const registration = await brief.register({
      port,
      tags: ['a'],
      meta: { b: 'c' },
      check: { ttlMs: 60_000 },
    })
    assert.equal(registration.id, `brief-${hostname()}-${port}`)
    const [found] = await catalog('brief')
    assert.deepEqual(
      [found?.ServiceID, found?.ServiceTags, found?.ServiceMeta['b']],
      [registration.id, ['a'], 'c'],
    )
    await brief.close()
    assert.deepEqual(await catalog('brief'), [])
    assert.ok(!Object.hasOwn(await agentJson<object>(consul, '/v1/agent/services'), registration.id))
    await assertNoInstances('brief')
  })

  await t.test('a datacenter that there is not', async () => {
    const error = await rejection(web.dial({ service: 'api', datacenter: 'nowhere' }))
    assert.ok(error instanceof AgentError)
    assert.equal(error.code, 'ERR_CONNECT_AGENT_DATACENTER')
    assert.match(error.message, /No path to datacenter/)
  })

  await t.test('namespaces, which the open-source edition has not', async () => {
    const error = await rejection(web.dial({ service: 'api', namespace: 'team' }))
    assertRefused(error)
    const namespaced = join('web', { agent: agentOptions(consul, { namespace: 'team' }) })
    const notReady = await rejection(namespaced.ready({ timeoutMs: 1000 }))
    assert.equal(notReady.code, 'ERR_CONNECT_NOT_READY')
    assertRefused(notReady.cause)
    assertRefused(await rejection(namespaced.register({ port })))
  })

  await t.test('a partition: what is not known to be of it is not taken', async () => {
    const error = await rejection(hear(web, { service: 'api', partition: 'other' }))
    // Agents that know no partitions answer as if nothing had been said; those that do refuse.
    assert.match(error.code ?? '', /^ERR_CONNECT_(PEER_IDENTITY|AGENT_REFUSED)$/)
  })

  for (const name of [
    'straße & co',
    '日本 service',
    'a%2Fb%20c',
    'q?x=1#y;z',
    "it's (a) + b=c",
    'UPPER.and_lower~',
  ]) {
    await t.test(`nothing in the name ${name}`, async () => {
      const [caller, called] = [join(name), join(`${name} 2`)]
      const denied: string[] = []
      called.on('denied', (error) => denied.push(error.peer.service))
      await offer(called, greet)
      const socket = await caller.dial(`${name} 2`)
      assert.equal(socket.peer.service, `${name} 2`)
      socket.destroy()
      assert.equal(await hear(caller, `${name} 2`), `hello ${name}`)
      // Intentions must mean the same name.
      await intend(consul, 'deny', name, `${name} 2`)
      await until('it is denied', async () => {
        const { code } = await rejection(hear(caller, `${name} 2`))
        return code === 'ERR_CONNECT_REJECTED'
      })
      assert.deepEqual(new Set(denied), new Set([name]))
      assert.equal(await hear(web, `${name} 2`), 'hello web')
      await called.close()
      assert.deepEqual(await catalog(`${name} 2`), [])
      await assertNoInstances(`${name} 2`)
    })
  }

  async function assertNoInstances(name: string): Promise<void> {
    const error = await rejection(web.dial(name))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(error.upstream, name)
    assert.deepEqual(error.attempts, [])
  }

  interface CatalogEntry {
    readonly ServiceID: string
    readonly ServiceTags: string[]
    readonly ServiceMeta: Record<string, string>
  }

  function catalog(name: string): Promise<CatalogEntry[]> {
    return agentJson(consul, `/v1/catalog/service/${encodeURIComponent(name)}`)
  }
})

function assertRefused(error: unknown): void {
  assert.ok(error instanceof AgentError)
  assert.equal(error.code, 'ERR_CONNECT_AGENT_REFUSED')
  assert.equal(error.status, 400)
  assert.match(error.message, /Namespaces are a Consul Enterprise feature/)
}
