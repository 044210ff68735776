import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type QueryDefinition, type TestAgentOptions } from '../../src/testing/index.js'

interface Result {
  Nodes: { Service: { ID: string } }[]
  DNS: { TTL: string }
  Datacenter: string
}

async function start(t: TestContext, options: TestAgentOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start({ shuffle: false, ...options })
  t.after(() => agent.close())
  for (const [ID, Tags, Status] of [
    ['w1', ['a', 'Blue'], 'passing'],
    ['w2', ['a'], 'warning'],
    ['w3', ['b'], 'critical'],
    ['w4', ['b'], 'passing'],
  ] as const) {
    agent.registerService({ ID, Name: 'web', Port: 80, Tags: [...Tags], Check: { TTL: '1h', Status } })
  }
  return agent
}

async function execute(agent: TestAgent, name: string, parameters = ''): Promise<Result> {
  const response = await fetch(`${agent.url}/v1/query/${name}/execute?${parameters}`)
  assert.equal(response.status, 200, await response.clone().text())
  return (await response.json()) as Result
}

function ids({ Nodes }: Result): string[] {
  return Nodes.map(({ Service }) => Service.ID)
}

void describe('a prepared query', () => {
  const table: Record<string, [QueryDefinition['Service'], string[]]> = {
    'leaves out critical instances': [{ Service: 'web' }, ['w1', 'w2', 'w4']],
    'selects passing instances with OnlyPassing': [{ Service: 'web', OnlyPassing: true }, ['w1', 'w4']],
    'requires tags, in any case': [{ Service: 'web', Tags: ['A', 'blue'] }, ['w1']],
    'excludes tags': [{ Service: 'web', Tags: ['!b', '!BLUE'] }, ['w2']],
    'selects Connect instances with Connect': [{ Service: 'web', Connect: true }, []],
    'accepts Near and Failover': [
      { Service: 'web', Near: '_agent', Failover: { NearestN: 1 } },
      ['w1', 'w2', 'w4'],
    ],
    'finds the service in any case': [{ Service: 'WEB' }, ['w1', 'w2', 'w4']],
  }
  for (const [name, [Service, expected]] of Object.entries(table)) {
    it(name, async (t) => {
      const agent = await start(t)
      agent.createQuery({ Name: 'q', Service })
      assert.deepEqual(ids(await execute(agent, 'q')), expected)
    })
  }

  it('is executed by ID or name, with the parameters of the caller', async (t) => {
    const agent = await start(t)
    const id = agent.createQuery({ Name: 'q', Service: { Service: 'web' }, DNS: { TTL: '3s' } })
    assert.deepEqual(ids(await execute(agent, id, 'near=_agent')), ['w1', 'w2', 'w4'])
    const { DNS, Datacenter, ...result } = await execute(agent, 'Q', 'connect=true')
    assert.deepEqual([ids({ DNS, Datacenter, ...result }), DNS.TTL, Datacenter], [[], '3s', 'dc1'])
  })

  it('answers in random order by default', async (t) => {
    const agent = await start(t, { shuffle: true })
    agent.createQuery({ Name: 'q', Service: { Service: 'web' } })
    const orders = new Set<string>()
    for (let i = 0; i < 30; i++) orders.add(ids(await execute(agent, 'q')).join())
    assert.ok(orders.size > 1)
    for (const order of orders) assert.equal(order.split(',').sort().join(), 'w1,w2,w4')
  })

  it('rejects an invalid definition with the message of Consul', async (t) => {
    const agent = await start(t)
    assert.throws(() => agent.createQuery({ Name: 'q', Service: { Service: '' } }), {
      message: 'Invalid prepared query: Must provide a Service name to query',
    })
  })

  it('requires permissions by its name, and reads the service with its own token', async (t) => {
    const agent = await start(t, { acl: { enabled: true, defaultPolicy: 'deny' } })
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
    assert.deepEqual(ids(executed), ['w1', 'w2', 'w4'])
    const tokenShownTo = async (token: string): Promise<string> => {
      const explained = (await (await ask(token, '/mine/explain')).json()) as { Query: { Token: string } }
      return explained.Query.Token
    }
    assert.equal(await tokenShownTo(reader), '<hidden>')
    assert.equal(await tokenShownTo(agent.managementToken ?? ''), reader)
  })
})
