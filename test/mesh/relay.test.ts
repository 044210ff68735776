import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { Client } from 'undici'
import { type AgentOptions, service } from '../../src/index.js'
import { relayAgent } from '../../src/proxy.js'
import type { TestAgentOptions } from '../../src/testing/index.js'
import { greet, nextEvent, offer, readAll, rejection, startMesh } from '../fixtures/mesh.js'

const TOKEN = 'secret-7'
const ACL = { enabled: true, managementToken: TOKEN, defaultPolicy: 'deny' } as const

/** A relay that has the token, and clients of it that have none. */
async function start(t: TestContext, options?: TestAgentOptions, relayOptions?: Partial<AgentOptions>) {
  const mesh = await startMesh(t, options)
  const folder = mkdtempSync(joinPath(tmpdir(), 'consul-connect-relay-'))
  const path = joinPath(folder, 'agent.sock')
  const token = options === undefined ? {} : { token: TOKEN }
  const relay = await relayAgent({ path, agent: { ...mesh.agentOptions, ...token, ...relayOptions } })
  const client = new Client('http://relay', { socketPath: path })
  t.after(async () => {
    await client.destroy()
    await relay.close()
    rmSync(folder, { recursive: true })
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
  it('lets services dial and listen that have no token of their own', async (t) => {
    const { agent, joinBehind, path } = await start(t, { acl: ACL })
    agent.setIntention('web', 'api', 'allow')
    assert.equal(statSync(path).mode & 0o777, 0o600)
    const api = joinBehind('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const { port } = listener.address() as { port: number }
    const upstream = { address: `127.0.0.1:${port}`, service: 'api' }
    assert.equal(await readAll(await joinBehind('web').dial(upstream)), 'hello web')
    const denied = await rejection(joinBehind('other').dial(upstream).then(readAll))
    assert.equal(denied.code, 'ERR_CONNECT_REJECTED')
  })

  it('asks the agent once for what several watch', async (t) => {
    const { agent, join, joinBehind } = await start(t)
    await offer(join('api'), greet)
    // Five processes would be five services that share nothing: other options see to that here.
    const many = [1, 2, 3, 4, 5].map((n) => joinBehind('web', 10_000 + n))
    for (const each of many) assert.equal(await readAll(await each.dial('api')), 'hello web')
    const leaf = /GET \/v1\/agent\/connect\/ca\/leaf\/web\?.*index=/
    await agent.waitForBlocked(leaf)
    // All of them are told of a new root, and by it of a new leaf; and ask again.
    const rotated = Promise.all(many.map((each) => nextEvent(each, 'rotated')))
    agent.rotateCa()
    await rotated
    await agent.waitForBlocked(leaf)
    const first = agent.requestCount(leaf)
    assert.ok(first <= 4, `${first} blocking queries for one leaf`)
  })

  it('passes on as many blocking queries as its agent option allows, and refuses more', async (t) => {
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

  const refused: [method: 'GET' | 'PUT' | 'POST', path: string][] = [
    ['PUT', '/v1/agent/service/register'],
    ['PUT', '/v1/agent/connect/ca/roots'],
    ['GET', '/v1/agent/services'],
    ['GET', '/v1/kv/secret'],
    ['GET', '/v1/acl/tokens'],
    ['GET', '/v1/query/../kv/secret'],
    ['GET', '/v1/query/%2e%2e/kv/secret'],
    // An agent decodes a path once, and then cleans it.
    ['GET', '/v1/query/..%2fkv/execute'],
    ['GET', '/v1/health/connect/..%2F..%2Fkv%2Fsecret'],
    ['GET', '/v1/health/connect/a%2f..%2f..%2fservice'],
    ['GET', '/v1/health/connect/..%5ckv'],
    ['GET', '/v1/health/connect/a%2fb'],
    ['GET', '/v1/health/connect/'],
    ['GET', '/v1/health/connect/%'],
    ['GET', '//v1/health/connect/a'],
    ['GET', 'http://agent/v1/health/connect/a'],
    // The list of queries holds the tokens of those that have one.
    ['GET', '/v1/query/'],
    ['GET', '/v1/query/8f246b77-f3e1-ff88-5b48-8ec93abf3e05'],
    ['POST', '/v1/query'],
    ['GET', '/'],
  ]
  for (const [method, path] of refused) {
    it(`refuses ${method} ${path}`, async (t) => {
      const { ask } = await start(t)
      const { status, text } = await ask(method, path)
      assert.equal(status, 403)
      assert.match(text, /^a relay passes on what a member of the mesh reads, and nothing else$/m)
    })
  }

  it('passes on what the agent says, its refusals too', async (t) => {
    const { agent, ask } = await start(t)
    agent.fault('/v1/agent/connect/ca/roots', { status: 429, body: 'too many', times: 1 })
    assert.deepEqual(await ask('GET', '/v1/agent/connect/ca/roots'), { status: 429, text: 'too many' })
    assert.equal((await ask('GET', '/v1/agent/connect/ca/roots')).status, 200)
  })

  it('says that the agent is away, and goes on when it is back', async (t) => {
    const { agent, ask } = await start(t)
    agent.fault('/v1/agent/connect/ca/roots', { reset: true, times: 1 })
    const { status, text } = await ask('GET', '/v1/agent/connect/ca/roots')
    assert.equal(status, 502)
    assert.match(text, /no answer from the agent/)
    assert.equal((await ask('GET', '/v1/agent/connect/ca/roots')).status, 200)
  })

  it('refuses what is no path, and what nobody knows', async () => {
    await assert.rejects(relayAgent({ path: '' }), { code: 'ERR_CONNECT_OPTION' })
    await assert.rejects(relayAgent({ path: '/x', port: 1 } as never), { code: 'ERR_CONNECT_OPTION' })
    await assert.rejects(relayAgent({ path: '/nowhere/at/all' }), { code: 'ERR_CONNECT_LISTEN' })
  })
})
