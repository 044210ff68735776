// Managed proxies with a real agent, as in Consul 1.2.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import { unlessThere } from '../fixtures/programs.js'
import { echo, startApplication } from '../proxy/connect-proxy.js'
import { Host, kill, managed, settings } from '../supervisor/connect-supervisor.js'
import { commandLineOf, environmentOf, isAlive } from '../supervisor/processes.js'
import { proxyOutbound } from './built-in-proxy.js'
import { type RealAgent, skip as skipConsul, startConsul } from './real-agent.js'
import { redis, startRedis } from './redis.js'
import { agentJson, createQuery, deregister, instances, until } from './service-mesh.js'

const skip = skipConsul || unlessThere('redis-server')

const managementToken = '2b1f7a52-0d0c-4a7e-9a9c-3f0f3a1f9e10'

/** The agent runs a check every ten seconds; a restart of the agent and of the proxies may take as long again. */
const CHECK_MS = 40_000

/** The supervisor verifies each token every 12 s. */
const TOKEN_MS = 40_000

function upstreams(port: number, others: object = {}): object {
  return { config: { upstreams: [{ destination_name: 'redis', local_bind_port: port, ...others }] } }
}

async function untilPassing(consul: RealAgent, service: string): Promise<void> {
  await until(`${service} has an instance`, async () => (await instances(consul, service)) > 0, CHECK_MS)
}

async function untilAnswering(host: Host, port: number): Promise<void> {
  try {
    await until(
      'redis answers through the mesh',
      async () => (await redis(port, 'PING')) === '+PONG',
      CHECK_MS,
    )
  } catch (error) {
    throw new Error(host.logs(), { cause: error })
  }
}

test('a minimal definition of redis, and web with an upstream redis', { skip }, async (t) => {
  const consul = await startConsul(t)
  const [port, [direct = 0, byQuery = 0]] = [await startRedis(t), await freePorts(2)]
  const host = new Host(t, {
    agent: consul.address,
    files: {
      'agent.json': await settings(),
      'redis.hcl': `service { name = "redis" port = ${port} tags = ["primary"] connect { proxy {} } }`,
      'web.json': managed('web', upstreams(direct)),
      'worker.json': managed(
        'worker',
        upstreams(byQuery, { destination_type: 'prepared_query', destination_name: 'nearest-redis' }),
      ),
    },
  })
  const query = { Service: 'redis', Connect: true, OnlyPassing: true }
  await createQuery(consul, { Name: 'nearest-redis', Service: query })
  await host.start()
  const proxy = await host.running('redis')
  await untilPassing(consul, 'redis')

  await t.test('the local port of web reaches redis', () => untilAnswering(host, direct))
  await t.test('the local port of worker reaches redis by a prepared query', () =>
    untilAnswering(host, byQuery),
  )
  await t.test('the proxy is registered with the check of Consul 1.2', async () => {
    assert.match(await consul.consul(['catalog', 'services']), /^redis-proxy$/m)
    const check = await until(
      'the agent has run the check',
      async () => {
        type Checks = Record<string, { Name: string; Status: string; Output: string }>
        const found = (await agentJson<Checks>(consul, '/v1/agent/checks'))['service:redis-proxy']
        return found?.Output === '' ? undefined : found
      },
      CHECK_MS,
    )
    assert.equal(check.Name, 'Connect Proxy Listening')
    assert.equal(check.Status, 'passing')
    assert.match(check.Output, new RegExp(`127.0.0.1:${proxy.port}`))
  })
  await t.test('the proxy has the tags of its service, and follows its maintenance', async () => {
    const found = async (query: string): Promise<number> =>
      (await agentJson<unknown[]>(consul, `/v1/health/connect/redis?passing&${query}`)).length
    const tagged = (tag: string): Promise<number> =>
      found(new URLSearchParams({ filter: `${JSON.stringify(tag)} in Service.Tags` }).toString())
    assert.deepEqual([await tagged('primary'), await tagged('other')], [1, 0])
    const maintenance = (enable: boolean): Promise<Response> =>
      consul.http(`/v1/agent/service/maintenance/redis?enable=${enable}`, { method: 'PUT' })
    await maintenance(true)
    await until('the proxy is critical', async () => (await found('')) === 0, CHECK_MS)
    await maintenance(false)
    await until('the proxy is passing again', async () => (await found('')) === 1, CHECK_MS)
  })
  await t.test('the built-in proxy reaches it', async (t) => {
    const { port: builtIn } = await proxyOutbound(t, consul, 'client', 'redis')
    await untilAnswering(host, builtIn)
  })
  await t.test('the built-in proxy can be the managed process', async () => {
    await host.command('stop', 'web')
    await deregister(consul, 'web-proxy')
    assert.equal(await redis(direct, 'PING').catch(() => 'refused'), 'refused')
    host.write(
      'web.json',
      managed('web', {
        ...upstreams(direct),
        command: [process.env['CONSUL_BIN'] ?? 'consul', 'connect', 'proxy'],
      }),
    )
    host.supervisors[0]?.signal('SIGHUP')
    await host.supervisors[0]?.logged('configuration applied')
    await host.command('start', 'web')
    const { pid } = await host.running('web')
    assert.match(commandLineOf(pid).join(' '), /consul connect proxy$/)
    await untilAnswering(host, direct)
  })
  await t.test('the proxies survive a restart of the agent', async () => {
    const before = await host.rows()
    await consul.kill()
    // The proxies serve from their caches in the meantime.
    assert.equal(await redis(byQuery, 'PING'), '+PONG')
    await consul.restart()
    await untilPassing(consul, 'redis')
    await untilAnswering(host, byQuery)
    const pids = (rows: typeof before): unknown[] => Object.values(rows).map(({ pid }) => pid)
    assert.deepEqual(pids(await host.rows()), pids(before))
  })
})

/** Resolves when an echo connection works; rejects otherwise. */
async function echoes(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.write('x')
    await once(socket, 'data', { signal: AbortSignal.timeout(2_000) })
    return true
  } finally {
    socket.destroy()
  }
}

const PIECE = randomBytes(1 << 16)

test('connections survive a kill of the supervisor without a lost byte', { skip }, async (t) => {
  const consul = await startConsul(t)
  const [{ port }, [local = 0]] = [await startApplication(t, echo), await freePorts(1)]
  const host = new Host(t, {
    agent: consul.address,
    files: {
      'agent.json': await settings(),
      'echo.json': managed('echo', {}, { port }),
      'web.json': managed('web', { upstreams: [{ destination_name: 'echo', local_bind_port: local }] }),
    },
  })
  const supervisor = await host.start()
  await untilPassing(consul, 'echo')
  await until('the local port reaches echo', () => echoes(local), CHECK_MS)
  const socket = connect({ port: local, host: '127.0.0.1', allowHalfOpen: true })
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  const sending = new AbortController()
  let bytes = 0
  socket.on('data', (chunk) => {
    bytes += chunk.length
    received.update(chunk)
  })
  const done = Promise.all([
    once(socket, 'end'),
    (async (): Promise<void> => {
      while (!sending.signal.aborted) {
        sent.update(PIECE)
        if (!socket.write(PIECE)) await once(socket, 'drain')
      }
      socket.end()
    })(),
  ])
  const before = [await host.running('echo'), await host.running('web')]
  await supervisor.stop('SIGKILL')
  const afterKill = bytes
  await until('bytes arrive without a supervisor', () => bytes > afterKill + 10_000_000)
  const second = await host.start()
  assert.equal(second.lines.filter(({ msg }) => msg.includes('adopted running process')).length, 2)
  const afterRestart = bytes
  await until('bytes arrive with the next supervisor', () => bytes > afterRestart + 10_000_000)
  sending.abort()
  await done
  const after = [await host.running('echo'), await host.running('web')]
  assert.deepEqual(
    after.map(({ pid }) => pid),
    before.map(({ pid }) => pid),
  )
  t.diagnostic(`${bytes} bytes`)
  assert.equal(received.digest('hex'), sent.digest('hex'))
})

test('managed proxies with ACLs and the default policy deny', { skip }, async (t) => {
  const consul = await startConsul(t, { acl: { defaultPolicy: 'deny', managementToken } })
  const [port, [local = 0]] = [await startRedis(t), await freePorts(1)]
  const as = (token: string, path: string, method = 'GET', body?: object): Promise<Response> =>
    consul.http(path, {
      method,
      headers: { 'X-Consul-Token': token },
      ...(body && { body: JSON.stringify(body) }),
    })
  const host = new Host(t, {
    agent: consul.address,
    env: { CONSUL_HTTP_TOKEN: managementToken },
    files: {
      'agent.json': await settings(),
      'redis.json': managed('redis', {}, { port }),
      'web.json': managed('web', upstreams(local)),
    },
  })
  await host.start(['-log-level', 'trace'])
  const { pid } = await host.running('redis')
  const token = environmentOf(pid)['CONNECT_PROXY_TOKEN'] ?? ''

  await t.test('a proxy has its own local token with the identity of its service only', async () => {
    assert.match(token, /^[0-9a-f-]{36}$/)
    assert.notEqual(token, managementToken)
    assert.notEqual(token, environmentOf((await host.running('web')).pid)['CONNECT_PROXY_TOKEN'])
    const self = (await (await as(token, '/v1/acl/token/self')).json()) as Record<string, unknown>
    assert.deepEqual(self['ServiceIdentities'], [{ ServiceName: 'redis' }])
    assert.equal(self['Local'], true)
    assert.equal(self['Policies'], undefined)
  })
  await t.test('connections need an intention', async () => {
    await until(
      'redis is passing',
      async () => {
        const answer = await as(managementToken, '/v1/health/connect/redis?passing')
        return ((await answer.json()) as unknown[]).length > 0
      },
      CHECK_MS,
    )
    assert.equal(await redis(local, 'PING').catch(() => 'denied'), 'denied')
    const body = { SourceName: 'web', DestinationName: 'redis', SourceType: 'consul', Action: 'allow' }
    assert.equal((await as(managementToken, '/v1/connect/intentions', 'POST', body)).status, 200)
    await untilAnswering(host, local)
  })
  await t.test('the token has no other permissions', async () => {
    for (const [path, method, body] of [
      ['/v1/agent/connect/ca/leaf/web', 'GET'],
      ['/v1/agent/service/register', 'PUT', { Name: 'web', ID: 'web-2', Port: 1 }],
      [
        '/v1/agent/service/register',
        'PUT',
        {
          Name: 'redis-proxy',
          ID: 'redis-proxy-2',
          Port: 1,
          Kind: 'connect-proxy',
          Proxy: { DestinationServiceName: 'redis' },
        },
      ],
      ['/v1/agent/service/deregister/web', 'PUT'],
      ['/v1/agent/service/deregister/web-proxy', 'PUT'],
      [
        '/v1/connect/intentions',
        'POST',
        { SourceName: '*', DestinationName: 'redis', SourceType: 'consul', Action: 'allow' },
      ],
      ['/v1/acl/token', 'PUT', { ServiceIdentities: [{ ServiceName: 'web' }] }],
      ['/v1/acl/tokens', 'GET'],
      ['/v1/kv/x', 'PUT', {}],
      ['/v1/connect/ca/configuration', 'PUT', {}],
      [
        '/v1/agent/connect/authorize',
        'POST',
        {
          Target: 'web',
          ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc1/svc/redis',
          ClientCertSerial: '1',
        },
      ],
    ] as [string, string, object?][]) {
      const { status } = await as(token, path, method, body)
      assert.equal(status, 403, `${method} ${path}`)
    }
    // The permissions that the proxy needs.
    for (const path of [
      '/v1/agent/connect/ca/leaf/redis',
      '/v1/agent/service/redis-proxy',
      '/v1/health/connect/web',
    ]) {
      assert.equal((await as(token, path)).status, 200, path)
    }
  })
  await t.test('command lines and logs contain no token', () => {
    const tokens = [managementToken, token]
    for (const each of host.processes()) {
      const line = commandLineOf(each).join(' ')
      for (const secret of tokens) assert.ok(!line.includes(secret))
    }
    const log = JSON.stringify(host.supervisors[0]?.lines) + String(host.supervisors[0]?.text)
    const logs = ['redis', 'web'].map((name) =>
      readFileSync(join(host.dataDir, 'proxy', 'logs', `${name}-proxy-stderr.log`), 'utf8'),
    )
    for (const text of [log, ...logs]) for (const secret of tokens) assert.ok(!text.includes(secret))
    assert.ok(log.includes('redis-proxy: started'))
  })
  await t.test('the token survives restarts of the supervisor and of the proxy', async () => {
    await host.supervisors[0]!.stop('SIGKILL')
    await host.start()
    kill(pid)
    const restarted = await host.row('redis', (row) => row.state === 'running' && row.pid !== pid)
    assert.equal(environmentOf(restarted.pid!)['CONNECT_PROXY_TOKEN'], token)
    await untilAnswering(host, local)
  })
  await t.test('a deleted token is replaced together with its proxy', async () => {
    const { AccessorID } = (await (await as(token, '/v1/acl/token/self')).json()) as { AccessorID: string }
    await as(managementToken, `/v1/acl/token/${AccessorID}`, 'DELETE')
    const before = await host.running('redis')
    const after = await host.row(
      'redis',
      (row) => row.state === 'running' && row.pid !== before.pid,
      TOKEN_MS,
    )
    const own = environmentOf(after.pid!)['CONNECT_PROXY_TOKEN'] ?? ''
    assert.notEqual(own, token)
    assert.equal((await as(own, '/v1/acl/token/self')).status, 200)
    await untilAnswering(host, local)
  })
  await t.test('the token is deleted with the proxy', async () => {
    const { pid: last } = await host.running('redis')
    const own = environmentOf(last)['CONNECT_PROXY_TOKEN'] ?? ''
    host.write('redis.json', {})
    host.supervisors[1]!.signal('SIGHUP')
    await until('the token is deleted', async () => (await as(own, '/v1/acl/token/self')).status === 403)
    await until('the proxy has exited', () => !isAlive(last))
    const tokens = (await (await as(managementToken, '/v1/acl/tokens')).json()) as { Description: string }[]
    assert.deepEqual(
      tokens.map(({ Description }) => Description).filter((text) => text.includes('connect-supervisor')),
      ['managed proxy of service instance web, created by connect-supervisor'],
    )
  })
})

test(
  'without acl:write, the supervisor logs the missing permission and starts no proxy',
  { skip },
  async (t) => {
    const consul = await startConsul(t, { acl: { defaultPolicy: 'deny', managementToken } })
    const asManager = (path: string, body: object): Promise<Record<string, string>> =>
      agentJson(consul, path, {
        method: 'PUT',
        headers: { 'X-Consul-Token': managementToken },
        body: JSON.stringify(body),
      })
    const policy = await asManager('/v1/acl/policy', {
      Name: 'narrow',
      Rules: 'service_prefix "" { policy = "write" }',
    })
    const { SecretID = '' } = await asManager('/v1/acl/token', { Policies: [{ ID: policy['ID'] }] })
    const host = new Host(t, {
      agent: consul.address,
      env: { CONSUL_HTTP_TOKEN: SecretID },
      files: { 'agent.json': await settings(), 'redis.json': managed('redis') },
    })
    const supervisor = await host.start()
    const { msg } = await supervisor.logged('may not create tokens')
    assert.match(msg, /grant it acl = "write" \(and service:write for the services and their proxies\)/)
    assert.equal(host.processes().length, 0)
  },
)

test('the supervisor and its proxies start before the agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const [port, [local = 0]] = [await startRedis(t), await freePorts(1)]
  const host = new Host(t, {
    agent: consul.address,
    files: {
      'agent.json': await settings(),
      'redis.json': managed('redis', {}, { port }),
      'web.json': managed('web', upstreams(local)),
    },
  })
  const first = await host.start()
  await host.running('redis')
  await host.running('web')
  await untilPassing(consul, 'redis')
  await untilAnswering(host, local)
  // As after a reboot of the machine.
  await first.stop('SIGKILL')
  for (const each of host.processes()) kill(each)
  await consul.stop()
  const second = await host.start()
  await host.running('redis')
  await second.logged('no answer from the agent')
  await consul.restart()
  await untilAnswering(host, local)
})
