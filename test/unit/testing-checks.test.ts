import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'

interface CheckState {
  CheckID: string
  Status: string
  Output: string
}

async function start(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return agent
}

/** Reads the checks of `web`, without those of the node. */
function checksOf(response: unknown): CheckState[] {
  const [entry] = response as { Checks: CheckState[] }[]
  return (entry?.Checks ?? []).filter(({ CheckID }) => CheckID !== 'serfHealth')
}

/** Watches the checks of `web` until they are as wanted. */
async function until(agent: TestAgent, wanted: (checks: CheckState[]) => boolean): Promise<CheckState[]> {
  for (let index = '0'; ;) {
    const response = await fetch(`${agent.url}/v1/health/service/web?index=${index}&wait=10s`)
    const checks = checksOf(await response.json())
    if (wanted(checks)) return checks
    index = response.headers.get('x-consul-index') ?? '0'
  }
}

async function listen(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
  })
  return (server.address() as AddressInfo).port
}

function put(agent: TestAgent, path: string): Promise<Response> {
  return fetch(agent.url + path, { method: 'PUT' })
}

void describe('a TTL check', () => {
  it('expires, and passes again after a heartbeat', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Check: { TTL: '40ms', Status: 'passing' } })
    const [expired] = await until(agent, ([check]) => check?.Status === 'critical')
    assert.equal(expired?.Output, 'TTL expired')
    await put(agent, '/v1/agent/check/pass/service:web?note=fine')
    await until(agent, ([check]) => check?.Status === 'passing' && check.Output === 'fine')
    const [again] = await until(agent, ([check]) => check?.Status === 'critical')
    assert.equal(again?.Output, 'TTL expired (last output before timeout follows): fine')
  })

  it('keeps its state when the service registers again, but not after a deregistration', async (t) => {
    const agent = await start(t)
    const definition = { Name: 'web', Check: { TTL: '100s' } }
    agent.registerService(definition)
    await put(agent, '/v1/agent/check/pass/service:web')
    agent.registerService(definition)
    await until(agent, ([check]) => check?.Status === 'passing')
    agent.deregisterService('web')
    agent.registerService(definition)
    await until(agent, ([check]) => check?.Status === 'critical')
  })

  it('does not change the index when it is registered again unchanged', async (t) => {
    const agent = await start(t)
    const definition = { Name: 'web', Port: 1, Check: { TTL: '100s' } }
    agent.registerService(definition)
    const index = async (): Promise<string | null> =>
      (await fetch(`${agent.url}/v1/health/service/web`)).headers.get('x-consul-index')
    const before = await index()
    agent.registerService(definition)
    assert.equal(await index(), before)
  })

  it('does not expire while the agent is stopped', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Check: { TTL: '400ms', Status: 'passing' } })
    await agent.stop()
    await agent.restart()
    const [check] = checksOf(await (await fetch(`${agent.url}/v1/health/service/web`)).json())
    assert.equal(check?.Status, 'passing')
    await until(agent, ([check]) => check?.Status === 'critical')
  })
})

void describe('a probe', () => {
  it('passes while a TCP port accepts connections', async (t) => {
    const agent = await start(t)
    const server = createServer((socket) =>
      socket
        .on('error', () => undefined)
        .resume()
        .end(),
    )
    const port = await listen(t, server)
    agent.registerService({ Name: 'web', Check: { TCP: `127.0.0.1:${port}`, Interval: '20ms' } })
    const [check] = await until(agent, ([check]) => check?.Status === 'passing')
    assert.equal(check?.Output, `TCP connect 127.0.0.1:${port}: Success`)
    server.close()
    // The current probe may be reset. The next probe is refused.
    const refused = `dial tcp 127.0.0.1:${port}: connect: connection refused`
    await until(agent, ([check]) => check?.Status === 'critical' && check.Output === refused)
  })

  it('maps HTTP status 2xx to passing, 429 to warning, and others to critical', async (t) => {
    const agent = await start(t)
    let status = 204
    const server = createHttpServer((_, response) => response.writeHead(status).end())
    const HTTP = `http://127.0.0.1:${await listen(t, server)}/health`
    agent.registerService({ Name: 'web', Check: { HTTP, Interval: '20ms' } })
    await until(agent, ([check]) => check?.Status === 'passing')
    status = 429
    await until(agent, ([check]) => check?.Status === 'warning')
    status = 500
    const [check] = await until(agent, ([check]) => check?.Status === 'critical')
    assert.equal(check?.Output, `HTTP GET ${HTTP}: 500 Internal Server Error Output: `)
  })
})

void it('reports an invalid target as critical', async (t) => {
  const agent = await start(t)
  const Checks = ['nowhere', '127.0.0.1:99999', ':'].map((TCP) => ({ TCP, Interval: '10s' }))
  const urls = ['nowhere', 'ftp://127.0.0.1/', 'http://['].map((HTTP) => ({ HTTP, Interval: '10s' }))
  agent.registerService({ Name: 'web', Checks: [...Checks, ...urls] })
  const checks = await until(agent, (checks) => checks.every(({ Output }) => Output !== ''))
  assert.deepEqual(new Set(checks.map(({ Status }) => Status)), new Set(['critical']))
  assert.equal(checks.length, 6)
})

void it('rejects unsupported checks by name', async (t) => {
  const agent = await start(t)
  assert.throws(() => {
    agent.registerService({ Name: 'web', Check: { GRPC: '127.0.0.1:1', Interval: '1s' } })
  }, /"GRPC"; the embedded agent does not support it$/)
  assert.throws(() => {
    agent.registerService({ Name: 'web', Check: { TTL: '1s', SuccessBeforePassing: 2 } })
  }, /"SuccessBeforePassing"; the embedded agent does not support it$/)
})
