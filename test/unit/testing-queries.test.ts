import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type QueryDefinition, type TestAgentOptions } from '../../src/testing/index.js'

interface Result {
  Service: string
  Nodes: { Node: { Node: string; Datacenter: string }; Service: { ID: string } }[]
  Datacenter: string
  Failovers: number
}

async function start(t: TestContext, options: TestAgentOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start({ shuffle: false, ...options })
  t.after(() => agent.close())
  return agent
}

/** Three nodes with one instance each, tagged and described. */
async function startWithNodes(t: TestContext): Promise<TestAgent> {
  const agent = await start(t)
  for (const [node, Tags, status] of [
    ['n1', ['a', 'Blue'], 'passing'],
    ['n2', ['a'], 'warning'],
    ['n3', ['b'], 'critical'],
    ['n4', ['b'], 'passing'],
  ] as const) {
    agent.registerNode({
      Node: node,
      Address: '10.0.0.1',
      NodeMeta: { zone: node === 'n4' ? 'far' : 'here' },
      Service: { ID: `web-${node}`, Service: 'web', Port: 80, Tags: [...Tags], Meta: { at: node } },
      Check: { CheckID: 'c', Name: 'c', ServiceID: `web-${node}`, Status: status },
    })
  }
  return agent
}

async function execute(agent: TestAgent, name: string, parameters = ''): Promise<Result> {
  const response = await fetch(`${agent.url}/v1/query/${name}/execute?${parameters}`)
  assert.equal(response.status, 200, await response.clone().text())
  return (await response.json()) as Result
}

function nodes({ Nodes }: Result): string[] {
  return Nodes.map(({ Node }) => Node.Node)
}

void describe('a prepared query', () => {
  const table: Record<string, [QueryDefinition['Service'], string[]]> = {
    'leaves out what is critical': [{ Service: 'web' }, ['n1', 'n2', 'n4']],
    'takes what passes only': [{ Service: 'web', OnlyPassing: true }, ['n1', 'n4']],
    'looks over checks': [
      { Service: 'web', OnlyPassing: true, IgnoreCheckIDs: ['c'] },
      ['n1', 'n2', 'n3', 'n4'],
    ],
    'wants tags, in any case': [{ Service: 'web', Tags: ['A', 'blue'] }, ['n1']],
    'bans tags': [{ Service: 'web', Tags: ['!b', '!BLUE'] }, ['n2']],
    'wants metadata of the node': [{ Service: 'web', NodeMeta: { zone: 'far' } }, ['n4']],
    'wants metadata of the service': [{ Service: 'web', ServiceMeta: { at: 'n2' } }, ['n2']],
    'finds nobody for Connect': [{ Service: 'web', Connect: true }, []],
    'begins with the near one': [{ Service: 'web', Near: 'n4' }, ['n4', 'n2', 'n1']],
    'takes the name in any case': [{ Service: 'WEB' }, ['n1', 'n2', 'n4']],
  }
  for (const [name, [Service, expected]] of Object.entries(table)) {
    it(name, async (t) => {
      const agent = await startWithNodes(t)
      agent.createQuery({ Name: 'q', Service })
      assert.deepEqual(nodes(await execute(agent, 'q')), expected)
    })
  }

  it('takes a caller that says more', async (t) => {
    const agent = await startWithNodes(t)
    const id = agent.createQuery({ Name: 'q', Service: { Service: 'web', Near: 'n4' } })
    assert.deepEqual(nodes(await execute(agent, id, 'near=n2&limit=2')), ['n2', 'n1'])
    assert.deepEqual(nodes(await execute(agent, 'Q', 'connect=true')), [])
  })

  it('sorts by distance where nodes have a place', async (t) => {
    const agent = await startWithNodes(t)
    agent.setNear(['embedded', 'n4', 'n2'])
    agent.createQuery({ Name: 'q', Service: { Service: 'web', Near: '_agent' } })
    assert.deepEqual(nodes(await execute(agent, 'q')), ['n4', 'n2', 'n1'])
    agent.setNear(['n2', 'n1', 'n4', 'embedded'])
    assert.deepEqual(nodes(await execute(agent, 'q')), ['n4', 'n1', 'n2'])
  })

  it('answers in any order, unless told otherwise', async (t) => {
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    for (const node of ['n1', 'n2', 'n3', 'n4', 'n5', 'n6']) {
      agent.registerNode({ Node: node, Address: '10.0.0.1', Service: { Service: 'web' } })
    }
    agent.createQuery({ Name: 'q', Service: { Service: 'web' } })
    const orders = new Set<string>()
    for (let i = 0; i < 20; i++) orders.add(nodes(await execute(agent, 'q')).join())
    assert.ok(orders.size > 1)
    for (const order of orders) assert.equal(order.split(',').sort().join(), 'n1,n2,n3,n4,n5,n6')
  })

  it('throws what Consul would answer', async (t) => {
    const agent = await start(t)
    assert.throws(() => agent.createQuery({ Name: 'q', Service: { Service: '' } }), {
      message: 'Invalid prepared query: Must provide a Service name to query',
    })
  })
})

void describe('a template', () => {
  const table: Record<string, { template?: object; service: string; name: string; expected: string }> = {
    'the whole name': { service: '${name.full}', name: 'geo-web', expected: 'geo-web' },
    'its prefix': { service: '${name.prefix}x', name: 'geo-web', expected: 'geo-x' },
    'what is behind it': { service: '${name.suffix}', name: 'geo-web', expected: 'web' },
    'a prefix in another case': { service: '${name.suffix}', name: 'GEO-web', expected: 'GEO-web' },
    'a group': { service: '${match(1)}', name: 'geo-a-b', expected: 'a' },
    'a group with space around': { service: '${ match( 2 ) }', name: 'geo-a-b', expected: 'b' },
    'the whole match': { service: '${match(0)}', name: 'geo-a-b', expected: 'geo-a-b' },
    'a group that is not there': { service: 'x${match(9)}', name: 'geo-a-b', expected: 'x' },
    'a name that does not match': { service: 'x${match(1)}', name: 'geo-web', expected: 'x' },
    'several in a text': { service: '${match(2)}.${match(1)}', name: 'geo-a-b', expected: 'b.a' },
    'what is no interpolation': { service: '$${name.full}$', name: 'geo-web', expected: '${name.full}$' },
  }
  for (const [what, { service, name, expected }] of Object.entries(table)) {
    it(`puts in ${what}`, async (t) => {
      const agent = await start(t)
      const Template = { Type: 'name_prefix_match', Regexp: '^geo-(.*)-(?P<last>.*)$' } as const
      agent.createQuery({ Name: 'geo-', Service: { Service: service }, Template })
      assert.equal((await execute(agent, encodeURIComponent(name))).Service, expected)
    })
  }

  it('with the longest prefix is taken, and a plain query before all', async (t) => {
    const agent = await start(t)
    const Template = { Type: 'name_prefix_match' } as const
    for (const prefix of ['', 'geo-', 'geo-web-']) {
      agent.createQuery({ Name: prefix, Service: { Service: `[${prefix}]` }, Template })
    }
    agent.createQuery({ Name: 'geo-web-1', Service: { Service: 'plain' } })
    for (const [name, expected] of Object.entries({
      'geo-web-1': 'plain',
      'geo-web-2': '[geo-web-]',
      'geo-': '[geo-]',
      'GEO-x': '[geo-]',
      other: '[]',
    })) {
      assert.equal((await execute(agent, name)).Service, expected)
    }
  })

  const mistakes: Record<string, string> = {
    '${name.full': "Bad format '${name.full' in Service.Service: parse error: syntax error",
    '${nope}': "Bad evaluation for '${nope}' in Service.Service: 1:3: unknown variable accessed: nope",
    'a${nope(1)}': "Bad evaluation for 'a${nope(1)}' in Service.Service: 1:4: unknown function called: nope",
  }
  for (const [service, problem] of Object.entries(mistakes)) {
    it(`refuses ${service}`, async (t) => {
      const agent = await start(t)
      const Template = { Type: 'name_prefix_match' } as const
      assert.throws(() => agent.createQuery({ Service: { Service: service }, Template }), {
        message: `failed compiling template: ${problem}`,
      })
    })
  }
})

void describe('a query that fails over', () => {
  async function startTwo(t: TestContext): Promise<{ here: TestAgent; there: TestAgent }> {
    const here = await start(t)
    const there = await start(t, { datacenter: 'dc2', primary: here })
    there.registerNode({ Node: 'm1', Address: '10.2.0.1', Service: { Service: 'web', Port: 80 } })
    here.createQuery({ Name: 'q', Service: { Service: 'web', Failover: { NearestN: 1 } } })
    return { here, there }
  }

  it('finds what another datacenter has', async (t) => {
    const { here } = await startTwo(t)
    const result = await execute(here, 'q')
    assert.deepEqual([result.Datacenter, result.Failovers, nodes(result)], ['dc2', 1, ['m1']])
    assert.equal(result.Nodes[0]?.Node.Datacenter, 'dc2')
  })

  it('stays where there is somebody', async (t) => {
    const { here } = await startTwo(t)
    here.registerService({ Name: 'web', Port: 80 })
    const result = await execute(here, 'q')
    assert.deepEqual([result.Datacenter, result.Failovers, nodes(result)], ['dc1', 0, ['embedded']])
  })

  it('counts a datacenter that is gone, and finds it again', async (t) => {
    const { here, there } = await startTwo(t)
    await there.stop()
    const result = await execute(here, 'q')
    assert.deepEqual([result.Datacenter, result.Failovers, nodes(result)], ['dc1', 1, []])
    await there.restart()
    assert.deepEqual(nodes(await execute(here, 'q')), ['m1'])
  })

  it('tries the nearest first, then the list', async (t) => {
    const { here, there } = await startTwo(t)
    const third = await start(t, { datacenter: 'dc3', primary: here })
    third.registerService({ Name: 'far', Port: 80 })
    there.registerService({ Name: 'both', Port: 80 })
    third.registerService({ Name: 'both', Port: 80 })
    for (const [name, expected] of Object.entries({ far: ['dc3', 2], both: ['dc2', 1] })) {
      const Failover = { NearestN: 1, Datacenters: ['dc2', 'dc9', 'dc3'] }
      here.createQuery({ Name: name, Service: { Service: name, Failover } })
      const { Datacenter, Failovers } = await execute(here, name)
      assert.deepEqual([Datacenter, Failovers], expected)
    }
  })
})

void describe('queries and tokens', () => {
  it('go by the name of the query, and by its own token', async (t) => {
    const agent = await start(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
    agent.registerService({ Name: 'web', Port: 80 })
    const maker = agent.createToken({ queries: { mine: 'write' } })
    const reader = agent.createToken({ queries: { '*': 'read' }, services: { '*': 'read' } })
    const ask = (token: string, path: string, body?: object): Promise<Response> =>
      fetch(`${agent.url}/v1/query${path}`, {
        method: body ? 'POST' : 'GET',
        headers: { 'X-Consul-Token': token },
        ...(body ? { body: JSON.stringify(body) } : {}),
      })
    const query = { Name: 'mine', Token: reader, Service: { Service: 'web' } }
    assert.equal((await ask(maker, '', query)).status, 200)
    assert.equal((await ask(maker, '', { ...query, Name: 'yours' })).status, 403)
    assert.equal((await ask(reader, '', { ...query, Name: 'yours' })).status, 403)
    const executed = (await (await ask(maker, '/mine/execute')).json()) as Result
    assert.deepEqual(nodes(executed), ['embedded'])
    const [listed] = (await (await ask(reader, '')).json()) as { Token: string }[]
    assert.equal(listed?.Token, '<hidden>')
    const [full] = (await (await ask(agent.managementToken ?? '', '')).json()) as { Token: string }[]
    assert.equal(full?.Token, reader)
  })
})
