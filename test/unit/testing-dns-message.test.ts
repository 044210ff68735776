import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { decode, encode, type Answer } from 'dns-packet'
import fc from 'fast-check'
import { compress } from '../../src/testing/dns/compress.js'
import { parseAddress, parseName, parseReverse, withinDomain } from '../../src/testing/dns/name.js'
import { readQuery } from '../../src/testing/dns/query.js'
import { addressName, addressRecord } from '../../src/testing/dns/records.js'

void describe('a name in the domain', () => {
  const service = (service: string, tag = '', datacenter = ''): object => ({
    kind: 'service',
    service,
    tag,
    datacenter,
  })
  const table: [name: string, type: string, expected: object | undefined][] = [
    ['web.service', 'A', service('web')],
    ['web.service.dc2', 'A', service('web', '', 'dc2')],
    ['web.service.dc2.more', 'A', undefined],
    ['v1.web.service', 'A', service('web', 'v1')],
    ['v1.2.web.service', 'A', service('web', 'v1.2')],
    ['_web._tcp.service', 'A', service('web')],
    ['_web._v1.service.dc2', 'SRV', service('web', 'v1', 'dc2')],
    ['_web._tcp', 'SRV', service('web')],
    ['_web._tcp', 'A', undefined],
    ['_web._tcp.dc2', 'SRV', service('web', '', 'dc2')],
    ['service.service', 'A', service('service')],
    ['service', 'A', undefined],
    ['web.connect', 'SRV', { kind: 'connect', service: 'web', datacenter: '' }],
    ['x.web.connect.dc2', 'SRV', { kind: 'connect', service: 'web', datacenter: 'dc2' }],
    ['a.b.query', 'A', { kind: 'query', query: 'a.b', datacenter: '' }],
    ['a.query.dc2', 'A', { kind: 'query', query: 'a', datacenter: 'dc2' }],
    ['a.b.node.dc2', 'A', { kind: 'node', node: 'a.b', datacenter: 'dc2' }],
    ['0a000001.addr', 'A', { kind: 'addr', hex: '0a000001' }],
    ['0a000001.addr.dc2.more', 'A', { kind: 'addr', hex: '0a000001' }],
    ['x.0a000001.addr', 'A', undefined],
    ['web', 'A', undefined],
    ['', 'A', undefined],
  ]
  for (const [name, type, expected] of table) {
    it(`${type} ${name} is ${JSON.stringify(expected)}`, () => {
      assert.deepEqual(parseName(name, type), expected)
    })
  }

  it('ends with the domain, in any case', () => {
    for (const [name, expected] of Object.entries({
      'Web.Service.CONSUL': 'web.service',
      consul: '',
      webconsul: undefined,
      'web.consul.org': undefined,
    })) {
      assert.equal(withinDomain(name, 'consul'), expected)
    }
  })
})

void describe('an address in a name', () => {
  const zone = { domain: 'consul', datacenter: 'dc1', ttl: 0 }
  const table: Record<string, [hex: string, type: string, data: string]> = {
    '10.0.0.255': ['0a0000ff', 'A', '10.0.0.255'],
    '::1': ['00000000000000000000000000000001', 'AAAA', '::1'],
    'fe80::1:2%eth0': ['fe800000000000000000000000010002', 'AAAA', 'fe80::1:2%eth0'],
    '2001:db8:1:2:3:4:5:6': ['20010db8000100020003000400050006', 'AAAA', '2001:db8:1:2:3:4:5:6'],
    '64:ff9b::1.2.3.4': ['0064ff9b000000000000000001020304', 'AAAA', '64:ff9b::1.2.3.4'],
    '::ffff:1.2.3.4': ['01020304', 'A', '1.2.3.4'],
    '::ffff:102:304': ['01020304', 'A', '1.2.3.4'],
  }
  for (const [address, [hex, type, data]] of Object.entries(table)) {
    it(`is ${hex} for ${address}`, () => {
      assert.equal(addressName(address, zone), `${hex}.addr.dc1.consul`)
      const record = addressRecord('a', address, 'SRV', 0)
      assert.deepEqual([record?.type, record?.data], [type, data])
    })
  }

  it('is read back', () => {
    assert.equal(parseAddress('0a0000ff'), '10.0.0.255')
    assert.equal(parseAddress('fe800000000000000000000000010002'), 'fe80:0000:0000:0000:0000:0000:0001:0002')
    for (const hex of ['', '0a0000f', '0a0000fg', '0a0000ff00']) assert.equal(parseAddress(hex), undefined)
    assert.equal(parseReverse('4.3.2.1.in-addr.arpa'), '1.2.3.4')
    const nibbles = `1.0.0.0.${'0.'.repeat(24)}0.8.e.f.ip6.arpa`
    assert.equal(parseReverse(nibbles), 'fe80:0000:0000:0000:0000:0000:0000:0001')
    for (const name of ['arpa', '3.2.1.in-addr.arpa', '1.ip6.arpa'])
      assert.equal(parseReverse(name), undefined)
  })
})

void describe('a DNS message', () => {
  it('is read whatever it is', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        readQuery(Buffer.from(bytes), 'udp')
      }),
    )
  })

  it('is read also where it is nearly right', () => {
    const good = Buffer.concat([
      encode({ type: 'query', id: 7, questions: [{ type: 'SRV', name: 'web.service.consul' }] }),
      Buffer.from('0000291000000000000000', 'hex'),
    ])
    good.writeUInt16BE(1, 10)
    const received = readQuery(good, 'tcp')
    assert.ok('query' in received)
    const { id, name, type, transport, udpPayloadSize } = received.query
    assert.deepEqual(
      { id, name, type, transport, udpPayloadSize },
      { id: 7, name: 'web.service.consul', type: 'SRV', transport: 'tcp', udpPayloadSize: 4096 },
    )
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, byte, end) => {
        const bad = Buffer.from(good)
        bad[at] = byte
        readQuery(bad.subarray(0, end), 'udp')
      }),
    )
  })

  const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,10}$/)
  const name = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'))
  const base = { ttl: 5, class: 'IN' } as const
  const record: fc.Arbitrary<Answer> = fc.oneof(
    name.map((name): Answer => ({ ...base, type: 'A', name, data: '10.0.0.1' })),
    fc.tuple(name, name).map(([name, data]): Answer => ({ ...base, type: 'CNAME', name, data })),
    fc
      .tuple(name, name)
      .map(([name, target]): Answer => ({ ...base, type: 'SRV', name, data: { port: 1, target } })),
    fc
      .tuple(name, name)
      .map(([name, mname]): Answer => ({ ...base, type: 'SOA', name, data: { mname, rname: name } })),
    name.map((name): Answer => ({ ...base, type: 'TXT', name, data: ['text', name] })),
  )

  it('says the same when it is compressed, in no more bytes', () => {
    fc.assert(
      fc.property(name, fc.array(record), fc.array(record), (question, answers, additionals) => {
        const plain = encode({
          type: 'response',
          questions: [{ type: 'ANY' as 'A', name: question }],
          answers,
          additionals,
        })
        const small = compress(plain)
        assert.ok(small.length <= plain.length)
        assert.deepEqual(decode(small), decode(plain))
      }),
    )
  })

  it('is compressed but for the targets of SRV records', () => {
    const target = 'node1.node.dc1.consul'
    const plain = encode({
      type: 'response',
      questions: [{ type: 'SRV', name: 'web.service.consul' }],
      answers: [{ ...base, type: 'SRV', name: 'web.service.consul', data: { port: 1, target } }],
      additionals: [{ ...base, type: 'A', name: target, data: '10.0.0.1' }],
    })
    // Two names became pointers; the target stays as it is.
    assert.equal(compress(plain).length, plain.length - (20 - 2) - (23 - 2))
  })
})
