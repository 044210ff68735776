import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { describe, it, type TestContext } from 'node:test'
import { createServer as createHttpsServer } from 'node:https'
import { TestAgent, TestCa } from '../../src/testing/index.js'

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

/** Watches the service's checks until they are as wanted. */
async function until(agent: TestAgent, wanted: (checks: CheckState[]) => boolean): Promise<CheckState[]> {
  for (let index = '0'; ;) {
    const response = await fetch(`${agent.url}/v1/health/checks/web?index=${index}&wait=10s`)
    const checks = (await response.json()) as CheckState[]
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
  it('expires, and a heartbeat brings it back', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Check: { TTL: '40ms', Status: 'passing' } })
    const [expired] = await until(agent, ([check]) => check?.Status === 'critical')
    assert.equal(expired?.Output, 'TTL expired')
    await put(agent, '/v1/agent/check/pass/service:web?note=fine')
    await until(agent, ([check]) => check?.Status === 'passing' && check.Output === 'fine')
    const [again] = await until(agent, ([check]) => check?.Status === 'critical')
    assert.equal(again?.Output, 'TTL expired (last output before timeout follows): fine')
  })

  it('keeps its state when the service registers again, and not when it was gone', async (t) => {
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

  it('registered again without a change is no news', async (t) => {
    const agent = await start(t)
    const definition = { Name: 'web', Port: 1, Check: { TTL: '100s' } }
    agent.registerService(definition)
    const index = async (): Promise<string | null> =>
      (await fetch(`${agent.url}/v1/health/service/web`)).headers.get('x-consul-index')
    const before = await index()
    agent.registerService(definition)
    assert.equal(await index(), before)
  })

  it('ends a service that stays critical for too long', async (t) => {
    const agent = await start(t)
    const Check = { TTL: '20ms', Status: 'passing', DeregisterCriticalServiceAfter: '20ms' }
    agent.registerService({ Name: 'web', Check })
    await until(agent, (checks) => checks.length === 0)
    assert.deepEqual(await (await fetch(`${agent.url}/v1/agent/services`)).json(), {})
  })

  it('stands still while the agent is stopped', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Check: { TTL: '400ms', Status: 'passing' } })
    await agent.stop()
    await agent.restart()
    const [check] = (await (await fetch(`${agent.url}/v1/health/checks/web`)).json()) as CheckState[]
    assert.equal(check?.Status, 'passing')
    await until(agent, ([check]) => check?.Status === 'critical')
  })
})

void describe('a probe', () => {
  it('connects to a port, and sees it go', async (t) => {
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
    // The probe under way may still be reset; the next one is refused.
    const refused = `dial tcp 127.0.0.1:${port}: connect: connection refused`
    await until(agent, ([check]) => check?.Status === 'critical' && check.Output === refused)
  })

  it('asks a URL: 2xx passes, 429 warns, the rest is critical', async (t) => {
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

void describe('a probe of a URL', () => {
  it('is the request that was written', async (t) => {
    const agent = await start(t)
    const asked: unknown[] = []
    const server = createHttpServer((request, response) => {
      void buffer(request).then((body) => {
        asked.push([request.method, request.headers['x-a'], body.toString()])
        response.end()
      })
    })
    const HTTP = `http://127.0.0.1:${await listen(t, server)}/`
    const request = { Method: 'PUT', Header: { 'X-A': ['b', 'c'] }, Body: 'hello' }
    agent.registerService({ Name: 'web', Check: { HTTP, Interval: '10s', ...request } })
    const [check] = await until(agent, ([check]) => check?.Status === 'passing')
    assert.equal(check?.Output, `HTTP PUT ${HTTP}: 200 OK Output: `)
    assert.deepEqual(asked, [['PUT', 'b, c', 'hello']])
  })

  it('takes any certificate where it may, in either spelling', async (t) => {
    const agent = await start(t)
    const { privateKeyPem: key, chainPem: cert } = TestCa.create().issue({ ips: ['127.0.0.1'] })
    const server = createHttpsServer({ key, cert }, (_, response) => response.end())
    const HTTP = `https://127.0.0.1:${await listen(t, server)}/`
    agent.registerService({ Name: 'web', Check: { HTTP, Interval: '20ms' } })
    await until(agent, ([check]) => /certificate/.test(check?.Output ?? ''))
    agent.registerService({ Name: 'web', Check: { HTTP, Interval: '20ms', tls_skip_verify: true } })
    await until(agent, ([check]) => check?.Status === 'passing')
  })
})

void it('a target that is none makes a check critical, and ends nothing', async (t) => {
  const agent = await start(t)
  const Checks = ['nowhere', '127.0.0.1:99999', ':'].map((TCP) => ({ TCP, Interval: '10s' }))
  const urls = ['nowhere', 'ftp://127.0.0.1/', 'http://['].map((HTTP) => ({ HTTP, Interval: '10s' }))
  const method = { HTTP: 'http://127.0.0.1:1/', Method: 'NO METHOD', Interval: '10s' }
  agent.registerService({ Name: 'web', Checks: [...Checks, ...urls, method] })
  const checks = await until(agent, (checks) => checks.every(({ Output }) => Output !== ''))
  assert.deepEqual(new Set(checks.map(({ Status }) => Status)), new Set(['critical']))
  assert.equal(checks.length, 7)
})

void it('what the agent cannot check is refused by name', async (t) => {
  const agent = await start(t)
  assert.throws(() => {
    agent.registerService({ Name: 'web', Check: { GRPC: '127.0.0.1:1', Interval: '1s' } })
  }, /no GRPC/)
  assert.throws(() => {
    agent.registerService({ Name: 'web', Check: { TTL: '1s', SuccessBeforePassing: 2 } })
  }, /no SuccessBeforePassing/)
})
