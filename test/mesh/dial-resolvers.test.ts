// The ways to find an upstream, from end to end: by service, prepared query, and DNS. Other datacenters are in test/consul.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DialError, DnsError, type Service } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { greet, offer, readAll, rejection, startMesh } from '../fixtures/mesh.js'

async function hear(web: Service, ...dial: Parameters<Service['dial']>): Promise<string> {
  return readAll(await web.dial(...dial))
}

describe('by service', () => {
  it('says whether it is unknown, takes no Connect, has no such instance, or none that passes', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    agent.registerService({ Name: 'plain', Port: 80 })
    agent.registerService({ Name: 'green', Port: 80, Tags: ['green'], Connect: { Native: true } })
    const Check = { TTL: '1m', Status: 'critical' }
    agent.registerService({ Name: 'ill', Port: 80, Connect: { Native: true }, Check })
    for (const [upstream, reason, words] of [
      ['missing', 'unknown', /service not found; it is not registered/],
      ['plain', 'not-connect', /accepts mesh connections/],
      ['ill', 'not-passing', /ill is critical/],
      [{ service: 'green', tags: ['blue'] }, 'no-match', /none of its 1 instances has the tag blue/],
      [{ service: 'green', filter: 'Service.Port == 81' }, 'no-match', /the filter/],
    ] as const) {
      const error = await rejection(web.dial(upstream))
      assert.ok(error instanceof DialError)
      assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', reason])
      assert.match(error.message, words)
    }
    const unknown = await rejection(web.dial({ service: 'api', datacenter: 'dc9' }))
    assert.equal(unknown.code, 'ERR_CONNECT_AGENT_DATACENTER')
    const wrong = await rejection(web.dial({ service: 'api', filter: 'Service.Port ==' }))
    assert.equal(wrong.code, 'ERR_CONNECT_AGENT_REFUSED')
    assert.match(wrong.message, /boolean expression/)
  })

  it('takes those that were asked for: by tag, filter, warning', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    for (const colour of ['blue', 'green']) {
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end(colour))
      const { port } = listener.address() as { port: number }
      agent.registerService({
        ID: colour,
        Name: 'api',
        Port: port,
        Address: '127.0.0.1',
        Tags: [colour],
        Meta: { colour },
        Connect: { Native: true },
        Check: { TTL: '1m', Status: colour === 'blue' ? 'passing' : 'warning' },
      })
    }
    const web = join('web')
    for (let i = 0; i < 5; i += 1) {
      assert.equal(await hear(web, 'api'), 'blue')
      assert.equal(await hear(web, { service: 'api', tags: ['BLUE'] }), 'blue')
      const green = { service: 'api', filter: 'Service.Meta.colour == "green"', onlyPassing: false }
      assert.equal(await hear(web, green), 'green')
    }
    const both = new Set<string>()
    for (let i = 0; i < 40; i += 1) both.add(await hear(web, { service: 'api', onlyPassing: false }))
    assert.deepEqual([...both].sort(), ['blue', 'green'])
  })

  it('takes nobody for it whose name is spelt in another case', async (t) => {
    const { agent, join } = await startMesh(t)
    const other = await offer(join('API'), (socket) => socket.end('API'))
    const { port } = other.address() as { port: number }
    const web = join('web')
    const error = await rejection(web.dial('api'))
    assert.ok(error instanceof DialError)
    assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
    assert.match(error.message, /service "api" not found; .* use "API"/)
    agent.createQuery({ Name: 'find', Service: { Service: 'api' } })
    assert.match(
      (await rejection(web.dial({ query: 'find' }))).message,
      /service "api" not found; .* use "API"/,
    )
    assert.ok(port > 0)
    assert.equal(await hear(web, 'API'), 'API')
  })

  it('is not spoilt by an instance that is registered wrongly', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    for (const [ID, Port, Address] of [
      ['high', 70000, ''],
      ['path', 80, 'unix:///run/x.sock'],
      ['space', 80, '10.0.0.1 '],
      ['none', 0, ''],
    ] as const) {
      agent.registerService({ ID, Name: 'api', Port, Address, Connect: { Native: true } })
      agent.registerService({ ID: `${ID}-alone`, Name: ID, Port, Address, Connect: { Native: true } })
    }
    const web = join('web')
    assert.equal((await web.resolve('api')).length, 1)
    assert.equal(await hear(web, 'api'), 'hello web')
    const alone = await rejection(web.dial('path'))
    assert.match(alone.message, /path-alone has the address "unix:\/\/\/run\/x.sock"/)
    assert.match((await rejection(web.dial('high'))).message, /high-alone has the port 70000/)
  })
})

describe('by prepared query', () => {
  it('finds what the query finds, by its name and its id', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const id = agent.createQuery({ Name: 'nearest-api', Service: { Service: 'api', Near: '_agent' } })
    agent.createQuery({ Name: 'find-missing', Service: { Service: 'missing' } })
    const web = join('web')
    for (const query of ['nearest-api', id]) assert.equal(await hear(web, { query }), 'hello web')
    const error = await rejection(web.dial({ query: 'nothing' }))
    assert.ok(error instanceof DialError)
    assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
    assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_NOT_FOUND')
    const none = await rejection(web.dial({ query: 'find-missing' }))
    assert.match(none.message, /no healthy instance of missing/)
  })

  it('is executed once for as long as its answer holds', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    agent.createQuery({ Name: 'api', Service: { Service: 'api' }, DNS: { TTL: '60s' } })
    const web = join('web')
    for (let i = 0; i < 20; i += 1) assert.equal(await hear(web, { query: 'api' }), 'hello web')
    assert.equal(agent.requestCount('/v1/query/api/execute'), 1)
    assert.equal(agent.requestCount('/v1/query/api/explain'), 1)
  })
})

describe('by DNS', () => {
  it('finds instances by SRV records, and never who they must be', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { dns: {} })
    const dnsAddress = agent.dnsAddress ?? ''
    await offer(join('api'), greet)
    await offer(join('db'), greet)
    const web = join('web', { agent: { ...agentOptions, dnsAddress } })
    assert.equal(await hear(web, { dns: 'api.connect.consul', service: 'api' }), 'hello web')
    const forged = await rejection(web.dial({ dns: 'db.connect.consul', service: 'api' }))
    assert.equal(forged.code, 'ERR_CONNECT_PEER_IDENTITY')
    const none = await rejection(web.dial({ dns: 'nobody.connect.consul', service: 'nobody' }))
    assert.ok(none instanceof DialError)
    assert.equal(none.reason, 'unknown')
    const outside = await rejection(web.dial({ dns: 'api.example.com', service: 'api' }))
    assert.ok(outside instanceof DnsError)
    assert.match(outside.message, /REFUSED/)
  })

  it('goes over to TCP when there are many, and dials any of them', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { dns: {} })
    const dnsAddress = agent.dnsAddress ?? ''
    const listener = await offer(join('api'), greet)
    const { port } = listener.address() as { port: number }
    for (let i = 1; i <= 200; i += 1) {
      const ID = `api-${i}`
      agent.registerService({
        ID,
        Name: 'api',
        Port: port,
        Address: `127.0.1.${i}`,
        Connect: { Native: true },
      })
    }
    const web = join('web', { agent: { ...agentOptions, dnsAddress } })
    const found = await web.resolve({ dns: 'api.connect.consul', service: 'api' })
    assert.equal(found.length, 201)
    assert.equal(
      agent.dnsQueryCount(({ transport }) => transport === 'tcp'),
      1,
    )
  })

  it('keeps an answer for its TTL, and the last one when the server is away', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { dns: { serviceTtlMs: 60_000 } })
    const dnsAddress = agent.dnsAddress ?? ''
    await offer(join('api'), greet)
    const web = join('web', { agent: { ...agentOptions, dnsAddress } })
    const upstream = { dns: 'api.connect.consul', service: 'api' }
    for (let i = 0; i < 10; i += 1) assert.equal(await hear(web, upstream), 'hello web')
    assert.equal(agent.dnsQueryCount(), 1)
  })

  it('says which server did not answer', async (t) => {
    const { agentOptions, join } = await startMesh(t)
    const away = await TestAgent.start({ dns: {} })
    const dnsAddress = away.dnsAddress ?? ''
    await away.close()
    const web = join('web', { agent: { ...agentOptions, dnsAddress } })
    const error = await rejection(web.dial({ dns: 'api.connect.consul', service: 'api' }))
    assert.ok(error instanceof DnsError)
    assert.equal(error.server, dnsAddress)
    assert.match(error.message, /ECONNREFUSED/)
  })
})
