// Managed proxies that are asked for by HTTP, as Consul 1.2 to 1.5 took them.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import { type TestContext, test } from 'node:test'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'
import { freePort } from '../fixtures/free-ports.js'
import { readAll, until } from '../fixtures/mesh.js'
import { Host, IDLE, managed, settings } from './connect-supervisor.js'

const MANAGED = { Name: 'web', ID: 'web-1', Port: 8080, Connect: { Proxy: { Command: ['sleep', '1000'] } } }

async function start(
  t: TestContext,
  isAllowed: boolean,
  options?: TestAgentOptions,
  env: Readonly<Record<string, string>> = {},
): Promise<{ agent: TestAgent; host: Host; url: string }> {
  const agent = await TestAgent.start(options)
  t.after(() => agent.close())
  const address = `127.0.0.1:${await freePort()}`
  const host = new Host(t, {
    agent: agent.address,
    flags: ['-api-addr', address],
    env,
    files: {
      'agent.json': await settings(),
      'api.json': { connect: { proxy: { allow_managed_api_registration: isAllowed } } },
      'a.json': managed('a', IDLE),
    },
  })
  await host.start()
  return { agent, host, url: `http://${address}` }
}

async function put(
  url: string,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ status: number; text: string }> {
  const sent = request(`${url}${path}`, { method: 'PUT', headers })
  sent.end(typeof body === 'string' ? body : JSON.stringify(body))
  return new Promise((resolve, reject) => {
    sent.on('error', reject)
    sent.on('response', (response) => {
      readAll(response).then((text) => {
        resolve({ status: response.statusCode ?? 0, text })
      }, reject)
    })
  })
}

const MANAGEMENT_TOKEN = 'a2b1c0d9-0000-4000-8000-00000000beef'

/** Makes a token that may register the service `web`. */
async function agentToken(agent: TestAgent): Promise<{ AccessorID: string; SecretID: string }> {
  const response = await fetch(`${agent.url}/v1/acl/token`, {
    method: 'PUT',
    headers: { 'X-Consul-Token': MANAGEMENT_TOKEN },
    body: JSON.stringify({ ServiceIdentities: [{ ServiceName: 'web' }, { ServiceName: 'web-proxy' }] }),
  })
  return (await response.json()) as { AccessorID: string; SecretID: string }
}

const REGISTER = '/v1/agent/service/register'

test('without the setting nothing managed is taken, and the refusal says why and how', async (t) => {
  const { agent, url } = await start(t, false)
  const { status, text } = await put(url, REGISTER, MANAGED)
  assert.equal(status, 400)
  assert.match(
    text,
    /anyone who can register a service could run commands on this host; set .*allow_managed_api_registration = true/,
  )
  // A service without a proxy is nobody's business but the agent's.
  assert.equal((await put(url, REGISTER, { Name: 'plain', Port: 1 })).status, 200)
  const services = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as object
  assert.equal('web-1' in services, false)
  assert.equal('plain' in services, true)
})

test('with it, a proxy runs until somebody deregisters the service, over restarts of the supervisor', async (t) => {
  const { agent, host, url } = await start(t, true)
  assert.equal((await put(url, REGISTER, MANAGED)).status, 200)
  const { pid, proxy } = await host.running('web-1')
  assert.equal(proxy, 'web-1-proxy')
  const [supervisor] = [await host.command('status')]
  assert.match(supervisor, /web-1 +web-1-proxy/)
  assert.equal((await put(url, '/v1/agent/service/deregister/web-1')).status, 200)
  await until('it is gone', async () => {
    const services = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as object
    return !('web-1' in services) && !('web-1-proxy' in services) && !host.processes().includes(pid)
  })
})

test('what came by HTTP is known to the next supervisor, and gets no proxy where that is off by then', async (t) => {
  const { host, url } = await start(t, true)
  await put(url, REGISTER, MANAGED)
  const { pid } = await host.running('web-1')
  const [first] = host.supervisors
  await first!.stop('SIGKILL')
  const second = await host.start()
  assert.equal((await host.running('web-1')).pid, pid)
  await second.stop('SIGKILL')
  host.write('api.json', { connect: { proxy: { allow_managed_api_registration: false } } })
  const third = await host.start()
  await third.logged('allow_managed_api_registration is off; no proxy is started')
  await until('it ends', () => !host.processes().includes(pid))
})

test('the token is that of whoever asks, and never the supervisor’s', async (t) => {
  const managementToken = MANAGEMENT_TOKEN
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken } as const
  const { agent, host, url } = await start(t, true, { acl }, { CONSUL_HTTP_TOKEN: managementToken })
  await host.running('a')
  const denied = await put(url, REGISTER, MANAGED)
  assert.equal(denied.status, 403)
  assert.equal((await put(url, '/v1/agent/service/deregister/a')).status, 400)
  const { status } = await put(url, REGISTER, MANAGED, { 'X-Consul-Token': managementToken })
  assert.equal(status, 200)
  await host.running('web-1')
  assert.equal((await put(url, '/v1/agent/service/deregister/web-1')).status, 403)
  assert.ok(agent)
})

test('refuses by switch and by token before it parses the definition', async (t) => {
  const acl = { enabled: true, defaultPolicy: 'allow', managementToken: MANAGEMENT_TOKEN } as const
  const env = { CONSUL_HTTP_TOKEN: MANAGEMENT_TOKEN }
  const wrong = { ...MANAGED, Port: 'no number' }
  const off = await start(t, false, { acl }, env)
  assert.match(
    (await put(off.url, REGISTER, wrong)).text,
    /registration of managed proxies by HTTP is disabled/,
  )
  const on = await start(t, true, { acl }, env)
  const unknown = await put(on.url, REGISTER, wrong, { 'X-Consul-Token': randomUUID() })
  assert.deepEqual([unknown.status, /ACL not found/.test(unknown.text)], [403, true])
  const known = await put(on.url, REGISTER, wrong, { 'X-Consul-Token': MANAGEMENT_TOKEN })
  assert.match(known.text, /port: expected a port/)
})

test('retires a proxy when the token that registered it is deleted', async (t) => {
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken: MANAGEMENT_TOKEN } as const
  const { agent, host, url } = await start(t, true, { acl }, { CONSUL_HTTP_TOKEN: MANAGEMENT_TOKEN })
  const asManager = { 'X-Consul-Token': MANAGEMENT_TOKEN }
  const token = await agentToken(agent)
  const registered = await put(url, REGISTER, MANAGED, { 'X-Consul-Token': token.SecretID })
  assert.deepEqual(registered, { status: 200, text: '' })
  const { pid } = await host.running('web-1')
  const deleted = await fetch(`${agent.url}/v1/acl/token/${token.AccessorID}`, {
    method: 'DELETE',
    headers: asManager,
  })
  assert.equal(deleted.status, 200)
  await host.supervisors[0]!.logged(
    'web-1: the token that registered the service was deleted; stopping its proxy',
  )
  await until('the process and the registration are gone', async () => {
    const answer = await fetch(`${agent.url}/v1/agent/services`, { headers: asManager })
    return !('web-1-proxy' in ((await answer.json()) as object)) && !host.processes().includes(pid)
  })
  // The service itself is the registrant's.
  assert.ok(
    'web-1' in
      ((await (await fetch(`${agent.url}/v1/agent/services`, { headers: asManager })).json()) as object),
  )
})

test('lets the registrant remove a service that the agent no longer has', async (t) => {
  const acl = { enabled: true, defaultPolicy: 'deny', managementToken: MANAGEMENT_TOKEN } as const
  const { agent, host, url } = await start(t, true, { acl }, { CONSUL_HTTP_TOKEN: MANAGEMENT_TOKEN })
  const { SecretID } = await agentToken(agent)
  await put(url, REGISTER, MANAGED, { 'X-Consul-Token': SecretID })
  const { pid } = await host.running('web-1')
  // Without the supervisor the removal at the agent stays unnoticed.
  host.supervisors[0]!.signal('SIGSTOP')
  await put(agent.url, '/v1/agent/service/deregister/web-1', undefined, { 'X-Consul-Token': SecretID })
  const path = '/v1/agent/service/deregister/web-1'
  const stranger = put(url, path, undefined, { 'X-Consul-Token': MANAGEMENT_TOKEN.replace(/.$/, '0') })
  const owner = stranger.then(() => put(url, path, undefined, { 'X-Consul-Token': SecretID }))
  host.supervisors[0]!.signal('SIGCONT')
  assert.notEqual((await stranger).status, 200)
  assert.equal((await owner).status, 200)
  await until('the process ends', () => !host.processes().includes(pid))
})

test('what is no request for us is refused', async (t) => {
  const { url } = await start(t, true)
  for (const [path, body, headers, status, expected] of [
    [REGISTER, '{', {}, 400, /expected a JSON object/],
    [REGISTER, '[]', {}, 400, /expected a JSON object/],
    [REGISTER, { Port: 1 }, {}, 400, /missing name/],
    [
      REGISTER,
      { Name: 'a', Port: 1 },
      {},
      400,
      /service a is defined in a configuration file; change it there/,
    ],
    [
      REGISTER,
      { ...MANAGED, Connect: { Proxy: { ExecMode: 'script' } } },
      {},
      400,
      /exec_mode: expected "daemon"/,
    ],
    [REGISTER, { ...MANAGED, ID: 'x/../y' }, {}, 400, /without slashes/],
    [REGISTER, { ...MANAGED, ID: 'a/\u202eb' }, {}, 400, /got "a\/\\u202eb"/],
    [REGISTER, { Name: 'x', ['K'.repeat(80_000)]: 1 }, {}, 400, /expected keys of at most 256 characters/],
    [REGISTER, { ...MANAGED, Token: 'x'.repeat(5_000) }, {}, 400, /token: expected a string of at most/],
    [REGISTER, { ...MANAGED, ID: '\ud800' }, {}, 400, /expected a name/],
    // Go would take the last of them for the name.
    [REGISTER, { ...MANAGED, NaMe: 'other' }, {}, 400, /name: set twice, in two spellings/],
    [
      REGISTER,
      { ...MANAGED, Meta: {}, Check: { TTL: '1s', tTl: '2s' } },
      {},
      400,
      /are the same key to an agent/,
    ],
    [
      REGISTER,
      { ...MANAGED, Port: 0 },
      {},
      400,
      /address of the application unknown; set port in the service/,
    ],
    [
      REGISTER,
      { ...MANAGED, Connect: { Proxy: { Config: { bind_port: 'x' } } } },
      {},
      400,
      /bind_port: expected a port/,
    ],
    [
      REGISTER,
      { ...MANAGED, Connect: { Proxy: { Command: ['./x'] } } },
      {},
      400,
      /expected an absolute path/,
    ],
    [REGISTER, { Name: 'x', ID: 'a-proxy', Port: 1 }, {}, 400, /a-proxy is the managed proxy of a/],
    ['/v1/agent/service/deregister/%zz', undefined, {}, 400, /id: invalid percent-encoding/],
    [REGISTER, MANAGED, { host: 'evil.example' }, 403, /Host header: expected an IP address or localhost/],
    [REGISTER, `"${'x'.repeat(1_100_000)}"`, {}, 413, /at most/],
    [REGISTER, `"${'x'.repeat(140_000)}"`, { 'transfer-encoding': 'chunked' }, 413, /at most/],
    ['/v1/agent/services', undefined, {}, 404, /for other endpoints, use the agent at /],
    ['/v1/agent/service/deregister/a', undefined, {}, 400, /defined in a configuration file/],
  ] as [string, unknown, Record<string, string>, number, RegExp][]) {
    const answer = await put(url, path, body, headers)
    assert.equal(answer.status, status, `${path} ${JSON.stringify(body)}: ${answer.text}`.slice(0, 300))
    assert.match(answer.text, expected)
  }
  const get = await fetch(`${url}${REGISTER}`)
  assert.equal(get.status, 405)
})

test('registered again without a proxy, a service loses it and stays', async (t) => {
  const { agent, host, url } = await start(t, true)
  await put(url, REGISTER, MANAGED)
  const { pid } = await host.running('web-1')
  const { Connect, ...plain } = MANAGED
  assert.equal((await put(url, REGISTER, { ...plain, Port: 8081 })).status, 200)
  await until('the proxy is gone', async () => {
    const services = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as Record<
      string,
      { Port: number }
    >
    return !host.processes().includes(pid) && !('web-1-proxy' in services) && services['web-1']?.Port === 8081
  })
  assert.ok(Connect)
})

test('answers the configuration endpoint of Consul 1.2, and waits for a change of it', async (t) => {
  const { host, url } = await start(t, false)
  const definition = (localPort: number): object =>
    managed('b', {
      ...IDLE,
      config: { some_key: 1 },
      upstreams: [{ destination_name: 'db', local_bind_port: localPort }],
    })
  host.write('b.json', definition(5432))
  host.supervisors[0]!.signal('SIGHUP')
  const { port } = await host.running('b')
  const path = `${url}/v1/agent/connect/proxy/b-proxy`
  const first = (await (await fetch(path)).json()) as Record<string, unknown>
  const { ContentHash, Upstreams, ...rest } = first
  const upstream = { destination_type: 'service', destination_name: 'db', local_bind_port: 5432 }
  assert.deepEqual(rest, {
    ProxyServiceID: 'b-proxy',
    TargetServiceID: 'b',
    TargetServiceName: 'b',
    ExecMode: 'daemon',
    Command: [],
    Config: {
      some_key: 1,
      bind_address: '127.0.0.1',
      bind_port: port,
      local_service_address: '127.0.0.1:6379',
      upstreams: [upstream],
    },
  })
  assert.equal((Upstreams as unknown[]).length, 1)
  const changed = fetch(`${path}?hash=${String(ContentHash)}&wait=60s`)
  host.write('b.json', definition(5433))
  host.supervisors[0]!.signal('SIGHUP')
  const second = (await (await changed).json()) as { Config: { upstreams: object[] } }
  assert.deepEqual(second.Config.upstreams, [{ ...upstream, local_bind_port: 5433 }])
  assert.equal((await fetch(`${url}/v1/agent/connect/proxy/other`)).status, 404)
  const same = await fetch(`${path}?hash=${(second as { ContentHash?: string }).ContentHash ?? ''}&wait=10ms`)
  assert.equal(same.status, 200)
})
