import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { describe, it, type TestContext } from 'node:test'
import { decode, encode, type DecodedPacket, type Packet, type RecordType } from 'dns-packet'
import { TestAgent } from '../../src/testing/index.js'

async function start(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start({ shuffle: false, dns: {} })
  t.after(() => agent.close())
  return agent
}

function question(name: string, type: RecordType = 'SRV'): Packet {
  return { type: 'query', id: 7, questions: [{ name, type }] }
}

function portOf(agent: TestAgent): number {
  return Number(agent.dnsAddress?.split(':').at(-1))
}

async function ask(
  agent: TestAgent,
  name: string,
  type?: RecordType,
): Promise<DecodedPacket & { rcode?: string }> {
  const socket = createSocket('udp4')
  // A malformed message gets no answer.
  socket.send('x', portOf(agent), '127.0.0.1')
  socket.send(encode(question(name, type)), portOf(agent), '127.0.0.1')
  const [answer] = (await once(socket, 'message')) as [Buffer]
  socket.close()
  return decode(answer)
}

function data(packet: DecodedPacket): unknown[] {
  return (packet.answers ?? []).map((answer) => ('data' in answer ? answer.data : answer))
}

void describe('DNS of the embedded agent', () => {
  it('is off by default', async (t) => {
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    assert.equal(agent.dnsAddress, undefined)
  })

  it('answers SRV questions with addresses, and A and AAAA questions', async (t) => {
    const agent = await start(t)
    const web = { Name: 'web', Port: 80, Tags: ['v1'], Connect: { Native: true } }
    agent.registerService({ ...web, Address: '10.0.0.1', Weights: { Passing: 7, Warning: 3 } })
    agent.registerService({ ...web, ID: 'web6', Address: '2001:db8::1', Tags: [] })
    for (const name of ['web.service.consul', 'web.connect.consul', 'WEB.connect.dc1.consul']) {
      const packet = await ask(agent, name)
      const targets = ['0a000001.addr.dc1.consul', '20010db8000000000000000000000001.addr.dc1.consul']
      assert.deepEqual(data(packet), [
        { priority: 1, weight: 7, port: 80, target: targets[0] },
        { priority: 1, weight: 1, port: 80, target: targets[1] },
      ])
      assert.deepEqual(
        packet.additionals?.map((record) => [record.name, record.type, 'data' in record && record.data]),
        [
          [targets[0], 'A', '10.0.0.1'],
          [targets[1], 'AAAA', '2001:db8::1'],
        ],
      )
      assert.deepEqual(
        packet.answers?.map((record) => 'ttl' in record && record.ttl),
        [0, 0],
      )
    }
    assert.deepEqual(data(await ask(agent, 'web.service.consul', 'A')), ['10.0.0.1'])
  })

  it('leaves out critical services', async (t) => {
    const agent = await start(t)
    const Check = { TTL: '1m', Status: 'warning' }
    agent.registerService({ Name: 'warned', Port: 80, Weights: { Passing: 9, Warning: 3 }, Check })
    agent.registerService({ Name: 'ill', Port: 80, Check: { ...Check, Status: 'critical' } })
    const [answer] = (await ask(agent, 'warned.service.consul')).answers ?? []
    assert.ok(answer?.type === 'SRV')
    assert.equal(answer.data.weight, 3)
    assert.equal((await ask(agent, 'ill.service.consul')).rcode, 'NXDOMAIN')
  })

  it('refuses other domains and denies unknown names', async (t) => {
    const agent = await start(t)
    assert.equal((await ask(agent, 'web.example.com')).rcode, 'REFUSED')
    for (const name of ['web.service.consul', 'web.service.dc2.consul', 'web.query.consul', 'web.consul'])
      assert.equal((await ask(agent, name)).rcode, 'NXDOMAIN')
  })

  it('answers in full, whatever the size', async (t) => {
    const agent = await start(t)
    for (let i = 1; i <= 50; i += 1)
      agent.registerService({ ID: `web${i}`, Name: 'web', Port: 80, Address: `10.0.0.${i}` })
    const { flag_tc, answers } = await ask(agent, 'web.service.consul')
    assert.deepEqual([flag_tc, answers?.length], [false, 50])
  })

  it('holds answers back during a pause, and keeps its port over a restart', async (t) => {
    const agent = await start(t)
    const { dnsAddress } = agent
    agent.pause()
    const answer = ask(agent, 'web.service.consul')
    // A later question to another agent shows that the first one has arrived.
    await ask(await start(t), 'web.service.consul')
    agent.registerService({ Name: 'web', Port: 80 })
    agent.resume()
    assert.equal((await answer).rcode, 'NOERROR')
    await agent.restart()
    assert.equal(agent.dnsAddress, dnsAddress)
    assert.equal((await ask(agent, 'web.service.consul')).rcode, 'NOERROR')
  })
})
