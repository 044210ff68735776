// Dials by service, prepared query, and DNS name. Selection, TTLs, and datacenters are tested with real agents in
// test/consul.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DialError, DnsError, type Service } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import { greet, offer, readAll, rejection, startMesh } from '../fixtures/mesh.js'

async function dialAndRead(web: Service, ...dial: Parameters<Service['dial']>): Promise<string> {
  return readAll(await web.dial(...dial))
}

describe('by service', () => {
  it('reports why it has no instance: unknown, not in the mesh, not passing, or no match', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    agent.registerService({ Name: 'plain', Port: 80 })
    agent.registerService({ Name: 'green', Port: 80, Tags: ['green'], Connect: { Native: true } })
    const Check = { TTL: '1m', Status: 'critical' }
    agent.registerService({ Name: 'ill', Port: 80, Connect: { Native: true }, Check })
    for (const [upstream, reason, message] of [
      ['missing', 'unknown', /service not found; it is not registered/],
      ['plain', 'not-connect', /accepts mesh connections/],
      ['ill', 'not-passing', /ill is critical/],
      [{ service: 'green', tags: ['blue'] }, 'no-match', /none of its 1 instances has the tag blue/],
      [{ service: 'green', filter: 'Service.Port == 81' }, 'no-match', /the filter/],
    ] as const) {
      const error = await rejection(web.dial(upstream))
      assert.ok(error instanceof DialError)
      assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', reason])
      assert.match(error.message, message)
      if (typeof upstream === 'string') assert.equal(error.upstream, upstream)
    }
    const unknown = await rejection(web.dial({ service: 'api', datacenter: 'dc9' }))
    assert.equal(unknown.code, 'ERR_CONNECT_AGENT_DATACENTER')
    const invalid = await rejection(web.dial({ service: 'api', filter: 'Service.Port ==' }))
    assert.equal(invalid.code, 'ERR_CONNECT_AGENT_REFUSED')
    assert.match(invalid.message, /boolean expression/)
  })

  it('does not match names in another case, but suggests them', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('API'), (socket) => socket.end('API'))
    const web = join('web')
    const error = await rejection(web.dial('api'))
    assert.ok(error instanceof DialError)
    assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
    agent.createQuery({ Name: 'find', Service: { Service: 'api' } })
    const queryError = await rejection(web.dial({ query: 'find' }))
    for (const { message } of [error, queryError])
      assert.match(message, /service "api" not found; .* use "API"/)
    assert.equal(await dialAndRead(web, 'API'), 'API')
  })

  it('ignores instances with invalid addresses, and reports those without a valid instance beside them', async (t) => {
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
    assert.equal(await dialAndRead(web, 'api'), 'hello web')
    const alone = await rejection(web.dial('path'))
    assert.match(alone.message, /path-alone has the address "unix:\/\/\/run\/x.sock"/)
    assert.match((await rejection(web.dial('high'))).message, /high-alone has the port 70000/)
  })
})

describe('by prepared query', () => {
  it('finds the instances of the query, by its name and its id', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const id = agent.createQuery({ Name: 'nearest-api', Service: { Service: 'api', Near: '_agent' } })
    agent.createQuery({ Name: 'find-missing', Service: { Service: 'missing' } })
    const web = join('web')
    for (const query of ['nearest-api', id]) assert.equal(await dialAndRead(web, { query }), 'hello web')
    const error = await rejection(web.dial({ query: 'nothing' }))
    assert.ok(error instanceof DialError)
    assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
    assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_NOT_FOUND')
    const none = await rejection(web.dial({ query: 'find-missing' }))
    assert.match(none.message, /no healthy instance of missing/)
  })
})

describe('by DNS', () => {
  it('finds instances by SRV records, which do not determine the expected identity', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, { dns: {} })
    await offer(join('api'), greet)
    await offer(join('db'), greet)
    const web = join('web', { agent: { ...agentOptions, dnsAddress: agent.dnsAddress ?? '' } })
    assert.equal(await dialAndRead(web, { dns: 'api.connect.consul', service: 'api' }), 'hello web')
    const forged = await rejection(web.dial({ dns: 'db.connect.consul', service: 'api' }))
    assert.equal(forged.code, 'ERR_CONNECT_PEER_IDENTITY')
    const none = await rejection(web.dial({ dns: 'missing.connect.consul', service: 'missing' }))
    assert.ok(none instanceof DialError)
    assert.equal(none.reason, 'unknown')
    const outside = await rejection(web.dial({ dns: 'api.example.com', service: 'api' }))
    assert.ok(outside instanceof DnsError)
    assert.match(outside.message, /REFUSED/)
  })

  it('names the server that did not answer', async (t) => {
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
