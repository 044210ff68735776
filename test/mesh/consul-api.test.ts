import assert from 'node:assert/strict'
import { test } from 'node:test'
import { consul as openAgent } from '../../src/index.js'
import { rejection, startMesh } from '../fixtures/mesh.js'

const managementToken = '0a4c5d6e-1111-4222-8333-444455556666'

test('requests use the agent options, and answers are returned unchanged', async (t) => {
  const { agent, agentOptions } = await startMesh(t)
  await using api = openAgent(agentOptions)
  assert.equal(api.address, `http://${agent.address}`)
  const body = { Name: 'web', Port: 80 }
  assert.equal(await api.request({ method: 'PUT', path: '/v1/agent/service/register', body }), undefined)
  const services = (await api.request({ path: '/v1/agent/services' })) as Record<string, { Port: number }>
  assert.equal(services['web']?.Port, 80)
  const { status, headers, text } = await api.exchange({ path: '/v1/agent/service/nope' })
  assert.deepEqual([status, text.includes('nope')], [404, true])
  assert.equal(typeof headers['content-type'], 'string')
})

test('the token of a request applies to that request only', async (t) => {
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken } as const
  const { agentOptions } = await startMesh(t, { acl })
  await using anonymous = openAgent(agentOptions)
  const path = '/v1/acl/token/self'
  assert.equal((await anonymous.exchange({ path: '/v1/acl/tokens' })).status, 403)
  assert.equal((await anonymous.exchange({ path, token: managementToken })).status, 200)
  await using manager = openAgent({ ...agentOptions, token: managementToken })
  assert.equal((await manager.exchange({ path })).status, 200)
  const error = await rejection(manager.request({ path, token: 'unknown-token' }))
  assert.equal(error.code, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
  assert.ok(!error.message.includes('unknown-token'))
})

test('invalid requests are rejected before they are sent', async (t) => {
  const { agent, agentOptions } = await startMesh(t)
  await using api = openAgent(agentOptions)
  const before = agent.requestCount()
  for (const request of [
    { path: '/ui' },
    { path: 'v1/agent/self' },
    { path: '/v1/../ui' },
    { path: '/v1/agent/service/%2e%2E' },
    { path: '/v1/agent/./self' },
    { path: '/v1/agent/self?token=x' },
    { path: '/v1/agent/a b' },
    { path: '/v1/agent/self\r\nx: y' },
    { path: '/v1/agent/self', token: 'a\nb' },
    { path: '/v1/agent/self', tokn: 'x' },
    { path: 7 },
    undefined,
  ]) {
    const error = await rejection(api.exchange(request as never))
    assert.equal(error.code, 'ERR_CONNECT_OPTION', JSON.stringify(request))
  }
  assert.equal(agent.requestCount(), before)
})

test('requests fail by their signal, their timeout, and without the agent', async (t) => {
  const { agent, agentOptions } = await startMesh(t)
  await using api = openAgent(agentOptions)
  const stop = new AbortController()
  const path = '/v1/agent/connect/ca/roots'
  const index = Number((await api.exchange({ path })).headers['x-consul-index'])
  const blocked = rejection(
    api.exchange({ path, query: { index, wait: '60s' }, signal: stop.signal, timeoutMs: 60_000 }),
  )
  stop.abort()
  assert.equal((await blocked).name, 'AbortError')
  const late = await rejection(api.exchange({ path, query: { index, wait: '60s' }, timeoutMs: 50 }))
  assert.equal(late.code, 'ERR_CONNECT_AGENT_TIMEOUT')
  await agent.stop()
  assert.equal((await rejection(api.request({ path }))).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
})
