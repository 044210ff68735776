// Questions by DNS, over a catalog that is made for them.
import assert from 'node:assert/strict'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { decode, encode, type Packet, type RecordType } from 'dns-packet'
import type { Recorder, Recording } from './comparison.js'
import { waitBound } from '../fixtures/bounds.js'

const registrations: Record<string, unknown>[] = [
  {
    Node: 'd1',
    Address: '10.0.1.1',
    NodeMeta: { os: 'li`nux', 'rfc1035-x': 'raw' },
    TaggedAddresses: { wan: '9.9.9.9' },
    Service: {
      ID: 'db1',
      Service: 'db',
      Port: 80,
      Tags: ['a', 'B', 't.u'],
      Weights: { Passing: 7, Warning: 2 },
      Connect: { Native: true },
    },
    Check: { Name: 'w', ServiceID: 'db1', Status: 'warning' },
  },
  {
    Node: 'd1',
    Address: '',
    SkipNodeUpdate: true,
    Service: {
      ID: 'db2',
      Service: 'db',
      Port: 81,
      Address: '10.5.5.5',
      Tags: ['c'],
      Weights: { Passing: 9 },
    },
  },
  { Node: 'd2', Address: 'fe80::2', Service: { ID: 's1', Service: 'six', Port: 81 } },
  { Node: 'd2', Address: 'fe80::2', Service: { ID: 's2', Service: 'six', Port: 82, Address: 'fe80::3' } },
  {
    Node: 'd2',
    Address: 'fe80::2',
    Service: { ID: 's3', Service: 'six', Port: 82, Address: '::ffff:1.2.3.4' },
  },
  { Node: 'd3', Address: 'ext.example', Service: { ID: 'e1', Service: 'ext', Port: 83 } },
  {
    Node: 'd4',
    Address: '10.0.1.4',
    Service: { ID: 'e2', Service: 'ext2', Port: 84, Address: 'svc.example' },
  },
  {
    Node: 'd4',
    Address: '10.0.1.4',
    Service: { ID: 'e3', Service: 'ext3', Port: 84, Address: 'db.service.consul' },
  },
  {
    Node: 'd4',
    Address: '10.0.1.4',
    Service: { ID: 'e4', Service: 'self', Port: 84, Address: 'self.service.consul' },
  },
  {
    Node: 'd4',
    Address: '10.0.1.4',
    Service: { ID: 'e5', Service: 'ring1', Address: 'ring2.service.consul' },
  },
  {
    Node: 'd4',
    Address: '10.0.1.4',
    Service: { ID: 'e6', Service: 'ring2', Address: 'ring1.service.consul' },
  },
  {
    Node: 'd5',
    Address: '10.0.1.5',
    Service: { Service: 'ill', Port: 85, Connect: { Native: true } },
    Check: { Name: 'c', ServiceID: 'ill', Status: 'critical' },
  },
  {
    Node: 'd5',
    Address: '10.0.1.5',
    Service: { Service: 'odd', Port: 85, Weights: { Passing: 5, Warning: 5 } },
    Check: { Name: 'o', ServiceID: 'odd', Status: 'bogus' },
  },
  { Node: 'my.node', Address: '10.0.1.6', Service: { Service: 'dotted.name', Port: 86 } },
  { Node: 'MixedNode', Address: '10.0.1.7', Service: { Service: 'Mixed', Port: 87 } },
  {
    Node: 'd8',
    Address: '10.0.1.8',
    Service: {
      ID: 'p1',
      Service: 'db-proxy',
      Kind: 'connect-proxy',
      Port: 2000,
      Proxy: { DestinationServiceName: 'proxied' },
    },
  },
  // The same host twice is one address, but two places to connect to.
  { Node: 'd9', Address: '10.0.1.9', Service: { ID: 't1', Service: 'twice', Port: 1 } },
  { Node: 'd9', Address: '10.0.1.9', Service: { ID: 't2', Service: 'twice', Port: 2 } },
  { Node: 'd9', Address: '10.0.1.9', Service: { ID: 't3', Service: 'twice', Port: 2 } },
]

const queries: Record<string, unknown>[] = [
  { Name: 'plain', Service: { Service: 'six', Tags: ['!x'] }, DNS: { TTL: '10s' } },
  { Name: 'dotted.query', Service: { Service: 'db', Connect: true } },
  { Name: 'geo-', Service: { Service: '${name.suffix}' }, Template: { Type: 'name_prefix_match' } },
]

/** Names and the types to ask for: what comes back is compared record by record. */
const questions: Record<string, string[]> = {
  'db.service.consul': ['A', 'AAAA', 'SRV', 'ANY', 'TXT', 'CNAME', 'MX', 'SOA', 'NS', 'AXFR'],
  'DB.Service.Consul': ['A', 'SRV'],
  'a.db.service.consul': ['A'],
  'b.db.service.consul': ['SRV'],
  't.u.db.service.consul': ['A'],
  'zz.db.service.consul': ['A', 'SRV'],
  'db.service.dc1.consul': ['A', 'SRV'],
  'db.service.DC1.consul': ['SRV'],
  'db.service.dc9.consul': ['A', 'SRV'],
  'db.service.a.b.consul': ['A'],
  '_db._tcp.service.consul': ['SRV', 'A'],
  '_db._a.service.consul': ['SRV'],
  '_db._zz.service.consul': ['SRV'],
  '_db._tcp.consul': ['SRV', 'A'],
  '_db.service.consul': ['SRV'],
  'x._db._tcp.service.consul': ['SRV'],
  'db.connect.consul': ['A', 'SRV', 'AAAA'],
  'x.db.connect.consul': ['SRV'],
  'db.connect.dc1.consul': ['SRV'],
  'db.connect.dc9.consul': ['SRV'],
  'db-proxy.connect.consul': ['SRV'],
  'proxied.connect.consul': ['A', 'SRV'],
  'six.service.consul': ['A', 'AAAA', 'SRV'],
  'ext.service.consul': ['A', 'SRV'],
  'ext2.service.consul': ['AAAA', 'SRV'],
  'ext3.service.consul': ['A', 'AAAA', 'SRV'],
  'self.service.consul': ['A', 'SRV'],
  'Self.service.consul': ['A'],
  'ring1.service.consul': ['A', 'SRV'],
  'ill.service.consul': ['A', 'SRV'],
  'ill.connect.consul': ['SRV'],
  'odd.service.consul': ['SRV'],
  'mixed.service.consul': ['SRV'],
  'twice.service.consul': ['A', 'SRV'],
  'nope.service.consul': ['A', 'SRV', 'AAAA'],
  'service.consul': ['A'],
  'service.service.consul': ['A'],
  'connect.consul': ['SRV'],
  'query.consul': ['SRV'],
  consul: ['A', 'SOA', 'NS', 'ANY'],
  'nope.consul': ['A', 'SOA', 'NS'],
  'plain.query.consul': ['A', 'AAAA', 'SRV'],
  'plain.query.dc1.consul': ['AAAA'],
  'plain.query.dc9.consul': ['AAAA'],
  'dotted.query.query.consul': ['SRV'],
  'geo-db.query.consul': ['SRV'],
  'geo-nope.query.consul': ['SRV'],
  'nope.query.consul': ['A', 'SRV'],
  'd1.node.consul': ['A', 'AAAA', 'TXT', 'ANY', 'SRV', 'MX'],
  'D1.NODE.DC1.CONSUL': ['A'],
  'd2.node.consul': ['A', 'AAAA'],
  'd3.node.consul': ['A'],
  'my.node.node.consul': ['A'],
  'd1.node.dc9.consul': ['A'],
  'nope.node.consul': ['A', 'TXT'],
  'embedded.node.consul': ['A', 'TXT'],
  '0a000101.addr.consul': ['A', 'AAAA', 'SRV'],
  '0A000101.ADDR.dc1.consul': ['A'],
  '0a000101.addr.dc9.consul': ['A'],
  'fe800000000000000000000000000002.addr.consul': ['AAAA', 'A'],
  '0a00.addr.consul': ['A'],
  'zz000101.addr.consul': ['A'],
  'x.0a000101.addr.consul': ['A'],
  'example.com': ['A', 'SRV'],
  notconsul: ['A'],
  '1.1.0.10.in-addr.arpa': ['PTR', 'A'],
  '5.5.5.10.in-addr.arpa': ['PTR'],
  '9.9.9.9.in-addr.arpa': ['PTR'],
  '2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.e.f.ip6.arpa': ['PTR'],
}

const question = '02 6462 07 73657276696365 06 636f6e73756c 00'
const option = '00 0029 1000 00 00 0000 0000'

/** Messages that are not as they should be, in hexadecimal. */
const oddities: Record<string, string> = {
  empty: '',
  'less than a header': '0007 0000',
  'a header only': '0007 0000 0001 0000 0000 0000',
  'no question': '0007 0000 0000 0000 0000 0000',
  'two questions': `0007 0000 0002 0000 0000 0000 ${question} 0010 0001 ${question} 0010 0001`,
  'a response': `0007 8000 0001 0000 0000 0000 ${question} 0021 0001`,
  'an unknown opcode': `0007 1000 0001 0000 0000 0000 ${question} 0021 0001`,
  'a notification': `0007 2000 0001 0000 0000 0000 ${question} 0006 0001`,
  'an update': `0007 2800 0001 0000 0000 0000 ${question} 0006 0001`,
  'another class': `0007 0000 0001 0000 0000 0000 ${question} 0006 0003`,
  'an unknown type': `0007 0000 0001 0000 0000 0000 ${question} ff01 0001`,
  'bytes behind': `0007 0000 0001 0000 0000 0000 ${question} 0006 0001 ffffff`,
  'a name without an end': '0007 0000 0001 0000 0000 0000 3f6162',
  'a name that points to itself': '0007 0000 0001 0000 0000 0000 c00c 0001 0001',
  'a name of strange bytes':
    '0007 0000 0001 0000 0000 0000 03 64ff62 07 73657276696365 06 636f6e73756c 00 0001 0001',
  'the root': '0007 0000 0001 0000 0000 0000 00 0001 0001',
  'an announced answer': `0007 0000 0001 0001 0000 0000 ${question} 0006 0001`,
  'too many announced answers': `0007 0000 0001 0002 0000 0000 ${question} 0006 0001`,
  'all flags': `0007 07b0 0001 0000 0000 0000 ${question} 0006 0001`,
  'EDNS twice': `0007 0000 0001 0000 0000 0002 ${question} 0006 0001 ${option} ${option}`,
  'EDNS that wants DNSSEC': `0007 0000 0001 0000 0000 0001 ${question} 0006 0001 00 0029 1000 00 00 8000 0000`,
  'EDNS of a later version': `0007 0000 0001 0000 0000 0001 ${question} 0006 0001 00 0029 1000 00 01 0000 0000`,
}

/** How many of the sixty instances of `many` fit: which ones is up to chance, so they are counted only. */
const sizes: [string, string, number | undefined][] = ['A', 'SRV'].flatMap((type) =>
  [undefined, 100, 512, 600, 1232, 4096, 65_535].map((payload): [string, string, number | undefined] => [
    `${type}, EDNS ${String(payload)}`,
    type,
    payload,
  ]),
)

/** Writes down the answers of the agent at this address, of which `record` fills the catalog. */
export async function dnsQueries(record: Recorder, recording: Recording, address: string): Promise<void> {
  // The agent's own node is there before all of it is.
  await record.until('GET /v1/catalog/nodes', { has: ['lan_ipv4'] })
  for (const [index, body] of registrations.entries()) {
    await record(`register ${index}`, 'PUT /v1/catalog/register', { body })
  }
  for (const [index, body] of queries.entries()) await record(`query ${index}`, 'POST /v1/query', { body })
  for (let number = 10; number < 70; number++) {
    const body = { Node: `m${number}`, Address: `10.9.0.${number}`, Service: { Service: 'many', Port: 80 } }
    await record(`register many ${number}`, 'PUT /v1/catalog/register', { body })
  }
  const own = { Name: 'own', Port: 90, Check: { TTL: '1h', Status: 'passing' } }
  await record('register with the agent', 'PUT /v1/agent/service/register', { body: own })
  await record.until('GET /v1/health/service/own?passing', { has: ['"own"'] })

  for (const [name, types] of Object.entries({ ...questions, 'own.service.consul': ['A', 'SRV'] })) {
    for (const type of types) {
      recording.set(`${type} ${name}`, recorded(await ask(address, 'udp', query(name, type))))
    }
  }
  for (const transport of ['udp', 'tcp'] as const) {
    const answer = await ask(address, transport, query('db.service.consul', 'SRV', 4096))
    recording.set(`SRV by ${transport} with EDNS`, recorded(answer))
    for (const [label, hex] of Object.entries(oddities)) {
      const message = Buffer.from(hex.replaceAll(' ', ''), 'hex')
      recording.set(`${label} by ${transport}`, recorded(await ask(address, transport, message)))
    }
    for (const [label, type, payload] of sizes) {
      const answer = await ask(address, transport, query('many.service.consul', type, payload))
      recording.set(`many by ${transport}: ${label}`, { status: 0, headers: {}, body: counted(answer) })
    }
  }
}

/** Of a second datacenter, and of queries that lead there. */
export async function dnsElsewhere(recording: Recording, address: string): Promise<void> {
  const elsewhere: Record<string, string[]> = {
    'far.service.dc2.consul': ['A', 'SRV'],
    'far.service.consul': ['SRV'],
    'far.connect.dc2.consul': ['SRV'],
    'm1.node.dc2.consul': ['A'],
    'to-the-nearest.query.consul': ['A', 'SRV'],
    'to-a-list-that-repeats-itself.query.consul': ['SRV'],
    'away.query.dc2.consul': ['SRV'],
    'away.query.consul': ['SRV'],
    'far.service.dc3.consul': ['A'],
  }
  for (const [name, types] of Object.entries(elsewhere)) {
    for (const type of types) {
      recording.set(`${type} ${name}`, recorded(await ask(address, 'udp', query(name, type))))
    }
  }
}

/** A question, with EDNS when a payload size is given. */
function query(name: string, type: string, udpPayloadSize?: number): Buffer {
  const { buffer } = encodedQuestion(name, type)
  if (udpPayloadSize === undefined) return buffer
  const option = Buffer.from('0000290000000000000000', 'hex')
  option.writeUInt16BE(udpPayloadSize, 3)
  buffer.writeUInt16BE(1, 10)
  return Buffer.concat([buffer, option])
}

function encodedQuestion(name: string, type: string): { buffer: Buffer } {
  return {
    buffer: Buffer.from(encode({ type: 'query', id: 7, questions: [{ name, type: type as RecordType }] })),
  }
}

async function ask(address: string, transport: 'udp' | 'tcp', message: Buffer): Promise<Buffer | undefined> {
  const [host = '', port = ''] = address.split(':')
  return transport === 'udp'
    ? await askUdp(host, Number(port), message)
    : await askTcp(host, Number(port), message)
}

/** A question that always gets an answer: that there is none to another one can be told by it. */
const probe = Buffer.from(
  '0008 0000 0001 0000 0000 0000 06 636f6e73756c 00 0006 0001'.replaceAll(' ', ''),
  'hex',
)

/** Datagrams may overtake each other, but not by so many round trips. */
const patience = 20

/** And they may be lost: only a question that was sent this often and never answered has no answer. */
const sendings = 3

async function askUdp(host: string, port: number, message: Buffer): Promise<Buffer | undefined> {
  const socket = createSocket('udp4')
  const answers: Buffer[] = []
  try {
    socket.connect(port, host)
    await once(socket, 'connect')
    socket.on('message', (answer: Buffer) => {
      if (answer.readUInt16BE(0) === probe.readUInt16BE(0)) socket.emit('probed')
      else answers.push(answer)
    })
    for (let sending = 0; sending < sendings; sending++) {
      socket.send(message)
      for (let probes = 0; probes < patience; probes++) {
        await roundTrip(socket)
        if (answers[0]) return answers[0]
      }
    }
    return undefined
  } finally {
    socket.close()
  }
}

/** Until the probe's answer is there; a datagram that was lost is sent again, and an agent that is gone is an error. */
async function roundTrip(socket: Socket): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const probed = once(socket, 'probed', { signal: AbortSignal.timeout(waitBound(1_000)) })
    socket.send(probe)
    try {
      await probed
      return
    } catch (error) {
      if (attempt === 10 || !(error instanceof Error && error.name === 'AbortError')) throw error
    }
  }
}

async function askTcp(host: string, port: number, message: Buffer): Promise<Buffer | undefined> {
  const socket = connect(port, host)
  let received = Buffer.alloc(0)
  socket.write(Buffer.concat([framed(message), framed(probe)]))
  for await (const chunk of socket) {
    received = Buffer.concat([received, chunk as Buffer])
    const answers = unframed(received)
    if (answers.some((answer) => answer.readUInt16BE(0) === 8)) {
      socket.destroy()
      return answers.find((answer) => answer.readUInt16BE(0) !== 8)
    }
  }
  return undefined
}

function framed(message: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(message.length)
  return Buffer.concat([length, message])
}

function unframed(received: Buffer): Buffer[] {
  const messages: Buffer[] = []
  for (let offset = 0; offset + 2 <= received.length;) {
    const end = offset + 2 + received.readUInt16BE(offset)
    if (end <= received.length) messages.push(received.subarray(offset + 2, end))
    offset = end
  }
  return messages
}

function recorded(answer: Buffer | undefined): {
  status: number
  headers: Record<string, string>
  body: unknown
} {
  if (!answer) return { status: 0, headers: {}, body: 'no answer' }
  if (answer.length === 12) return { status: 0, headers: {}, body: answer.toString('hex') }
  const packet = decode(answer)
  const body = {
    flags: answer.subarray(2, 4).toString('hex'),
    length: answer.length,
    question: packet.questions,
    answers: shown(packet.answers),
    authorities: shown(packet.authorities),
    additionals: shown(packet.additionals),
  }
  return { status: 0, headers: {}, body }
}

function counted(answer: Buffer | undefined): unknown {
  assert.ok(answer)
  const packet = decode(answer)
  return {
    flags: answer.subarray(2, 4).toString('hex'),
    length: answer.length,
    answers: packet.answers?.length,
    additionals: packet.additionals?.length,
  }
}

/** In an order of their own, and without the time of day. */
function shown(records: Packet['answers']): string[] {
  return (records ?? [])
    .map((record) => {
      const data = 'data' in record ? record.data : record
      const texts = Array.isArray(data) ? data.map(String) : data
      return JSON.stringify({ ...record, data: texts }).replace(/"serial":\d+/, '"serial":0')
    })
    .sort()
}
