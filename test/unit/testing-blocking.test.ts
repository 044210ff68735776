import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'

async function start(t: TestContext, options: TestAgentOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start(options)
  t.after(() => agent.close())
  return agent
}

function indexOf(response: Response): number {
  return Number(response.headers.get('x-consul-index'))
}

void describe('a blocking query', () => {
  const reads: Record<string, { path: string; change: (agent: TestAgent) => void }> = {
    'the health of a service': {
      path: '/v1/health/service/web',
      change: (agent) => {
        agent.registerService({ Name: 'web', Port: 2 })
      },
    },
    'the native instances of a service': {
      path: '/v1/health/connect/web',
      change: (agent) => {
        agent.registerService({ Name: 'web', Port: 2, Connect: { Native: true } })
      },
    },
    'the proxies of a service': {
      path: '/v1/health/connect/web',
      change: (agent) => {
        const Proxy = { DestinationServiceName: 'web' }
        agent.registerService({ Name: 'web-proxy', Kind: 'connect-proxy', Port: 3, Proxy })
      },
    },
    'a service without instances': {
      path: '/v1/health/service/new',
      change: (agent) => {
        agent.registerService({ Name: 'new' })
      },
    },
    intentions: {
      path: '/v1/connect/intentions',
      change: (agent) => {
        agent.setIntention('a', 'web', 'deny')
      },
    },
    roots: {
      path: '/v1/connect/ca/roots',
      change: (agent) => {
        agent.rotateCa()
      },
    },
    'roots of the agent': {
      path: '/v1/agent/connect/ca/roots',
      change: (agent) => {
        agent.rotateCa({ crossSign: false })
      },
    },
    'a leaf': {
      path: '/v1/agent/connect/ca/leaf/web',
      change: (agent) => {
        agent.renewLeaf('web')
      },
    },
    'a leaf during a rotation': {
      path: '/v1/agent/connect/ca/leaf/web',
      change: (agent) => {
        agent.rotateCa()
      },
    },
  }
  for (const [name, { path, change }] of Object.entries(reads)) {
    it(`ends on a change: ${name}`, async (t) => {
      const agent = await start(t)
      agent.registerService({ Name: 'web', Port: 1 })
      const first = await fetch(agent.url + path)
      const before = await first.text()
      const second = fetch(`${agent.url}${path}?index=${indexOf(first)}`)
      await agent.waitForBlocked(path)
      change(agent)
      const answer = await second
      assert.equal(answer.status, 200)
      assert.ok(indexOf(answer) > indexOf(first))
      assert.notEqual(await answer.text(), before)
    })
  }

  it('ignores other changes', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Port: 1 })
    const path = '/v1/health/service/web'
    const index = indexOf(await fetch(agent.url + path))
    const watch = fetch(`${agent.url}${path}?index=${index}`)
    await agent.waitForBlocked(path)
    agent.registerService({ Name: 'db', Port: 1 })
    agent.setIntention('a', 'b', 'deny')
    await fetch(`${agent.url}/v1/kv/a`, { method: 'PUT', body: 'x' })
    await agent.waitForBlocked(path)
    agent.registerService({ Name: 'web', Port: 9 })
    assert.match(await (await watch).text(), /"Port":9/)
  })

  it('ends after the wait time with the same index', async (t) => {
    const agent = await start(t)
    const first = await fetch(`${agent.url}/v1/connect/intentions`)
    const started = performance.now()
    const second = await fetch(`${agent.url}/v1/connect/intentions?index=${indexOf(first)}&wait=60ms`)
    const ms = performance.now() - started
    assert.equal(indexOf(second), indexOf(first))
    assert.ok(ms >= 59, `${ms} ms`)
  })

  it('ends at once with an old index or without one', async (t) => {
    const agent = await start(t)
    agent.setIntention('a', 'b', 'deny')
    agent.setIntention('b', 'c', 'deny')
    for (const query of ['', '?index=0', '?index=1', '?wait=10m']) {
      assert.equal((await fetch(`${agent.url}/v1/connect/intentions${query}`)).status, 200)
    }
  })

  it('ends when the client closes the connection', async (t) => {
    const agent = await start(t)
    const path = '/v1/connect/intentions'
    const index = indexOf(await fetch(agent.url + path))
    const client = new AbortController()
    const watch = fetch(`${agent.url}${path}?index=${index}`, { signal: client.signal })
    await agent.waitForBlocked(path)
    client.abort()
    await assert.rejects(watch, { name: 'AbortError' })
    const again = fetch(`${agent.url}${path}?index=${index}`)
    await agent.waitForBlocked(path)
    agent.setIntention('a', 'b', 'deny')
    assert.equal((await again).status, 200)
  })

  it('waits for another hash of a service, or for its deregistration', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Port: 1 })
    const path = '/v1/agent/service/web'
    const hash = (await fetch(agent.url + path)).headers.get('x-consul-contenthash') ?? ''
    const changed = fetch(`${agent.url}${path}?hash=${hash}`)
    await agent.waitForBlocked(path)
    agent.registerService({ Name: 'web', Port: 2 })
    const next = (await changed).headers.get('x-consul-contenthash') ?? ''
    assert.notEqual(next, hash)
    const gone = fetch(`${agent.url}${path}?hash=${next}`)
    await agent.waitForBlocked(path)
    agent.deregisterService('web')
    assert.equal((await gone).status, 404)
  })

  it('returns an index of matching intentions from 1.15 on only', async (t) => {
    const path = '/v1/connect/intentions/match?by=destination&name=web'
    const old = await start(t)
    assert.equal((await fetch(old.url + path)).headers.get('x-consul-index'), null)
    const agent = await start(t, { version: '1.15', defaultPolicy: 'deny' })
    const first = await fetch(agent.url + path)
    assert.equal(first.headers.get('x-consul-default-acl-policy'), 'deny')
    const watch = fetch(`${agent.url}${path}&index=${indexOf(first)}`)
    await agent.waitForBlocked('/v1/connect/intentions/match')
    agent.setIntention('a', 'web', 'allow')
    assert.ok(indexOf(await watch) > indexOf(first))
  })

  it('returns a smaller index after the agent dropped its state', async (t) => {
    const agent = await start(t)
    for (const port of [1, 2, 3, 4]) agent.registerService({ Name: 'web', Port: port })
    const before = indexOf(await fetch(`${agent.url}/v1/health/service/web`))
    await agent.restart({ forget: true })
    const after = await fetch(`${agent.url}/v1/health/service/web`)
    assert.ok(indexOf(after) < before)
    assert.deepEqual(await after.json(), [])
  })
})

void it('renews a watched leaf after 60 to 90 % of its lifetime', async (t) => {
  const agent = await start(t, { leafTtlMs: 1000 })
  const path = '/v1/agent/connect/ca/leaf/web'
  const started = performance.now()
  const first = await fetch(agent.url + path)
  const second = await fetch(`${agent.url}${path}?index=${indexOf(first)}`)
  const ms = performance.now() - started
  // The lower bound is 60 % of the lifetime after the backdating. The upper bound allows for a slow machine.
  assert.ok(ms > 500 && ms < 3000, `${ms} ms`)
  assert.ok(indexOf(second) > indexOf(first))
})
