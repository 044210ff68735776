import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type Json } from '../../src/testing/index.js'

async function start(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return agent
}

const roots = '/v1/connect/ca/roots'

void describe('a fault', () => {
  it('replaces the body, as HTML by default', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { body: '<h1>no</h1>' })
    const html = await fetch(agent.url + roots)
    assert.equal(html.status, 200)
    assert.equal(html.headers.get('content-type'), 'text/html')
    assert.equal(await html.text(), '<h1>no</h1>')
    agent.fault(roots, { status: 503, body: '{"a":', headers: { 'content-type': 'application/json' } })
    const json = await fetch(agent.url + roots)
    assert.equal(json.status, 503)
    assert.equal(json.headers.get('content-type'), 'application/json')
    await assert.rejects(json.json(), SyntaxError)
  })

  it('changes the status, headers, and JSON of the answer', async (t) => {
    const agent = await start(t)
    const undo = agent.fault(roots, {
      status: 429,
      headers: { 'Retry-After': '1', 'X-Consul-Index': '' },
      transform: (json: Json) => ({ was: Array.isArray(json) ? 'list' : typeof json }),
    })
    const changed = await fetch(agent.url + roots)
    assert.equal(changed.status, 429)
    assert.equal(changed.headers.get('retry-after'), '1')
    assert.equal(changed.headers.get('x-consul-index'), null)
    assert.deepEqual(await changed.json(), { was: 'object' })
    undo()
    const unchanged = await fetch(agent.url + roots)
    assert.equal(unchanged.status, 200)
    assert.match(await unchanged.text(), /ActiveRootID/)
  })

  it('prevents the execution of the request with an error status', async (t) => {
    const agent = await start(t)
    agent.fault('/v1/kv', { status: 500, times: 1 })
    const put = await fetch(`${agent.url}/v1/kv/a`, { method: 'PUT', body: 'x' })
    assert.equal(put.status, 500)
    assert.equal(put.headers.get('content-type'), 'text/plain; charset=utf-8')
    assert.equal(await put.text(), 'Internal Server Error')
    assert.equal((await fetch(`${agent.url}/v1/kv/a`)).status, 404)
  })

  it('truncates an answer', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { truncate: true })
    const response = await fetch(agent.url + roots)
    await assert.rejects(response.text(), TypeError)
  })

  it('resets the connection', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { reset: true })
    await assert.rejects(fetch(agent.url + roots), (error: TypeError) => {
      assert.equal((error.cause as NodeJS.ErrnoException).code, 'ECONNRESET')
      return true
    })
  })

  it('never answers', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { hang: true })
    const client = new AbortController()
    const request = fetch(agent.url + roots, { signal: client.signal })
    await agent.waitForRequests(roots, 1)
    client.abort()
    await assert.rejects(request, { name: 'AbortError' })
  })

  it('delays the answer', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { delayMs: 50 })
    const started = performance.now()
    assert.equal((await fetch(agent.url + roots)).status, 200)
    assert.ok(performance.now() - started >= 49)
  })

  it('applies to a number of requests, the newest fault first', async (t) => {
    const agent = await start(t)
    agent.fault('/v1/', { status: 500, times: 2 })
    agent.fault(roots, { status: 429, times: 1 })
    const statuses = []
    for (let i = 0; i < 4; i++) statuses.push((await fetch(agent.url + roots)).status)
    assert.deepEqual(statuses, [429, 500, 500, 200])
    const remove = agent.fault('/', { status: 500 })
    remove()
    assert.equal((await fetch(agent.url + roots)).status, 200)
  })

  it('selects requests by prefix, RegExp, or function', async (t) => {
    const agent = await start(t)
    agent.fault(/^PUT \/v1\/kv\/.*cas=/g, { status: 500 })
    agent.fault(({ token }) => token === 'bad', { status: 403 })
    const put = (path: string) => fetch(agent.url + path, { method: 'PUT', body: 'x' })
    assert.equal((await put('/v1/kv/a')).status, 200)
    for (let i = 0; i < 2; i++) assert.equal((await put('/v1/kv/a?cas=1')).status, 500)
    assert.equal((await fetch(`${agent.url}/v1/kv/a?token=bad`)).status, 403)
  })

  it('applies to a request that waits in a blocking query', async (t) => {
    const agent = await start(t)
    const index = (await fetch(agent.url + roots)).headers.get('x-consul-index') ?? ''
    const watch = fetch(`${agent.url}${roots}?index=${index}`)
    await agent.waitForBlocked(roots)
    agent.fault(roots, { status: 500, times: 1 })
    agent.rotateCa()
    assert.equal((await watch).status, 500)
    assert.equal((await fetch(agent.url + roots)).status, 200)
  })
})

void describe('the agent', () => {
  it('answers requests after a pause', async (t) => {
    const agent = await start(t)
    agent.pause()
    let isAnswered = false
    const request = fetch(agent.url + roots).finally(() => (isAnswered = true))
    await agent.waitForRequests(roots, 1)
    assert.equal(isAnswered, false)
    agent.resume()
    assert.equal((await request).status, 200)
  })

  it('drops connections and accepts new ones', async (t) => {
    const agent = await start(t)
    agent.fault(roots, { hang: true, times: 1 })
    const request = fetch(agent.url + roots)
    await agent.waitForRequests(roots, 1)
    agent.dropConnections()
    await assert.rejects(request, TypeError)
    assert.equal((await fetch(agent.url + roots)).status, 200)
  })

  it('counts requests', async (t) => {
    const agent = await start(t)
    await fetch(agent.url + roots)
    await fetch(`${agent.url}/v1/agent/services?pretty`)
    assert.equal(agent.requestCount(), 2)
    assert.equal(agent.requestCount('/v1/agent'), 1)
    assert.equal(agent.requestCount(/^GET .*\?pretty$/), 1)
    assert.equal(
      agent.requestCount(({ path }) => path === roots),
      1,
    )
  })

  it('stops waiting when the signal is aborted', async (t) => {
    const agent = await start(t)
    const signal = AbortSignal.timeout(10)
    await assert.rejects(agent.waitForBlocked(roots, 1, { signal }), { name: 'TimeoutError' })
  })

  it('marks its answers with a header', async (t) => {
    const agent = await start(t)
    assert.equal((await fetch(`${agent.url}/v1/nope`)).headers.get('x-consul-connect-testing'), '1')
  })
})
