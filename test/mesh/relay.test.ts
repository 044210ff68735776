import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { join as joinPath } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { Client } from 'undici'
import { type AgentOptions, service } from '../../src/index.js'
import { relayAgent } from '../../src/proxy.js'
import type { TestAgentOptions } from '../../src/testing/index.js'
import { greet, nextEvent, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'

const TOKEN = 'secret-7'
const ACL = { enabled: true, managementToken: TOKEN, defaultPolicy: 'deny' } as const

/** Starts a relay with the token, for clients without a token. */
async function start(t: TestContext, options?: TestAgentOptions, relayOptions?: Partial<AgentOptions>) {
  const mesh = await startMesh(t, options)
  const path = joinPath(temporaryFolder(t), 'agent.sock')
  const token = options === undefined ? {} : { token: TOKEN }
  const relay = await relayAgent({ path, agent: { ...mesh.agentOptions, ...token, ...relayOptions } })
  const client = new Client('http://relay', { socketPath: path })
  t.after(async () => {
    await client.destroy()
    await relay.close()
  })
  const joinBehind = (name: string, timeoutMs = 10_000) => {
    const joined = service(name, { agent: { address: relay.address, env: {}, timeoutMs } })
    joined.on('warning', () => undefined)
    t.after(async () => {
      joined.destroy()
      await joined.close()
    })
    return joined
  }
  const ask = async (method: 'GET' | 'PUT' | 'POST', target: string) => {
    const { statusCode, body } = await client.request({ method, path: target })
    return { status: statusCode, text: await body.text() }
  }
  return { ...mesh, path, relay, joinBehind, ask }
}

async function agentIndex(url: string): Promise<{ readonly index: string }> {
  const response = await fetch(`${url}/v1/health/connect/none`)
  return { index: response.headers.get('x-consul-index') ?? '1' }
}

describe('a relay', () => {
  it('lets services without a token dial and listen', async (t) => {
    const { agent, joinBehind, path } = await start(t, { acl: ACL })
    agent.setIntention('web', 'api', 'allow')
    assert.equal(statSync(path).mode & 0o777, 0o600)
    const api = joinBehind('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const upstream = { address: `127.0.0.1:${portOf(listener)}`, service: 'api' }
    assert.equal(await readAll(await joinBehind('web').dial(upstream)), 'hello web')
    const denied = await rejection(joinBehind('other').dial(upstream).then(readAll))
    assert.equal(denied.code, 'ERR_CONNECT_REJECTED')
  })

  it('sends one query for the same watch of several clients', async (t) => {
    const { agent, join, joinBehind } = await start(t)
    await offer(join('api'), greet)
    // Services with different agent options share no client, like services of different processes.
    const many = [1, 2, 3, 4, 5].map((n) => joinBehind('web', 10_000 + n))
    for (const each of many) assert.equal(await readAll(await each.dial('api')), 'hello web')
    const leaf = /GET \/v1\/agent\/connect\/ca\/leaf\/web\?.*index=/
    await agent.waitForBlocked(leaf)
    // A new root brings each client a new leaf, and each client then queries again.
    const rotated = Promise.all(many.map((each) => nextEvent(each, 'rotated')))
    agent.rotateCa()
    await rotated
    await agent.waitForBlocked(leaf)
    const queries = agent.requestCount(leaf)
    assert.ok(queries <= 4, `${queries} blocking queries for one leaf`)
  })

  it('forwards as many blocking queries as maxBlockingQueries allows, and rejects more', async (t) => {
    const { agent, ask, path } = await start(t, undefined, { maxBlockingQueries: 2 })
    const { index } = await agentIndex(agent.url)
    const clients = ['a', 'b', 'c'].map(() => new Client('http://relay', { socketPath: path }))
    t.after(() => Promise.all(clients.map((client) => client.destroy())))
    const open = (name: string, client: Client) =>
      client.request({ method: 'GET', path: `/v1/health/connect/${name}?index=${index}&wait=60000ms` })
    for (const [i, name] of ['one', 'two'].entries()) {
      open(name, clients[i]!).catch(() => undefined)
      await agent.waitForBlocked(new RegExp(`/v1/health/connect/${name}`))
    }
    const { statusCode, body } = await open('three', clients[2]!)
    assert.equal(statusCode, 429)
    assert.match(await body.text(), /too many concurrent connections/)
    assert.equal((await ask('GET', '/v1/health/connect/three')).status, 200)
  })

  const rejected: [method: 'GET' | 'PUT' | 'POST', path: string][] = [
    ['PUT', '/v1/agent/service/register'],
    ['PUT', '/v1/agent/connect/ca/roots'],
    ['GET', '/v1/agent/services'],
    ['GET', '/v1/kv/secret'],
    ['GET', '/v1/acl/tokens'],
    ['GET', '/v1/query/../kv/secret'],
    ['GET', '/v1/query/%2e%2e/kv/secret'],
    // The agent decodes a path once, and then normalizes it.
    ['GET', '/v1/query/..%2fkv/execute'],
    ['GET', '/v1/health/connect/..%2F..%2Fkv%2Fsecret'],
    ['GET', '/v1/health/connect/a%2f..%2f..%2fservice'],
    ['GET', '/v1/health/connect/..%5ckv'],
    ['GET', '/v1/health/connect/a%2fb'],
    ['GET', '/v1/health/connect/'],
    ['GET', '/v1/health/connect/%'],
    ['GET', '//v1/health/connect/a'],
    ['GET', 'http://agent/v1/health/connect/a'],
    // Definitions of queries contain their tokens.
    ['GET', '/v1/query/'],
    ['GET', '/v1/query/8f246b77-f3e1-ff88-5b48-8ec93abf3e05'],
    ['POST', '/v1/query'],
    ['GET', '/'],
  ]
  for (const [method, path] of rejected) {
    it(`rejects ${method} ${path}`, async (t) => {
      const { ask } = await start(t)
      const { status, text } = await ask(method, path)
      assert.equal(status, 403)
      assert.match(text, /^a relay passes on what a member of the mesh reads, and nothing else$/m)
    })
  }

  it('forwards the answers of the agent, including errors', async (t) => {
    const { agent, ask } = await start(t)
    agent.fault('/v1/agent/connect/ca/roots', { status: 429, body: 'too many', times: 1 })
    assert.deepEqual(await ask('GET', '/v1/agent/connect/ca/roots'), { status: 429, text: 'too many' })
    assert.equal((await ask('GET', '/v1/agent/connect/ca/roots')).status, 200)
  })

  it('answers 502 without the agent, and recovers when it returns', async (t) => {
    const { agent, ask } = await start(t)
    agent.fault('/v1/agent/connect/ca/roots', { reset: true, times: 1 })
    const { status, text } = await ask('GET', '/v1/agent/connect/ca/roots')
    assert.equal(status, 502)
    assert.match(text, /no answer from the agent/)
    assert.equal((await ask('GET', '/v1/agent/connect/ca/roots')).status, 200)
  })

  it('rejects invalid paths and unknown options', async () => {
    await assert.rejects(relayAgent({ path: '' }), { code: 'ERR_CONNECT_OPTION' })
    await assert.rejects(relayAgent({ path: '/x', port: 1 } as never), { code: 'ERR_CONNECT_OPTION' })
    await assert.rejects(relayAgent({ path: '/nowhere/at/all' }), { code: 'ERR_CONNECT_LISTEN' })
  })
})
