// Registration of managed proxies by HTTP, compatible with Consul 1.2 to 1.5.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import { type TestContext, test } from 'node:test'
import type { TestAgent } from '../../src/testing/index.js'
import { freePort } from '../fixtures/free-ports.js'
import { readAll, until } from '../fixtures/mesh.js'
import type { RunningProxy } from '../proxy/connect-proxy.js'
import { type Host, IDLE, managed, servicesOf, startHost } from './connect-supervisor.js'

const MANAGED = { Name: 'web', ID: 'web-1', Port: 8080, Connect: { Proxy: { Command: ['sleep', '1000'] } } }

const MANAGEMENT_TOKEN = 'a2b1c0d9-0000-4000-8000-00000000beef'
const AS_MANAGER = { 'X-Consul-Token': MANAGEMENT_TOKEN }

interface Started {
  readonly agent: TestAgent
  readonly host: Host
  readonly supervisor: RunningProxy
  /** The URL of the registration API. */
  readonly url: string
}

/** Starts a supervisor with the registration API. With ACLs, it has the management token. */
async function start(
  t: TestContext,
  { isAllowed = true, acl }: { isAllowed?: boolean; acl?: 'allow' | 'deny' } = {},
): Promise<Started> {
  const address = `127.0.0.1:${await freePort()}`
  const { agent, host } = await startHost(
    t,
    {
      'api.json': { connect: { proxy: { allow_managed_api_registration: isAllowed } } },
      'a.json': managed('a', IDLE),
    },
    {
      flags: ['-api-addr', address],
      ...(acl && { env: { CONSUL_HTTP_TOKEN: MANAGEMENT_TOKEN } }),
    },
    acl && { acl: { enabled: true, defaultPolicy: acl, managementToken: MANAGEMENT_TOKEN } },
  )
  return { agent, host, supervisor: await host.start(), url: `http://${address}` }
}

/** Sends a request by node:http: unlike fetch, it can set the Host header. */
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

/** Creates a token that may register the service `web`. */
async function agentToken(agent: TestAgent): Promise<{ AccessorID: string; SecretID: string }> {
  const response = await fetch(`${agent.url}/v1/acl/token`, {
    method: 'PUT',
    headers: AS_MANAGER,
    body: JSON.stringify({ ServiceIdentities: [{ ServiceName: 'web' }, { ServiceName: 'web-proxy' }] }),
  })
  return (await response.json()) as { AccessorID: string; SecretID: string }
}

const REGISTER = '/v1/agent/service/register'
const DEREGISTER = '/v1/agent/service/deregister'

test('rejects managed proxies without allow_managed_api_registration, and registers plain services', async (t) => {
  const { agent, url } = await start(t, { isAllowed: false })
  const { status, text } = await put(url, REGISTER, MANAGED)
  assert.equal(status, 400)
  assert.match(
    text,
    /anyone who can register a service could run commands on this host; set .*allow_managed_api_registration = true/,
  )
  assert.equal((await put(url, REGISTER, { Name: 'plain', Port: 1 })).status, 200)
  const services = await servicesOf(agent)
  assert.deepEqual(['web-1' in services, 'plain' in services], [false, true])
})

test('starts the proxy of a registered service, and stops it when the service is deregistered', async (t) => {
  const { agent, host, url } = await start(t)
  assert.equal((await put(url, REGISTER, MANAGED)).status, 200)
  const { pid, proxy } = await host.running('web-1')
  assert.equal(proxy, 'web-1-proxy')
  assert.match(await host.command('status'), /web-1 +web-1-proxy/)
  assert.equal((await put(url, `${DEREGISTER}/web-1`)).status, 200)
  await until('the process and both registrations are gone', async () => {
    const services = await servicesOf(agent)
    return !('web-1' in services) && !('web-1-proxy' in services) && !host.processes().includes(pid)
  })
})

test('the next supervisor keeps a proxy that was registered by HTTP, unless the setting is off', async (t) => {
  const { host, supervisor, url } = await start(t)
  await put(url, REGISTER, MANAGED)
  const { pid } = await host.running('web-1')
  await supervisor.stop('SIGKILL')
  const second = await host.start()
  assert.equal((await host.running('web-1')).pid, pid)
  await second.stop('SIGKILL')
  host.write('api.json', { connect: { proxy: { allow_managed_api_registration: false } } })
  const third = await host.start()
  await third.logged('allow_managed_api_registration is off; no proxy is started')
  await until('the process has ended', () => !host.processes().includes(pid))
})

test('uses the token of the request, never that of the supervisor', async (t) => {
  const { host, url } = await start(t, { acl: 'deny' })
  await host.running('a')
  assert.equal((await put(url, REGISTER, MANAGED)).status, 403)
  assert.equal((await put(url, `${DEREGISTER}/a`)).status, 400)
  assert.equal((await put(url, REGISTER, MANAGED, AS_MANAGER)).status, 200)
  await host.running('web-1')
  assert.equal((await put(url, `${DEREGISTER}/web-1`)).status, 403)
})

test('checks the setting and the token before it parses the definition', async (t) => {
  const invalid = { ...MANAGED, Port: 'no number' }
  const off = await start(t, { isAllowed: false, acl: 'allow' })
  assert.match(
    (await put(off.url, REGISTER, invalid)).text,
    /registration of managed proxies by HTTP is disabled/,
  )
  const on = await start(t, { acl: 'allow' })
  const unknown = await put(on.url, REGISTER, invalid, { 'X-Consul-Token': randomUUID() })
  assert.deepEqual([unknown.status, /ACL not found/.test(unknown.text)], [403, true])
  const known = await put(on.url, REGISTER, invalid, AS_MANAGER)
  assert.match(known.text, /port: expected a port/)
})

test('stops a proxy when the token that registered it is deleted', async (t) => {
  const { agent, host, supervisor, url } = await start(t, { acl: 'deny' })
  const token = await agentToken(agent)
  const registered = await put(url, REGISTER, MANAGED, { 'X-Consul-Token': token.SecretID })
  assert.deepEqual(registered, { status: 200, text: '' })
  const { pid } = await host.running('web-1')
  const deleted = await fetch(`${agent.url}/v1/acl/token/${token.AccessorID}`, {
    method: 'DELETE',
    headers: AS_MANAGER,
  })
  assert.equal(deleted.status, 200)
  await supervisor.logged('web-1: the token that registered the service was deleted; stopping its proxy')
  const services = async (): Promise<object> => {
    const response = await fetch(`${agent.url}/v1/agent/services`, { headers: AS_MANAGER })
    return (await response.json()) as object
  }
  await until(
    'the process and its registration are gone',
    async () => !('web-1-proxy' in (await services())) && !host.processes().includes(pid),
  )
  // The service itself belongs to the client that registered it.
  assert.ok('web-1' in (await services()))
})

test('lets the owner of the token deregister a service that the agent no longer has', async (t) => {
  const { agent, host, supervisor, url } = await start(t, { acl: 'deny' })
  const { SecretID } = await agentToken(agent)
  await put(url, REGISTER, MANAGED, { 'X-Consul-Token': SecretID })
  const { pid } = await host.running('web-1')
  // While the supervisor is stopped, it does not notice the removal at the agent.
  supervisor.signal('SIGSTOP')
  const path = `${DEREGISTER}/web-1`
  await put(agent.url, path, undefined, { 'X-Consul-Token': SecretID })
  const stranger = put(url, path, undefined, { 'X-Consul-Token': MANAGEMENT_TOKEN.replace(/.$/, '0') })
  const owner = stranger.then(() => put(url, path, undefined, { 'X-Consul-Token': SecretID }))
  supervisor.signal('SIGCONT')
  assert.notEqual((await stranger).status, 200)
  assert.equal((await owner).status, 200)
  await until('the process ends', () => !host.processes().includes(pid))
})

test('rejects invalid definitions', async (t) => {
  const { url } = await start(t)
  for (const [definition, expected] of [
    ['{', /expected a JSON object/],
    ['[]', /expected a JSON object/],
    [{ Port: 1 }, /missing name/],
    [{ Name: 'a', Port: 1 }, /service a is defined in a configuration file; change it there/],
    [{ ...MANAGED, Connect: { Proxy: { ExecMode: 'script' } } }, /exec_mode: expected "daemon"/],
    [{ ...MANAGED, ID: 'x/../y' }, /without slashes/],
    [{ ...MANAGED, ID: 'a/\u202eb' }, /got "a\/\\u202eb"/],
    [{ Name: 'x', ['K'.repeat(80_000)]: 1 }, /expected keys of at most 256 characters/],
    [{ ...MANAGED, Token: 'x'.repeat(5_000) }, /token: expected a string of at most/],
    [{ ...MANAGED, ID: '\ud800' }, /expected a name/],
    // Go, and so the agent, would use the last of the two.
    [{ ...MANAGED, NaMe: 'other' }, /name: set twice, in two spellings/],
    [{ ...MANAGED, Meta: {}, Check: { TTL: '1s', tTl: '2s' } }, /are the same key to an agent/],
    [{ ...MANAGED, Port: 0 }, /address of the application unknown; set port in the service/],
    [{ ...MANAGED, Connect: { Proxy: { Config: { bind_port: 'x' } } } }, /bind_port: expected a port/],
    [{ ...MANAGED, Connect: { Proxy: { Command: ['./x'] } } }, /expected an absolute path/],
    [{ Name: 'x', ID: 'a-proxy', Port: 1 }, /a-proxy is the managed proxy of a/],
  ] as [unknown, RegExp][]) {
    const { status, text } = await put(url, REGISTER, definition)
    assert.equal(status, 400, `${JSON.stringify(definition)}: ${text}`.slice(0, 300))
    assert.match(text, expected)
  }
})

test('rejects other hosts, large bodies, unknown endpoints, and invalid ids', async (t) => {
  const { url } = await start(t)
  for (const [path, body, headers, expectedStatus, expected] of [
    [REGISTER, MANAGED, { host: 'evil.example' }, 403, /Host header: expected an IP address or localhost/],
    [REGISTER, `"${'x'.repeat(1_100_000)}"`, {}, 413, /at most/],
    [REGISTER, `"${'x'.repeat(140_000)}"`, { 'transfer-encoding': 'chunked' }, 413, /at most/],
    ['/v1/agent/services', undefined, {}, 404, /for other endpoints, use the agent at /],
    [`${DEREGISTER}/%zz`, undefined, {}, 400, /id: invalid percent-encoding/],
    [`${DEREGISTER}/a`, undefined, {}, 400, /defined in a configuration file/],
  ] as [string, unknown, Record<string, string>, number, RegExp][]) {
    const { status, text } = await put(url, path, body, headers)
    assert.equal(status, expectedStatus, `${path}: ${text}`)
    assert.match(text, expected)
  }
  assert.equal((await fetch(`${url}${REGISTER}`)).status, 405)
})

test('removes the proxy of a service that is registered again without one', async (t) => {
  const { agent, host, url } = await start(t)
  await put(url, REGISTER, MANAGED)
  const { pid } = await host.running('web-1')
  assert.equal((await put(url, REGISTER, { ...MANAGED, Port: 8081, Connect: undefined })).status, 200)
  await until('the proxy is gone and the service has its new port', async () => {
    const services = await servicesOf(agent)
    return (
      !host.processes().includes(pid) && !('web-1-proxy' in services) && services['web-1']?.['Port'] === 8081
    )
  })
})

test('serves the proxy configuration endpoint of Consul 1.2, with blocking queries by hash', async (t) => {
  const { host, supervisor, url } = await start(t, { isAllowed: false })
  const definition = (localPort: number): object =>
    managed('b', {
      ...IDLE,
      config: { some_key: 1 },
      upstreams: [{ destination_name: 'db', local_bind_port: localPort }],
    })
  host.write('b.json', definition(5432))
  supervisor.signal('SIGHUP')
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
  supervisor.signal('SIGHUP')
  const second = (await (await changed).json()) as { ContentHash: string; Config: { upstreams: object[] } }
  assert.deepEqual(second.Config.upstreams, [{ ...upstream, local_bind_port: 5433 }])
  assert.equal((await fetch(`${url}/v1/agent/connect/proxy/other`)).status, 404)
  const unchanged = await fetch(`${path}?hash=${second.ContentHash}&wait=10ms`)
  assert.equal(unchanged.status, 200)
})
