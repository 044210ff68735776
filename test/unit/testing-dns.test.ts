import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { decode, encode, streamEncode, type DecodedPacket, type Packet, type RecordType } from 'dns-packet'
import { TestAgent, type TestAgentDnsOptions } from '../../src/testing/index.js'

async function start(t: TestContext, dns: TestAgentDnsOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start({ shuffle: false, dns })
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
    assert.equal(agent.dnsQueryCount(), 0)
  })

  it('answers SRV questions with addresses, and A and AAAA questions', async (t) => {
    const agent = await start(t, { serviceTtlMs: 5_999 })
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
        [5, 5],
      )
    }
    assert.deepEqual(data(await ask(agent, 'web.service.consul', 'A')), ['10.0.0.1'])
    assert.equal(
      agent.dnsQueryCount(({ type, transport }) => type === 'A' && transport === 'udp'),
      1,
    )
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

  it('truncates over UDP and answers in full over TCP', async (t) => {
    const agent = await start(t)
    for (let i = 1; i <= 50; i += 1)
      agent.registerService({ ID: `web${i}`, Name: 'web', Port: 80, Address: `10.0.0.${i}` })
    const truncated = await ask(agent, 'web.service.consul')
    assert.deepEqual([truncated.flag_tc, truncated.answers?.length], [true, 0])
    const socket = connect(portOf(agent), '127.0.0.1')
    t.after(() => socket.destroy())
    const message = streamEncode(question('web.service.consul'))
    // Send one question in two parts, then a second question.
    socket.write(message.subarray(0, 5))
    socket.write(Buffer.concat([message.subarray(5), message]))
    let received = Buffer.alloc(0)
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      received = Buffer.concat([received, chunk])
      const end = 2 + (received.length > 2 ? received.readUInt16BE(0) : Infinity)
      if (received.length < 2 * end) continue
      for (const bytes of [received.subarray(2, end), received.subarray(end + 2)])
        assert.equal(decode(bytes).answers?.length, 50)
      break
    }
  })

  it('holds answers back during a pause, and keeps its port over a restart', async (t) => {
    const agent = await start(t)
    const { dnsAddress } = agent
    agent.registerService({ Name: 'web', Port: 80 })
    agent.pause()
    let isAnswered = false
    const answer = ask(agent, 'web.service.consul').finally(() => (isAnswered = true))
    while (agent.dnsQueryCount() === 0) await new Promise(setImmediate)
    assert.equal(isAnswered, false)
    agent.resume()
    assert.equal((await answer).rcode, 'NOERROR')
    await agent.restart()
    assert.equal(agent.dnsAddress, dnsAddress)
    assert.equal((await ask(agent, 'web.service.consul')).rcode, 'NOERROR')
  })
})
