import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'

const RESOLVERS = '/v1/config/service-resolver'
const SUBSETS = { v1: { Filter: 'Service.Meta.version == 1' }, v2: { Filter: 'Service.Meta.version == 2' } }

interface Target {
  Service: string
  ServiceSubset?: string
  Datacenter: string
  Subset: { Filter?: string; OnlyPassing?: boolean }
  SNI: string
}

interface Resolver {
  Default?: boolean
  ConnectTimeout: string
  Target: string
  Failover?: { Targets: string[] }
}

interface Chain {
  ServiceName: string
  Datacenter: string
  Protocol: string
  StartNode: string
  Nodes: Record<string, { Resolver: Resolver }>
  Targets: Record<string, Target>
}

async function start(t: TestContext, options: TestAgentOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start({ trustDomain: 'td.consul', ...options })
  t.after(() => agent.close())
  return agent
}

async function send(
  agent: TestAgent,
  method: string,
  path: string,
  body?: object,
  token?: string,
): Promise<{ status: number; body: unknown; index: string }> {
  const response = await fetch(agent.url + path, {
    method,
    headers: token === undefined ? {} : { 'X-Consul-Token': token },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  const isJson = response.headers.get('content-type') === 'application/json'
  const index = response.headers.get('x-consul-index') ?? ''
  return { status: response.status, body: isJson ? (JSON.parse(text) as unknown) : text, index }
}

async function putResolver(agent: TestAgent, Name: string, fields: object = {}): Promise<void> {
  const { status, body } = await send(agent, 'PUT', '/v1/config', {
    Kind: 'service-resolver',
    Name,
    ...fields,
  })
  assert.deepEqual([status, body], [200, true])
}

/** Asserts that an entry is refused, and returns the message. */
async function refusal(agent: TestAgent, entry: object): Promise<[status: number, message: unknown]> {
  const before = await send(agent, 'GET', RESOLVERS)
  const { status, body } = await send(agent, 'PUT', '/v1/config', { Kind: 'service-resolver', ...entry })
  assert.deepEqual(await send(agent, 'GET', RESOLVERS), before)
  return [status, body]
}

async function readChain(agent: TestAgent, service: string, query = '', overrides?: object): Promise<Chain> {
  const method = overrides ? 'POST' : 'GET'
  const { status, body } = await send(agent, method, `/v1/discovery-chain/${service}${query}`, overrides)
  assert.equal(status, 200, String(body))
  return (body as { Chain: Chain }).Chain
}

function resolverOf({ StartNode, Nodes }: Chain): Resolver {
  const node = Nodes[StartNode]
  assert.ok(node)
  return node.Resolver
}

/** Returns the targets of a chain in failover order, as `subset.service@datacenter`. */
function path(chain: Chain): string[] {
  const { Target, Failover } = resolverOf(chain)
  const ids = [Target, ...(Failover?.Targets ?? [])]
  assert.deepEqual(new Set(ids), new Set(Object.keys(chain.Targets)))
  return ids.map((id) => {
    const target = chain.Targets[id]
    assert.ok(target)
    const { Service, ServiceSubset, Datacenter } = target
    return `${ServiceSubset === undefined ? '' : `${ServiceSubset}.`}${Service}@${Datacenter}`
  })
}

void describe('a config entry', () => {
  it('is written, read, listed, and deleted', async (t) => {
    const agent = await start(t)
    assert.deepEqual((await send(agent, 'GET', RESOLVERS)).body, [])
    await putResolver(agent, 'web', { ConnectTimeout: '3s' })
    await putResolver(agent, 'api', { Subsets: SUBSETS })
    const listed = (await send(agent, 'GET', RESOLVERS)).body as { Name: string; ModifyIndex: number }[]
    const [api, web] = listed
    assert.deepEqual(
      listed.map(({ Name }) => Name),
      ['api', 'web'],
    )
    assert.ok(api && web && api.ModifyIndex > web.ModifyIndex)
    assert.deepEqual((await send(agent, 'GET', `${RESOLVERS}/api`)).body, {
      Kind: 'service-resolver',
      Name: 'api',
      Subsets: SUBSETS,
      ModifyIndex: api.ModifyIndex,
    })
    assert.deepEqual((await send(agent, 'GET', '/v1/config/service-defaults')).body, [])
    assert.equal((await send(agent, 'DELETE', `${RESOLVERS}/api`)).status, 200)
    assert.equal((await send(agent, 'GET', `${RESOLVERS}/api`)).status, 404)
    assert.deepEqual((await send(agent, 'GET', RESOLVERS)).body, [web])
  })

  it('is refused with an unknown kind or field, and without a name', async (t) => {
    const agent = await start(t)
    const [status, message] = await refusal(agent, { Name: 'api', Bogus: 1 })
    assert.equal(status, 400)
    assert.match(String(message), /unknown field "Bogus"; the embedded agent does not support it/)
    assert.equal((await refusal(agent, { Kind: 'service-router', Name: 'api' }))[0], 400)
    assert.deepEqual(await refusal(agent, {}), [500, 'Name is required'])
  })

  it('is refused when it closes a circle of redirects', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'a', { Redirect: { Service: 'b' } })
    await putResolver(agent, 'b', { Redirect: { Service: 'c' } })
    const ids = ['a', 'b', 'c', 'a'].map((name) => `${name}.default.default.dc1`)
    assert.deepEqual(await refusal(agent, { Name: 'c', Redirect: { Service: 'a' } }), [
      500,
      `detected circular resolver redirect: [${ids.join(' -> ')}]`,
    ])
  })

  it('is refused when it leads to an unknown subset, and kept while another entry needs its subset', async (t) => {
    const agent = await start(t)
    const unknown = (name: string): string => `service "api" does not have a subset named "${name}"`
    const v9 = { Service: 'api', ServiceSubset: 'v9' }
    await putResolver(agent, 'api', { Subsets: SUBSETS })
    assert.deepEqual(await refusal(agent, { Name: 'old', Redirect: v9 }), [500, unknown('v9')])
    assert.deepEqual(await refusal(agent, { Name: 'old', Failover: { '*': v9 } }), [500, unknown('v9')])
    assert.deepEqual(await refusal(agent, { Name: 'api', Subsets: SUBSETS, DefaultSubset: 'v9' }), [
      500,
      unknown('v9'),
    ])
    await putResolver(agent, 'old', { Redirect: { Service: 'api', ServiceSubset: 'v1' } })
    const { status, body } = await send(agent, 'DELETE', `${RESOLVERS}/api`)
    assert.deepEqual([status, body], [500, unknown('v1')])
    assert.deepEqual(path(await readChain(agent, 'old')), ['v1.api@dc1'])
  })
})

void describe('a discovery chain', () => {
  it('leads to the service itself by default, even if it does not exist', async (t) => {
    const chain = await readChain(await start(t), 'api')
    const id = 'api.default.default.dc1'
    const SNI = 'api.default.dc1.internal.td.consul'
    assert.deepEqual(chain, {
      ServiceName: 'api',
      Namespace: 'default',
      Partition: 'default',
      Datacenter: 'dc1',
      Protocol: 'tcp',
      StartNode: `resolver:${id}`,
      Nodes: {
        [`resolver:${id}`]: {
          Type: 'resolver',
          Name: id,
          Resolver: { Default: true, ConnectTimeout: '5s', Target: id },
        },
      },
      Targets: {
        [id]: {
          ID: id,
          Service: 'api',
          Namespace: 'default',
          Partition: 'default',
          Datacenter: 'dc1',
          MeshGateway: {},
          Subset: {},
          SNI,
          Name: SNI,
        },
      },
    })
  })

  it('has the filter of the default subset', async (t) => {
    const agent = await start(t)
    const v2 = { ...SUBSETS.v2, OnlyPassing: true }
    await putResolver(agent, 'api', { Subsets: { ...SUBSETS, v2 }, DefaultSubset: 'v2' })
    const chain = await readChain(agent, 'api')
    assert.deepEqual(path(chain), ['v2.api@dc1'])
    const [target] = Object.values(chain.Targets)
    assert.deepEqual([target?.Subset, target?.SNI], [v2, 'v2.api.default.dc1.internal.td.consul'])
    assert.equal(resolverOf(chain).Default, undefined)
  })

  it('follows redirects, to another datacenter of the same service too', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'api', { Subsets: SUBSETS, DefaultSubset: 'v1', ConnectTimeout: '1500ms' })
    await putResolver(agent, 'old', { Redirect: { Service: 'api', ServiceSubset: 'v2' } })
    await putResolver(agent, 'older', { Redirect: { Service: 'old', Datacenter: 'dc2' } })
    await putResolver(agent, 'oldest', { Redirect: { Service: 'older' } })
    await putResolver(agent, 'far', { Redirect: { Datacenter: 'dc2' } })
    await putResolver(agent, 'self', { Redirect: { Service: 'self' } })
    const chain = await readChain(agent, 'oldest')
    assert.deepEqual(path(chain), ['v2.api@dc2'])
    assert.equal(chain.ServiceName, 'oldest')
    assert.equal(resolverOf(chain).ConnectTimeout, '1.5s')
    assert.deepEqual(path(await readChain(agent, 'far')), ['far@dc2'])
    assert.deepEqual(path(await readChain(agent, 'self')), ['self@dc1'])
  })

  const failovers: Record<string, { failover: object; expected: string[] }> = {
    'to a service, whose redirect and default subset apply': {
      failover: { '*': { Service: 'moved' } },
      expected: ['v1.api@dc1', 'v2.spare@dc1'],
    },
    'to a subset of the same service': {
      failover: { v1: { ServiceSubset: 'v2' } },
      expected: ['v1.api@dc1', 'v2.api@dc1'],
    },
    'to datacenters in order, without its own': {
      failover: { '*': { Datacenters: ['dc3', 'dc1', 'dc2'] } },
      expected: ['v1.api@dc1', 'v1.api@dc3', 'v1.api@dc2'],
    },
    'to a service in datacenters': {
      failover: { '*': { Service: 'spare', Datacenters: ['dc2', 'dc1'] } },
      expected: ['v1.api@dc1', 'v2.spare@dc2', 'v2.spare@dc1'],
    },
    'to targets in order, without itself': {
      failover: {
        '*': {
          Targets: [
            { Service: 'spare', ServiceSubset: 'v1' },
            { ServiceSubset: 'v1' },
            { ServiceSubset: 'v2' },
            { Datacenter: 'dc2' },
          ],
        },
      },
      expected: ['v1.api@dc1', 'v1.spare@dc1', 'v2.api@dc1', 'v1.api@dc2'],
    },
    'of its subset rather than that of all': {
      failover: { '*': { Service: 'spare' }, v1: { ServiceSubset: 'v2' }, v2: { Service: 'spare' } },
      expected: ['v1.api@dc1', 'v2.api@dc1'],
    },
    'to nothing else than itself': {
      failover: { '*': { Service: 'api', ServiceSubset: 'v1', Datacenters: ['dc1'] } },
      expected: ['v1.api@dc1'],
    },
  }
  for (const [name, { failover, expected }] of Object.entries(failovers)) {
    it(`has failover ${name}`, async (t) => {
      const agent = await start(t)
      await putResolver(agent, 'spare', { Subsets: SUBSETS, DefaultSubset: 'v2' })
      await putResolver(agent, 'moved', { Redirect: { Service: 'spare' } })
      await putResolver(agent, 'api', { Subsets: SUBSETS, DefaultSubset: 'v1', Failover: failover })
      assert.deepEqual(path(await readChain(agent, 'api')), expected)
    })
  }

  it('has no failover of a failover target', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'a', { Failover: { '*': { Service: 'b' } } })
    await putResolver(agent, 'b', { Failover: { '*': { Service: 'c' } } })
    assert.deepEqual(path(await readChain(agent, 'a')), ['a@dc1', 'b@dc1'])
  })

  it('is compiled for the datacenter of the parameter compile-dc', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'api', { Failover: { '*': { Datacenters: ['dc1', 'dc2'] } } })
    const chain = await readChain(agent, 'api', '?compile-dc=dc2')
    assert.deepEqual([chain.Datacenter, path(chain)], ['dc2', ['api@dc2', 'api@dc1']])
    assert.equal((await send(agent, 'GET', '/v1/discovery-chain/api?dc=dc2')).status, 500)
  })

  it('has the protocol of the service, or that of the request', async (t) => {
    const agent = await start(t)
    const defaults = { Kind: 'service-defaults', Name: 'api', Protocol: 'HTTP2' }
    assert.equal((await send(agent, 'PUT', '/v1/config', defaults)).status, 200)
    assert.equal((await readChain(agent, 'api')).Protocol, 'http2')
    assert.equal((await readChain(agent, 'api', '', { OverrideProtocol: 'tcp' })).Protocol, 'tcp')
    assert.equal((await readChain(agent, 'api', '', { override_protocol: 'grpc' })).Protocol, 'grpc')
    assert.equal((await readChain(agent, 'web')).Protocol, 'tcp')
  })
})

void describe('a blocking query', () => {
  it('for the entries of a kind ends on a change of that kind only', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'api')
    const { index } = await send(agent, 'GET', RESOLVERS)
    const changes: [change: () => Promise<unknown>, names: string[]][] = [
      [() => putResolver(agent, 'web'), ['api', 'web']],
      [() => putResolver(agent, 'web', { ConnectTimeout: '1s' }), ['api', 'web']],
      [() => send(agent, 'DELETE', `${RESOLVERS}/web`), ['api']],
    ]
    let seen = index
    for (const [change, names] of changes) {
      const waiting = send(agent, 'GET', `${RESOLVERS}?index=${seen}&wait=30s`)
      await agent.waitForBlocked(RESOLVERS)
      await send(agent, 'PUT', '/v1/config', { Kind: 'service-defaults', Name: `other${seen}` })
      await send(agent, 'DELETE', `${RESOLVERS}/unknown`)
      await agent.waitForBlocked(RESOLVERS)
      await change()
      const answer = await waiting
      assert.ok(Number(answer.index) > Number(seen))
      assert.deepEqual(
        (answer.body as { Name: string }[]).map(({ Name }) => Name),
        names,
      )
      seen = answer.index
    }
  })

  it('for a chain ends on a change of the entries', async (t) => {
    const agent = await start(t)
    await putResolver(agent, 'web')
    const { index } = await send(agent, 'GET', '/v1/discovery-chain/api')
    const waiting = send(agent, 'GET', `/v1/discovery-chain/api?index=${index}&wait=30s`)
    await agent.waitForBlocked('/v1/discovery-chain/')
    await putResolver(agent, 'api', { Redirect: { Service: 'web' } })
    assert.deepEqual(path(((await waiting).body as { Chain: Chain }).Chain), ['web@dc1'])
  })
})

void describe('with ACLs,', () => {
  async function startWithAcls(t: TestContext): Promise<TestAgent> {
    const agent = await start(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
    for (const Name of ['api', 'web']) {
      const entry = { Kind: 'service-resolver', Name }
      assert.equal((await send(agent, 'PUT', '/v1/config', entry, agent.managementToken)).status, 200)
    }
    return agent
  }

  it('a chain requires service:read', async (t) => {
    const agent = await startWithAcls(t)
    const token = agent.createToken({ services: { api: 'read' } })
    const statusOf = async (service: string, secret?: string): Promise<unknown[]> => {
      const { status, body } = await send(agent, 'GET', `/v1/discovery-chain/${service}`, undefined, secret)
      return status === 200 ? [status] : [status, body]
    }
    assert.deepEqual(await statusOf('api', token), [200])
    assert.deepEqual(await statusOf('web', token), [403, 'Permission denied'])
    assert.deepEqual(await statusOf('api'), [403, 'Permission denied'])
    assert.deepEqual(await statusOf('api', 'unknown'), [403, 'ACL not found'])
  })

  it('a list has the entries of readable services only', async (t) => {
    const agent = await startWithAcls(t)
    const list = async (token?: string): Promise<string[]> => {
      const { body } = await send(agent, 'GET', RESOLVERS, undefined, token)
      return (body as { Name: string }[]).map(({ Name }) => Name)
    }
    const token = agent.createToken({ services: { api: 'read' } })
    assert.deepEqual(await list(agent.managementToken), ['api', 'web'])
    assert.deepEqual(await list(token), ['api'])
    assert.deepEqual(await list(), [])
    assert.equal((await send(agent, 'GET', `${RESOLVERS}/web`, undefined, token)).status, 403)
  })

  it('a change requires service:write', async (t) => {
    const agent = await startWithAcls(t)
    const entry = { Kind: 'service-resolver', Name: 'api', ConnectTimeout: '1s' }
    const read = agent.createToken({ services: { api: 'read' } })
    const write = agent.createToken({ services: { api: 'write' } })
    for (const [method, path, body] of [
      ['PUT', '/v1/config', entry],
      ['DELETE', `${RESOLVERS}/api`, undefined],
    ] as const) {
      assert.equal((await send(agent, method, path, body, read)).status, 403)
      assert.equal((await send(agent, method, path, body, write)).status, 200)
    }
  })
})
