import assert from 'node:assert/strict'
import { hostname } from 'node:os'
import { test } from 'node:test'
import { AgentError, DialError, IdentityError } from '../../src/index.js'
import { greet, offer, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import {
  agentJson,
  agentOptions,
  dialAndRead,
  instances,
  intend,
  joiner,
  nextEvent,
  until,
} from './service-mesh.js'

test('an agent with Connect disabled is reported as such', { skip }, async (t) => {
  const consul = await startConsul(t, { extraConfig: { connect: { enabled: false } } })
  const web = joiner(t, consul)('web')
  const warned = nextEvent(web, 'warning')
  const error = await rejection(web.ready({ timeoutMs: 1000 }))
  assert.ok(error instanceof IdentityError)
  assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
  for (const cause of [error.cause, (await warned)[0]]) {
    assert.ok(cause instanceof AgentError)
    assert.equal(cause.code, 'ERR_CONNECT_DISABLED')
    assert.equal(cause.status, 500)
    assert.match(cause.message, /set connect \{ enabled = true \} on the servers/)
  }
  for (const dial of [
    () => web.dial('api', { timeoutMs: 500 }),
    () => web.dial({ address: '127.0.0.1:1', service: 'api' }, { timeoutMs: 500 }),
  ]) {
    assert.equal(((await rejection(dial())).cause as AgentError).code, 'ERR_CONNECT_DISABLED')
  }
})

test('errors of a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const [web, api] = [join('web'), join('api')]
  const port = portOf(await offer(api, greet))

  await t.test('a service without heartbeats has no passing instance', async () => {
    const short = join('short')
    await short.register({ port, address: '127.0.0.1', check: { ttlMs: 1000 } })
    assert.equal(await instances(consul, 'short'), 1)
    short.destroy()
    await until('its check is critical', async () => (await instances(consul, 'short')) === 0)
    await assertNoInstances('short')
  })

  await t.test('a closed service is removed from the catalog', async () => {
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

  await t.test('namespaces are rejected by the open-source edition', async () => {
    const error = await rejection(web.dial({ service: 'api', namespace: 'team' }))
    assertRefused(error)
    const namespaced = join('web', { agent: agentOptions(consul, { namespace: 'team' }) })
    const notReady = await rejection(namespaced.ready({ timeoutMs: 1000 }))
    assert.equal(notReady.code, 'ERR_CONNECT_NOT_READY')
    assertRefused(notReady.cause)
    assertRefused(await rejection(namespaced.register({ port })))
  })

  await t.test('an instance without the expected partition is rejected', async () => {
    const error = await rejection(dialAndRead(web, { service: 'api', partition: 'other' }))
    // Agents without partitions ignore the parameter; agents with partitions reject it.
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
    await t.test(`the service name ${name} is supported`, async () => {
      const [client, server] = [join(name), join(`${name} 2`)]
      const denied: string[] = []
      server.on('denied', (error) => denied.push(error.peer.service))
      await offer(server, greet)
      const socket = await client.dial(`${name} 2`)
      assert.equal(socket.peer.service, `${name} 2`)
      socket.destroy()
      assert.equal(await dialAndRead(client, `${name} 2`), `hello ${name}`)
      // Intentions apply to the same name.
      await intend(consul, 'deny', name, `${name} 2`)
      await until('the client is denied', async () => {
        const { code } = await rejection(dialAndRead(client, `${name} 2`))
        return code === 'ERR_CONNECT_REJECTED'
      })
      assert.deepEqual(new Set(denied), new Set([name]))
      assert.equal(await dialAndRead(web, `${name} 2`), 'hello web')
      await server.close()
      assert.deepEqual(await catalog(`${name} 2`), [])
      await assertNoInstances(`${name} 2`)
    })
  }

  async function assertNoInstances(name: string): Promise<void> {
    // The watch of the instances may receive the end of a registration after the catalog shows it.
    const error = await until('the dial finds no instance', async () => {
      const error = await rejection(web.dial(name))
      assert.ok(error instanceof DialError)
      return error.code === 'ERR_CONNECT_NO_INSTANCES' && error.attempts.length === 0 && error
    })
    assert.equal(error.upstream, name)
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
