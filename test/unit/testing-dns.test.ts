import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { decode, encode, type DecodedPacket, type RecordType } from 'dns-packet'
import { TestAgent, type TestAgentDnsOptions, type TestAgentOptions } from '../../src/testing/index.js'

async function start(
  t: TestContext,
  dns: TestAgentDnsOptions = {},
  options: TestAgentOptions = {},
): Promise<TestAgent> {
  const agent = await TestAgent.start({ shuffle: false, ...options, dns })
  t.after(() => agent.close())
  return agent
}

function question(name: string, type = 'SRV', id = 7): Buffer {
  return encode({ type: 'query', id, questions: [{ name, type: type as RecordType }] })
}

function portOf(agent: TestAgent): number {
  return Number(agent.dnsAddress?.split(':').at(-1))
}

/** Asks over UDP; the messages are sent one after the other, and the answers taken as they come. */
async function askUdp(agent: TestAgent, messages: Buffer[], wanted = messages.length): Promise<Buffer[]> {
  const socket = createSocket('udp4')
  socket.connect(portOf(agent), '127.0.0.1')
  await once(socket, 'connect')
  const answers: Buffer[] = []
  const done = new Promise<void>((resolve) => {
    socket.on('message', (answer: Buffer) => {
      if (answers.push(answer) === wanted) resolve()
    })
  })
  for (const message of messages) socket.send(message)
  await done
  socket.close()
  return answers
}

async function ask(
  agent: TestAgent,
  name: string,
  type?: string,
): Promise<DecodedPacket & { rcode: string }> {
  const [answer = Buffer.alloc(0)] = await askUdp(agent, [question(name, type)])
  return decode(answer) as DecodedPacket & { rcode: string }
}

/** All that comes back over one TCP connection until the agent ends it or so many bytes are there. */
async function askTcp(agent: TestAgent, bytes: Buffer, wanted = Infinity): Promise<Buffer> {
  const socket = connect(portOf(agent), '127.0.0.1')
  socket.write(bytes)
  let received = Buffer.alloc(0)
  for await (const chunk of socket) {
    received = Buffer.concat([received, chunk as Buffer])
    if (received.length >= wanted) break
  }
  socket.destroy()
  return received
}

function data(packet: DecodedPacket): unknown[] {
  return (packet.answers ?? []).map((answer) => ('data' in answer ? answer.data : answer))
}

void describe('DNS', () => {
  it('is off unless asked for', async (t) => {
    const agent = await TestAgent.start()
    t.after(() => agent.close())
    assert.equal(agent.dnsAddress, undefined)
  })

  it('knows what is registered, and forgets what is not', async (t) => {
    const agent = await start(t)
    const definition = { Name: 'web', Port: 80, Address: '10.0.0.1', Connect: { Native: true } }
    agent.registerService({ ...definition, Weights: { Passing: 7, Warning: 3 } })
    for (const name of ['web.service.consul', 'web.connect.consul', 'web.connect.dc1.consul']) {
      const { answers, additionals } = await ask(agent, name)
      const [answer] = answers ?? []
      const target = '0a000001.addr.dc1.consul'
      assert.ok(answer?.type === 'SRV')
      assert.deepEqual(answer.data, { priority: 1, weight: 7, port: 80, target })
      assert.deepEqual(
        additionals?.map(({ type, name }) => [type, name]),
        [
          ['A', target],
          ['TXT', 'embedded.node.dc1.consul'],
        ],
      )
    }
    assert.deepEqual(data(await ask(agent, '0a000001.addr.dc1.consul', 'A')), ['10.0.0.1'])
    agent.deregisterService('web')
    const gone = await ask(agent, 'web.service.consul')
    assert.deepEqual([gone.rcode, gone.authorities?.[0]?.type], ['NXDOMAIN', 'SOA'])
  })

  it('leads over to another datacenter', async (t) => {
    const agent = await start(t)
    const other = await TestAgent.start({ datacenter: 'dc2', primary: agent })
    t.after(() => other.close())
    other.registerNode({ Node: 'm1', Address: '10.2.0.1', Service: { Service: 'far', Port: 1 } })
    agent.createQuery({
      Name: 'far',
      Service: { Service: 'far', Failover: { NearestN: 1 } },
      DNS: { TTL: '90s' },
    })
    for (const name of ['far.query.consul', 'far.service.dc2.consul']) {
      const [answer] = (await ask(agent, name)).answers ?? []
      assert.ok(answer?.type === 'SRV')
      assert.equal(answer.data.target, 'm1.node.dc2.consul')
      assert.equal(answer.ttl, name.includes('query') ? 90 : 0)
    }
    await other.stop()
    assert.equal((await ask(agent, 'far.service.dc2.consul')).rcode, 'SERVFAIL')
    assert.equal((await ask(agent, 'far.service.dc3.consul')).rcode, 'NXDOMAIN')
  })

  it('has a domain, lives and limits as told', async (t) => {
    const agent = await start(t, {
      domain: 'Mesh.Test.',
      serviceTtlMs: 5_999,
      nodeTtlMs: 7_000,
      udpAnswerLimit: 2,
      enableTruncate: true,
      nodeMetaTxt: false,
      onlyPassing: true,
    })
    for (const node of ['n1', 'n2', 'n3', 'n4']) {
      const Check = { Name: 'c', ServiceID: 'web', Status: node === 'n4' ? 'warning' : 'passing' }
      agent.registerNode({ Node: node, Address: '10.0.0.1', Service: { Service: 'web', Port: 80 }, Check })
    }
    assert.equal((await ask(agent, 'web.service.consul')).rcode, 'REFUSED')
    const { answers, additionals, flag_tc: truncated } = await ask(agent, 'web.service.mesh.test')
    assert.equal(truncated, true)
    assert.deepEqual(
      answers?.map((answer) => answer.type === 'SRV' && [answer.ttl, answer.data.target]),
      [
        [5, 'n1.node.dc1.mesh.test'],
        [5, 'n2.node.dc1.mesh.test'],
      ],
    )
    assert.equal(additionals?.length, 2)
    const node = await ask(agent, 'n1.node.mesh.test', 'A')
    assert.deepEqual(
      node.answers?.map((answer) => 'ttl' in answer && answer.ttl),
      [7],
    )
    const all = decode((await askTcp(agent, framed(question('web.service.mesh.test')), 3)).subarray(2))
    assert.deepEqual([all.answers?.length, all.flag_tc], [3, false])
  })

  it('looks with its own token', async (t) => {
    const acl = { enabled: true, defaultPolicy: 'deny', managementToken: 'root' } as const
    for (const [token, rcode] of Object.entries({ '': 'NXDOMAIN', root: 'NOERROR', bad: 'SERVFAIL' })) {
      const agent = await start(t, token === '' ? {} : { token }, { acl })
      agent.registerService({ Name: 'web', Port: 80 })
      assert.equal((await ask(agent, 'web.service.consul')).rcode, rcode)
    }
  })

  it('takes the same port for UDP and TCP, and keeps it over a restart', async (t) => {
    const agent = await start(t)
    const { dnsAddress } = agent
    await agent.stop()
    const refused = connect(portOf(agent), '127.0.0.1')
    await assert.rejects(once(refused, 'connect'), { code: 'ECONNREFUSED' })
    await agent.restart()
    assert.equal(agent.dnsAddress, dnsAddress)
    assert.equal((await ask(agent, 'consul', 'SOA')).rcode, 'NOERROR')
    const wanted = await askTcp(agent, framed(question('consul', 'SOA')), 2)
    assert.ok(wanted.length > 2)
  })

  for (const transport of ['TCP', 'UDP']) {
    it(`says when its port is taken for ${transport}`, async (t) => {
      const tcp = createServer()
      const udp = createSocket('udp4')
      t.after(() => {
        if (transport === 'TCP') tcp.close()
        else udp.close()
      })
      if (transport === 'TCP') tcp.listen(0, '127.0.0.1')
      else udp.bind(0, '127.0.0.1')
      await once(transport === 'TCP' ? tcp : udp, 'listening')
      const { port } = (transport === 'TCP' ? tcp : udp).address() as AddressInfo
      await assert.rejects(TestAgent.start({ dns: { port } }), { code: 'EADDRINUSE' })
    })
  }

  it('listens on IPv6', async (t) => {
    const agent = await TestAgent.start({ dns: { host: '::1' } })
    t.after(() => agent.close())
    assert.match(agent.dnsAddress ?? '', /^\[::1\]:\d+$/)
    const socket = createSocket('udp6')
    socket.send(question('consul', 'SOA'), portOf(agent), '::1')
    const [answer] = (await once(socket, 'message')) as [Buffer]
    socket.close()
    assert.equal(answer.readUInt16BE(0), 7)
  })
})

void describe('DNS in trouble', () => {
  it('survives any datagram', async (t) => {
    const agent = await start(t)
    const garbage = Array.from({ length: 500 }, (_, index) => {
      const bytes = Buffer.alloc(index % 60)
      for (let at = 0; at < bytes.length; at++) bytes[at] = (index * 31 + at * 17) & 0xff
      return bytes
    })
    const socket = createSocket('udp4')
    // Not more at a time than the system holds for a process that is both sides.
    for (let sent = 0; sent < garbage.length; sent += 50) {
      for (const bytes of garbage.slice(sent, sent + 50)) socket.send(bytes, portOf(agent), '127.0.0.1')
      assert.equal((await ask(agent, 'consul', 'SOA')).rcode, 'NOERROR')
    }
    socket.close()
  })

  it('survives any stream, in pieces or all at once', async (t) => {
    const agent = await start(t)
    const good = framed(question('consul', 'SOA'))
    const garbage = [framed(Buffer.alloc(0)), framed(Buffer.from('junk')), framed(Buffer.alloc(40, 0xff))]
    const expected = await askTcp(agent, good, 20)
    const socket = connect(portOf(agent), '127.0.0.1')
    for (const byte of Buffer.concat([...garbage, good])) socket.write(Buffer.from([byte]))
    let received = Buffer.alloc(0)
    while (received.length < expected.length) {
      const [chunk] = (await once(socket, 'data')) as [Buffer]
      received = Buffer.concat([received, chunk])
    }
    assert.equal(received.length, expected.length)
    // A length that is never reached.
    socket.end(Buffer.from([0xff, 0xff, 1]))
    await once(socket, 'close')
    assert.equal((await ask(agent, 'consul', 'SOA')).rcode, 'NOERROR')
  })

  it('says what a hook says instead', async (t) => {
    const agent = await start(t)
    const undo = agent.dnsFault((query) => {
      if (query.name !== 'web.service.consul') return undefined
      return Buffer.from(`${query.type} ${query.transport} ${query.id} ${query.message.length}`)
    })
    const message = question('web.service.consul')
    const [udp] = await askUdp(agent, [message])
    assert.equal(udp?.toString(), `SRV udp 7 ${message.length}`)
    const tcp = await askTcp(agent, framed(message), 2)
    assert.equal(tcp.subarray(2).toString(), `SRV tcp 7 ${message.length}`)
    assert.equal((await ask(agent, 'consul', 'SOA')).rcode, 'NOERROR')
    undo()
    assert.equal((await ask(agent, 'web.service.consul')).rcode, 'NXDOMAIN')
  })

  it('bends its answer, by the newest hook that has something to say', async (t) => {
    const agent = await start(t)
    agent.dnsFault(() => Buffer.from('older'))
    agent.dnsFault((_, answer) => {
      const bent = Buffer.from(answer)
      bent.writeUInt16BE(8, 0)
      return bent
    })
    agent.dnsFault(() => undefined)
    assert.equal((await ask(agent, 'consul', 'SOA')).id, 8)
    agent.clearFaults()
    assert.equal((await ask(agent, 'consul', 'SOA')).id, 7)
  })

  it('answers late, never, or with a reset', async (t) => {
    const agent = await start(t)
    let release = (): void => undefined
    const gate = new Promise<undefined>((resolve) => {
      release = () => {
        resolve(undefined)
      }
    })
    agent.dnsFault((query) => {
      if (query.id === 1) return gate
      return query.id === 2 ? 'drop' : query.id === 3 ? 'reset' : undefined
    })
    const soa = (id: number): Buffer => question('consul', 'SOA', id)
    const [first, second] = await askUdp(agent, [soa(1), soa(2), soa(3), soa(4), soa(5)], 2)
    assert.deepEqual([first?.readUInt16BE(0), second?.readUInt16BE(0)], [4, 5])
    release()
    await assert.rejects(askTcp(agent, framed(soa(3))), { code: 'ECONNRESET' })
    const dropped = await askTcp(agent, Buffer.concat([framed(soa(2)), framed(soa(6))]), 2)
    assert.equal(dropped.readUInt16BE(2), 6)
  })

  it('holds its answers during a pause', async (t) => {
    const agent = await start(t)
    agent.pause()
    let answered = false
    const asked = ask(agent, 'consul', 'SOA').finally(() => (answered = true))
    await agent.waitForDnsQueries('consul', 1)
    assert.equal(answered, false)
    agent.resume()
    assert.equal((await asked).rcode, 'NOERROR')
  })

  it('counts the queries, and waits for them no longer than its caller', async (t) => {
    const agent = await start(t)
    await ask(agent, 'consul', 'SOA')
    await ask(agent, 'Web.Service.consul', 'SRV')
    await ask(agent, 'web.service.consul', 'A')
    assert.equal(agent.dnsQueryCount(), 3)
    assert.equal(agent.dnsQueryCount('WEB.service.consul'), 2)
    assert.equal(agent.dnsQueryCount(/^SRV .*\.consul$/g), 1)
    assert.equal(
      agent.dnsQueryCount(({ transport }) => transport === 'tcp'),
      0,
    )
    const signal = AbortSignal.timeout(10)
    await assert.rejects(agent.waitForDnsQueries('nope', 1, { signal }), { name: 'TimeoutError' })
  })

  it('drops connections with the others', async (t) => {
    const agent = await start(t)
    agent.dnsFault(() => 'drop')
    const connection = askTcp(agent, framed(question('consul', 'SOA')))
    await agent.waitForDnsQueries('consul', 1)
    agent.dropConnections()
    assert.equal((await connection).length, 0)
  })
})

function framed(message: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(message.length)
  return Buffer.concat([length, message])
}
