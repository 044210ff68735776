import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { greet, offer, portOf, readAll, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, joiner, register, until, updateCheck } from './service-mesh.js'

interface Entry {
  readonly Service: { readonly ID: string; readonly Port: number; readonly Tags: readonly string[] }
  readonly Checks: readonly { readonly CheckID: string; readonly Status: string; readonly Output: string }[]
}

test('registrations with a real agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const entries = (name: string, filter = ''): Promise<readonly Entry[]> =>
    agentJson(consul, `/v1/health/connect/${name}${filter}`)

  await t.test('can be dialed at once, also after a failed dial, 20 of 20 times', async () => {
    const web = join('web')
    for (let i = 0; i < 20; i += 1) {
      const name = `api-${i}`
      const api = join(name)
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
      assert.equal((await rejection(web.dial(name))).code, 'ERR_CONNECT_NO_INSTANCES')
      await api.register({ port: portOf(listener), address: '127.0.0.1' })
      assert.equal(await readAll(await web.dial(name)), 'hello web')
      await api.close()
    }
  })

  await t.test('change their status, and enter and leave maintenance', async () => {
    const registration = await join('jobs').register({ port: 1 })
    await registration.setStatus('warning', { note: 'the queue is long' })
    await until('the status is warning', async () => {
      const [entry] = await entries('jobs')
      return entry?.Checks.some(
        ({ Status, Output }) => Status === 'warning' && Output === 'the queue is long',
      )
    })
    await registration.setStatus('passing')
    await registration.enterMaintenance({ reason: 'upgrade' })
    await until(
      'the instance is in maintenance',
      async () => (await entries('jobs', '?passing')).length === 0,
    )
    await registration.leaveMaintenance()
    await until('the instance is passing again', async () => (await entries('jobs', '?passing')).length === 1)
  })

  await t.test('support HTTP checks of the agent', async () => {
    const health = createServer((_request, response) => response.end('fine')).listen(0, '127.0.0.1')
    await once(health, 'listening')
    const { port } = health.address() as AddressInfo
    await join('checked').register({
      port: 1,
      check: { http: `http://127.0.0.1:${port}/`, intervalMs: 100 },
    })
    await until('the check is passing', async () => (await entries('checked', '?passing')).length === 1)
    health.closeAllConnections()
    health.close()
    await until('the check is critical', async () => (await entries('checked', '?passing')).length === 0)
  })

  await t.test('of a proxy have the health and the tags of its service', async () => {
    const body = {
      ID: 'db-1',
      Name: 'db',
      Port: 1,
      Tags: ['blue'],
      Check: { CheckID: 'db-alive', TTL: '1h', Status: 'passing' },
    }
    await register(consul, body)
    await join('db').register({ port: 2, kind: 'proxy', destinationId: 'db-1' })
    await until('the proxy passes', async () => (await entries('db', '?passing')).length === 1)
    assert.deepEqual((await entries('db'))[0]?.Service.Tags, ['blue'])
    await updateCheck(consul, 'fail', 'db-alive')
    await until('the proxy is critical', async () => (await entries('db', '?passing')).length === 0)
  })
})

test('a service waits for an agent that starts later', { skip }, async (t) => {
  const consul = await startConsul(t)
  await consul.stop()
  const api = joiner(t, consul)('api')
  const listener = offer(api, greet)
  await consul.restart()
  assert.ok((await listener).address() !== null)
})
