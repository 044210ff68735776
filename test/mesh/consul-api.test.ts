import assert from 'node:assert/strict'
import { test } from 'node:test'
import { consul as openAgent } from '../../src/index.js'
import { rejection, startMesh } from '../fixtures/mesh.js'

const managementToken = '0a4c5d6e-1111-4222-8333-444455556666'

test('requests with the options of an agent, and answers as they are', async (t) => {
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

test('a token for one request, and none beside it', async (t) => {
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken } as const
  const { agentOptions } = await startMesh(t, { acl })
  await using anonymous = openAgent(agentOptions)
  const path = '/v1/acl/token/self'
  assert.equal((await anonymous.exchange({ path: '/v1/acl/tokens' })).status, 403)
  assert.equal((await anonymous.exchange({ path, token: managementToken })).status, 200)
  await using manager = openAgent({ ...agentOptions, token: managementToken })
  assert.equal((await manager.exchange({ path })).status, 200)
  const error = await rejection(manager.request({ path, token: 'of-nobody' }))
  assert.equal(error.code, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
  assert.ok(!error.message.includes('of-nobody'))
})

test('what is no request to the API is refused before it is sent', async (t) => {
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

test('an agent that is away, and a bound and a signal on each request', async (t) => {
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
