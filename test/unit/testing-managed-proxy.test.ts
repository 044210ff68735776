import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'

const path = '/v1/agent/connect/proxy/web-proxy'

interface ManagedProxy {
  TargetServiceID: string
  TargetServiceName: string
  ContentHash: string
  Config: Record<string, unknown>
  Upstreams: unknown[]
}

async function start(t: TestContext, options?: TestAgentOptions): Promise<TestAgent> {
  const agent = await TestAgent.start(options)
  t.after(() => agent.close())
  return agent
}

/** Registers a proxy of `web`. `beside` are fields of the registration outside of `Proxy`. */
function register(agent: TestAgent, settings: object = {}, beside: object = {}): void {
  const Proxy = { DestinationServiceName: 'web', ...settings }
  agent.registerService({ Name: 'web-proxy', Kind: 'connect-proxy', Port: 8443, Proxy, ...beside })
}

async function read(agent: TestAgent): Promise<ManagedProxy> {
  const response = await fetch(agent.url + path)
  assert.equal(response.status, 200)
  return (await response.json()) as ManagedProxy
}

async function status(agent: TestAgent, token: string | undefined): Promise<[number, string]> {
  const headers = token === undefined ? {} : { 'X-Consul-Token': token }
  const response = await fetch(agent.url + path, { headers })
  return [response.status, response.status === 200 ? '' : await response.text()]
}

void describe('the endpoint of managed proxies', () => {
  it('has the shape of Consul 1.2 to 1.5', async (t) => {
    const agent = await start(t)
    register(
      agent,
      {
        DestinationServiceID: 'web-1',
        LocalServiceAddress: '127.0.0.2',
        LocalServicePort: 8080,
        Config: { handshake_timeout_ms: 100 },
        Upstreams: [
          { DestinationName: 'db', LocalBindPort: 5432 },
          {
            destination_type: 'prepared_query',
            destination_name: 'near',
            datacenter: 'dc2',
            local_bind_address: '127.0.0.3',
            local_bind_port: 5433,
            config: { connect_timeout_ms: 5 },
            MeshGateway: { Mode: 'local' },
          },
        ],
      },
      { Address: '10.0.0.1' },
    )
    const response = await fetch(agent.url + path)
    const hash = response.headers.get('x-consul-contenthash')
    assert.match(hash ?? '', /^[0-9a-f]+$/)
    assert.equal(response.headers.get('content-type'), 'application/json')
    assert.deepEqual(await response.json(), {
      ProxyServiceID: 'web-proxy',
      TargetServiceID: 'web-1',
      TargetServiceName: 'web',
      ContentHash: hash,
      ExecMode: 'daemon',
      Command: [],
      Config: {
        bind_address: '10.0.0.1',
        bind_port: 8443,
        local_service_address: '127.0.0.2:8080',
        handshake_timeout_ms: 100,
      },
      Upstreams: [
        { DestinationType: 'service', DestinationName: 'db', LocalBindPort: 5432 },
        {
          DestinationType: 'prepared_query',
          DestinationName: 'near',
          Datacenter: 'dc2',
          LocalBindAddress: '127.0.0.3',
          LocalBindPort: 5433,
          Config: { connect_timeout_ms: 5 },
        },
      ],
    })
  })

  it('adds defaults to the configuration', async (t) => {
    const agent = await start(t)
    const Config = { bind_address: '127.0.0.1', bind_port: 1, local_service_address: 'localhost:2' }
    register(agent, { LocalServicePort: 8080, Config })
    assert.deepEqual((await read(agent)).Config, Config)
    register(agent, { LocalServicePort: 8080, Config: { bind_port: 1 } })
    assert.deepEqual((await read(agent)).Config, {
      bind_address: '0.0.0.0',
      bind_port: 1,
      local_service_address: '127.0.0.1:8080',
    })
  })

  const applications: Record<string, { settings: object; expected: string | undefined; target: string }> = {
    'the port of the only instance': { settings: {}, expected: '127.0.0.1:8080', target: 'web' },
    'the port of the instance with the given ID': {
      settings: { DestinationServiceName: 'two', DestinationServiceID: 'two-b' },
      expected: '127.0.0.1:2',
      target: 'two-b',
    },
    'nothing for several instances': {
      settings: { DestinationServiceName: 'two' },
      expected: undefined,
      target: '',
    },
    'nothing for an unknown instance': {
      settings: { DestinationServiceID: 'far' },
      expected: undefined,
      target: 'far',
    },
    'an IPv6 address': {
      settings: { LocalServiceAddress: '::1' },
      expected: '[::1]:8080',
      target: 'web',
    },
  }
  for (const [name, { settings, expected, target }] of Object.entries(applications)) {
    it(`finds the application: ${name}`, async (t) => {
      const agent = await start(t)
      agent.registerService({ Name: 'web', Port: 8080 })
      agent.registerService({ Name: 'two', ID: 'two-a', Port: 1 })
      agent.registerService({ Name: 'two', ID: 'two-b', Port: 2 })
      register(agent, settings)
      const { TargetServiceID, Config } = await read(agent)
      assert.deepEqual([TargetServiceID, Config['local_service_address']], [target, expected])
    })
  }

  it('returns a proxy with ProxyDestination, which is an instance of that service', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web-proxy', Kind: 'connect-proxy', Port: 8443, ProxyDestination: 'web' })
    const { TargetServiceName, Upstreams } = await read(agent)
    assert.deepEqual([TargetServiceName, Upstreams], ['web', []])
    const instances = (await (await fetch(`${agent.url}/v1/health/connect/web`)).json()) as unknown[]
    assert.equal(instances.length, 1)
    const service = await fetch(`${agent.url}/v1/agent/service/web-proxy`)
    assert.match(await service.text(), /"Proxy":\{"DestinationServiceName":"web"/)
  })

  it('ignores ProxyDestination beside Proxy', async (t) => {
    const agent = await start(t)
    const definition = {
      Name: 'web-proxy',
      Kind: 'connect-proxy',
      Port: 8443,
      ProxyDestination: 'web',
    } as const
    assert.throws(() => {
      agent.registerService({ ...definition, Proxy: {} })
    }, /Proxy.DestinationServiceName must be non-empty/)
  })

  it('answers 404 for an unknown ID and for an ordinary service', async (t) => {
    const agent = await start(t)
    const missing = await fetchText(agent)
    assert.deepEqual(missing, { status: 404, body: 'unknown proxy service ID: web-proxy' })
    agent.registerService({ Name: 'web-proxy', Port: 1, Proxy: { DestinationServiceName: 'web' } })
    assert.deepEqual(await fetchText(agent), missing)
  })
})

async function fetchText(agent: TestAgent): Promise<{ status: number; body: string }> {
  const response = await fetch(agent.url + path)
  return { status: response.status, body: await response.text() }
}

void describe('a blocking query for a managed proxy', () => {
  const changes: Record<string, (agent: TestAgent) => void> = {
    'the configuration': (agent) => {
      register(agent, { Config: { a: 1 } })
    },
    'the upstreams': (agent) => {
      register(agent, { Upstreams: [{ DestinationName: 'db', LocalBindPort: 5432 }] })
    },
    'the port': (agent) => {
      register(agent, {}, { Port: 9443 })
    },
    'the port of the application': (agent) => {
      agent.registerService({ Name: 'web', Port: 8080 })
    },
  }
  for (const [name, change] of Object.entries(changes)) {
    it(`ends on a change of ${name}`, async (t) => {
      const agent = await start(t)
      register(agent)
      const before = await read(agent)
      const waiting = fetch(`${agent.url}${path}?hash=${before.ContentHash}&wait=10s`)
      await agent.waitForBlocked(path)
      change(agent)
      const response = await waiting
      const after = (await response.json()) as ManagedProxy
      assert.equal(response.headers.get('x-consul-contenthash'), after.ContentHash)
      assert.notEqual(after.ContentHash, before.ContentHash)
    })
  }

  it('ignores other changes, and ends on deregistration', async (t) => {
    const agent = await start(t)
    register(agent)
    const { ContentHash } = await read(agent)
    const waiting = fetch(`${agent.url}${path}?hash=${ContentHash}`)
    await agent.waitForBlocked(path)
    agent.registerService({ Name: 'db', Port: 1 })
    register(agent, {}, { Tags: ['new'] })
    await agent.waitForBlocked(path)
    agent.deregisterService('web-proxy')
    assert.equal((await waiting).status, 404)
  })

  it('returns the same hash after the wait time, and at once with another hash', async (t) => {
    const agent = await start(t)
    register(agent)
    const { ContentHash } = await read(agent)
    for (const query of [`hash=${ContentHash}&wait=20ms`, 'hash=other&wait=10m']) {
      const response = await fetch(`${agent.url}${path}?${query}`)
      assert.equal(response.headers.get('x-consul-contenthash'), ContentHash)
    }
    assert.equal((await fetch(`${agent.url}${path}?wait=soon`)).status, 400)
  })
})

void describe('a managed proxy with ACLs', () => {
  it('requires service:write on its target', async (t) => {
    const agent = await start(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
    register(agent)
    const denied = [403, 'Permission denied']
    assert.deepEqual(await status(agent, undefined), denied)
    assert.deepEqual(await status(agent, agent.createToken({ services: { web: 'read' } })), denied)
    assert.deepEqual(await status(agent, agent.createToken({ services: { 'web-proxy': 'write' } })), denied)
    assert.deepEqual(await status(agent, agent.createToken({ services: { web: 'write' } })), [200, ''])
    assert.deepEqual(await status(agent, agent.managementToken), [200, ''])
    assert.deepEqual(await status(agent, 'unknown'), [403, 'ACL not found'])
  })

  it('denies a blocking query whose token is deleted', async (t) => {
    const agent = await start(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
    register(agent)
    const headers = { 'X-Consul-Token': agent.managementToken ?? '' }
    const created = await fetch(`${agent.url}/v1/acl/token`, {
      method: 'PUT',
      headers,
      body: JSON.stringify({ ServiceIdentities: [{ ServiceName: 'web' }] }),
    })
    const token = (await created.json()) as { AccessorID: string; SecretID: string }
    const own = { headers: { 'X-Consul-Token': token.SecretID } }
    const { ContentHash } = (await (await fetch(agent.url + path, own)).json()) as ManagedProxy
    const waiting = fetch(`${agent.url}${path}?hash=${ContentHash}`, own)
    await agent.waitForBlocked(path)
    await fetch(`${agent.url}/v1/acl/token/${token.AccessorID}`, { method: 'DELETE', headers })
    assert.equal((await waiting).status, 403)
  })
})
