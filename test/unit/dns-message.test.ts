import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { type Answer, type Packet, TRUNCATED_RESPONSE, decode, encode } from 'dns-packet'
import fc from 'fast-check'
import {
  type DnsQuestion,
  decodeAnswer,
  dnsQuestion,
  encodeQuestion,
  isAddress,
  isDnsName,
  isSameName,
  isSoa,
  isSrv,
} from '../../src/agent/dns/message.js'

const NAME = 'redis.connect.consul'
const question: DnsQuestion = { id: 0xabcd, name: NAME, type: 'SRV' }
const srv = (target: string): Answer => ({
  type: 'SRV',
  name: NAME,
  ttl: 5,
  data: { priority: 1, weight: 2, port: 6379, target },
})
const address: Answer = { type: 'A', name: 'n1.node.consul', ttl: 7, data: '10.0.0.7' }
const soa: Answer = {
  type: 'SOA',
  name: 'consul',
  ttl: 9,
  data: {
    mname: 'ns.consul',
    rname: 'hostmaster.consul',
    serial: 1,
    refresh: 2,
    retry: 3,
    expire: 4,
    minimum: 3,
  },
}

/** A complete response with changes. */
function answer({ rcode = 0, ...changes }: Packet & { rcode?: number } = {}): Buffer {
  return encode({
    type: 'response',
    id: question.id,
    questions: [{ name: NAME, type: 'SRV' }],
    ...changes,
    flags: (changes.flags ?? 0) | rcode,
  })
}

const HEADER_BYTES = 12

/** A message from bytes: the counts of the header, and the rest. */
function raw(counts: readonly [number, number, number, number], ...rest: (Buffer | number[])[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt16BE(question.id, 0)
  header.writeUInt16BE(0x8000, 2)
  counts.forEach((count, i) => header.writeUInt16BE(count, 4 + 2 * i))
  return Buffer.concat([header, ...rest.map((bytes) => Buffer.from(bytes))])
}

/** The question section for `question`. */
const QUESTION = answer().subarray(HEADER_BYTES)
/** A pointer to the name in the question. */
const POINTER = [0xc0, HEADER_BYTES]
/** Type, class, and TTL of a record. */
const fixed = (type: number): number[] => [0, type, 0, 1, 0, 0, 0, 5]

describe('dnsQuestion', () => {
  it('has a random ID of 16 bits', () => {
    const ids = Array.from({ length: 2000 }, () => dnsQuestion(NAME, 'SRV').id)
    assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0 && id <= 0xffff))
    // Some IDs repeat by chance.
    assert.ok(new Set(ids).size > 1900)
    assert.ok(ids.some((id) => id < 0x2000) && ids.some((id) => id >= 0xe000))
  })
})

describe('encodeQuestion', () => {
  for (const type of ['SRV', 'A', 'AAAA'] as const) {
    it(`encodes a question for ${type}, with recursion and the maximum size of a response`, () => {
      const packet = decode(encodeQuestion({ id: 0xfffe, name: 'redis.connect.consul.', type }))
      assert.equal(packet.type, 'query')
      assert.equal(packet.id, 0xfffe)
      assert.deepEqual([packet.flag_rd, packet.flag_tc, packet.flag_aa], [true, false, false])
      assert.deepEqual(packet.questions, [{ name: NAME, type, class: 'IN' }])
      assert.deepEqual([packet.answers, packet.authorities], [[], []])
      const [opt, ...rest] = packet.additionals!
      assert.equal(rest.length, 0)
      assert.ok(opt?.type === 'OPT')
      const { name, udpPayloadSize, ednsVersion, extendedRcode, flag_do, options } = opt
      assert.deepEqual(
        [name, udpPayloadSize, ednsVersion, extendedRcode, flag_do, options],
        ['.', 4096, 0, 0, false, []],
      )
    })
  }

  it('accepts the longest valid names', () => {
    const longest = `${'a'.repeat(63)}.`.repeat(3) + 'b'.repeat(61)
    for (const name of ['a', '_redis._tcp.a', longest, `${longest}.`]) {
      assert.ok(isDnsName(name))
      const { questions } = decode(encodeQuestion({ id: 1, name, type: 'SRV' }))
      assert.equal(questions?.[0]?.name, name.replace(/\.$/, ''))
    }
  })
})

describe('decodeAnswer', () => {
  it('returns the records of all sections', () => {
    const message = decodeAnswer(
      answer({ answers: [srv('n1.node.consul')], authorities: [soa], additionals: [address] }),
      question,
    )
    assert.deepEqual([message.rcode, message.isTruncated], ['NOERROR', false])
    const [record] = message.answers
    assert.ok(record !== undefined && isSrv(record))
    assert.deepEqual(
      [record.name, record.ttl, record.data],
      [NAME, 5, { priority: 1, weight: 2, port: 6379, target: 'n1.node.consul' }],
    )
    const [authority] = message.authorities
    assert.ok(authority !== undefined && isSoa(authority))
    assert.deepEqual([authority.ttl, authority.data.minimum], [9, 3])
    const [additional] = message.additionals
    assert.ok(additional !== undefined && isAddress(additional))
    assert.deepEqual([additional.name, additional.ttl, additional.data], ['n1.node.consul', 7, '10.0.0.7'])
    assert.deepEqual(
      [message.answers.length, message.authorities.length, message.additionals.length],
      [1, 1, 1],
    )
  })

  it('accepts a response without records', () => {
    assert.deepEqual(decodeAnswer(answer(), question), {
      rcode: 'NOERROR',
      isTruncated: false,
      answers: [],
      authorities: [],
      additionals: [],
    })
  })

  it('resolves compressed names', () => {
    const bytes = raw([1, 1, 0, 0], QUESTION, POINTER, fixed(33), [0, 8], [0, 0, 0, 1, 0x1f, 0x90], POINTER)
    const [record] = decodeAnswer(bytes, question).answers
    assert.ok(record !== undefined && isSrv(record))
    assert.deepEqual([record.name, record.data.port, record.data.target], [NAME, 8080, NAME])
  })

  for (const [rcode, name] of [
    [0, 'NOERROR'],
    [2, 'SERVFAIL'],
    [3, 'NXDOMAIN'],
    [5, 'REFUSED'],
    [15, 'RCODE_15'],
  ] as const) {
    it(`returns ${name} for the code ${rcode}`, () => {
      assert.equal(decodeAnswer(answer({ rcode }), question).rcode, name)
    })
  }

  it('reports truncation, regardless of other flags', () => {
    assert.equal(decodeAnswer(answer({ flags: TRUNCATED_RESPONSE }), question).isTruncated, true)
    for (let bit = 0; bit < 15; bit += 1) {
      const { isTruncated } = decodeAnswer(answer({ flags: 1 << bit }), question)
      assert.equal(isTruncated, 1 << bit === TRUNCATED_RESPONSE, `bit ${bit}`)
    }
  })

  const equivalent: [rule: string, asked: string, answered: string][] = [
    ['a name in another case', NAME, 'Redis.CONNECT.consul'],
    ['a question in another case', 'REDIS.connect.consul', NAME],
    ['a question with a trailing dot', `${NAME}.`, NAME],
  ]
  for (const [rule, asked, answered] of equivalent) {
    it(`accepts ${rule}`, () => {
      const bytes = answer({ questions: [{ name: answered, type: 'SRV' }] })
      assert.equal(decodeAnswer(bytes, { ...question, name: asked }).rcode, 'NOERROR')
    })
  }

  const mismatch = 'the response answers another question'
  const refused: [rule: string, bytes: Buffer, message: string | RegExp][] = [
    ['no bytes', Buffer.alloc(0), /./],
    ['half a header', answer().subarray(0, 11), /./],
    ['zeros', Buffer.alloc(64), 'the message is not a response'],
    ['a query', answer({ type: 'query' }), 'the message is not a response'],
    ['the question', encodeQuestion(question), 'the message is not a response'],
    ['another ID', answer({ id: question.id ^ 1 }), `${mismatch}: its ID differs`],
    ['the ID in reverse byte order', answer({ id: 0xcdab }), `${mismatch}: its ID differs`],
    ['no question', answer({ questions: [] }), mismatch],
    ['no question, with a record', answer({ questions: [], answers: [srv('a')] }), mismatch],
    ['another name', answer({ questions: [{ name: 'redis.connect.consu', type: 'SRV' }] }), mismatch],
    [
      'a name with another label in front',
      answer({ questions: [{ name: `a.${NAME}`, type: 'SRV' }] }),
      mismatch,
    ],
    [
      'a name without its first label',
      answer({ questions: [{ name: 'connect.consul', type: 'SRV' }] }),
      mismatch,
    ],
    ['the root', answer({ questions: [{ name: '.', type: 'SRV' }] }), mismatch],
    ['another type', answer({ questions: [{ name: NAME, type: 'A' }] }), mismatch],
    ['another class', answer({ questions: [{ name: NAME, type: 'SRV', class: 'CH' }] }), mismatch],
    ['any class', answer({ questions: [{ name: NAME, type: 'SRV', class: 'ANY' }] }), mismatch],
    [
      'two questions, the right one first',
      answer({
        questions: [
          { name: NAME, type: 'SRV' },
          { name: NAME, type: 'A' },
        ],
      }),
      mismatch,
    ],
    ['the question twice', raw([2, 0, 0, 0], QUESTION, QUESTION), mismatch],
    ['a missing question', raw([1, 0, 0, 0]), /./],
    ['a missing record', raw([1, 1, 0, 0], QUESTION), /./],
    ['65535 missing records', raw([1, 0xffff, 0, 0], QUESTION), /./],
    ['65535 missing entries in all sections', raw([0xffff, 0xffff, 0xffff, 0xffff], QUESTION), /./],
    ['a missing authority record', raw([1, 0, 1, 0], QUESTION), /./],
    ['a missing additional record', raw([1, 0, 0, 1], QUESTION), /./],
    ['a name that points to itself', raw([1, 0, 0, 0], POINTER, [0, 33, 0, 1]), /./],
    ['a name that points forwards', raw([1, 0, 0, 0], [0xc0, 14], [1, 0x61, 0], [0, 33, 0, 1]), /./],
    ['a name that points past the end', raw([1, 0, 0, 0], [0xff, 0xff], [0, 33, 0, 1]), /./],
    [
      'two names that point to each other',
      raw(
        [1, 1, 0, 0],
        QUESTION,
        [0xc0, HEADER_BYTES + QUESTION.length + 2],
        [0xc0, HEADER_BYTES + QUESTION.length],
        fixed(1),
      ),
      /./,
    ],
    ['half a pointer', raw([1, 0, 0, 0], [0xc0]), /./],
    ['a label of the reserved type 0x40', raw([1, 0, 0, 0], [0x41, 0x61, 0], [0, 33, 0, 1]), /./],
    ['a label of the reserved type 0x80', raw([1, 0, 0, 0], [0x80, 0x61, 0], [0, 33, 0, 1]), /./],
    ['a label that is longer than the rest', raw([1, 0, 0, 0], [63, 0x61, 0]), /./],
    ['a name that does not end', raw([1, 0, 0, 0], [1, 0x61, 1, 0x61]), /./],
    [
      'a name of more than 255 bytes',
      raw(
        [1, 0, 0, 0],
        Buffer.alloc(64 * 5, Buffer.concat([Buffer.from([63]), Buffer.alloc(63, 0x61)])),
        [0, 0, 33, 0, 1],
      ),
      /./,
    ],
    ['a record without its fixed part', raw([1, 1, 0, 0], QUESTION, POINTER, [0, 33]), /./],
    ['a record that ends before its length', raw([1, 1, 0, 0], QUESTION, POINTER, fixed(33)), /./],
    [
      'a service record of 4 bytes',
      raw([1, 1, 0, 0], QUESTION, POINTER, fixed(33), [0, 4], [0, 0, 0, 1]),
      /./,
    ],
    [
      'a service record with a length past the end',
      raw([1, 1, 0, 0], QUESTION, POINTER, fixed(33), [0xff, 0xff], [0, 0, 0, 1, 0, 80], POINTER),
      /./,
    ],
    ['a truncated IPv4 address', raw([1, 1, 0, 0], QUESTION, POINTER, fixed(1), [0, 4], [10, 0]), /./],
    ['a missing IPv4 address', raw([1, 1, 0, 0], QUESTION, POINTER, fixed(1), [0, 4]), /./],
    [
      'a truncated IPv6 address',
      raw([1, 1, 0, 0], QUESTION, POINTER, fixed(28), [0, 16], [0x20, 1, 0xd, 0xb8]),
      /./,
    ],
    [
      'a text record with a length past the end',
      raw([1, 0, 0, 1], QUESTION, POINTER, fixed(16), [0, 9], [3, 0x61]),
      /./,
    ],
    [
      'a text record with a part that is longer than the record',
      raw([1, 0, 0, 1], QUESTION, POINTER, fixed(16), [0, 2], [9, 0x61, 0x61]),
      /./,
    ],
  ]
  for (const [rule, bytes, message] of refused) {
    it(`refuses ${rule}`, () => {
      assert.throws(
        () => decodeAnswer(bytes, question),
        (error) =>
          error instanceof Error &&
          (typeof message === 'string' ? error.message === message : message.test(error.message)),
      )
    })
  }

  const whole = answer({
    answers: [srv('n1.node.consul'), srv('n2.node.consul')],
    authorities: [soa],
    additionals: [
      { type: 'AAAA', name: 'n2.node.consul', ttl: 7, data: '2001:db8::2' },
      { type: 'TXT', name: 'n1.node.consul', ttl: 7, data: ['consul-network-segment='] },
      address,
    ],
  })

  it('refuses a response that is cut at any byte', () => {
    assert.equal(decodeAnswer(whole, question).additionals.length, 3)
    const accepted: number[] = []
    for (let length = 0; length < whole.length; length += 1) {
      try {
        decodeAnswer(whole.subarray(0, length), question)
        accepted.push(length - whole.length)
      } catch (error) {
        assert.ok(error instanceof Error)
      }
    }
    assert.deepEqual(accepted, [], 'accepted after so many bytes were cut')
  })

  /** Requires an Error, or a valid message. */
  function expectErrorOrMessage(bytes: Buffer): void {
    let message
    try {
      message = decodeAnswer(bytes, question)
    } catch (error) {
      assert.ok(error instanceof Error, `threw ${inspect(error)}`)
      return
    }
    const { rcode, isTruncated, answers, authorities, additionals } = message
    assert.equal(typeof rcode, 'string')
    assert.equal(typeof isTruncated, 'boolean')
    for (const record of [...answers, ...authorities, ...additionals]) {
      assert.equal(typeof record.name, 'string')
      if (isSrv(record)) {
        const { target, port, weight, priority } = record.data
        assert.equal(typeof target, 'string')
        for (const number of [port, weight, priority]) assert.ok(Number.isInteger(number))
      }
      if (isAddress(record)) assert.notEqual(isIP(record.data), 0, `an address of ${record.data}`)
    }
  }

  const settings = { seed: 20260101, numRuns: 5000 }

  it('throws an Error or returns a valid message for any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expectErrorOrMessage(Buffer.from(bytes))
      }),
      settings,
    )
  })

  it('throws an Error or returns a valid message for any bytes after a valid header', () => {
    const counts = fc.tuple(fc.nat(3), fc.nat(3), fc.nat(3), fc.nat(3))
    fc.assert(
      fc.property(
        counts,
        fc.boolean(),
        fc.uint8Array({ maxLength: 120 }),
        ([q, a, n, x], hasQuestion, bytes) => {
          const rest = Buffer.from(bytes)
          expectErrorOrMessage(hasQuestion ? raw([1, a, n, x], QUESTION, rest) : raw([q, a, n, x], rest))
        },
      ),
      settings,
    )
  })

  it('throws an Error or returns a valid message for a response with changed bytes', () => {
    const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(whole.length), (changes, cut) => {
        const bytes = Buffer.from(whole)
        for (const [at, byte] of changes) bytes[at] = byte
        expectErrorOrMessage(bytes)
        expectErrorOrMessage(bytes.subarray(0, cut))
      }),
      settings,
    )
  })

  it('accepts only a response to the question', () => {
    const name = fc.stringMatching(/^[a-z]{1,5}(\.[a-z]{1,5}){0,2}$/)
    const questions = fc.record({ id: fc.nat(0xffff), name, type: fc.constantFrom('SRV', 'A', 'AAAA') })
    fc.assert(
      fc.property(questions, questions, (sent, answered) => {
        const bytes = encode({
          type: 'response',
          id: answered.id,
          questions: [{ name: answered.name, type: answered.type }],
        })
        const isSame = sent.id === answered.id && sent.name === answered.name && sent.type === answered.type
        let isAccepted = true
        try {
          decodeAnswer(bytes, sent)
        } catch {
          isAccepted = false
        }
        assert.equal(isAccepted, isSame)
      }),
      { ...settings, numRuns: 1000 },
    )
  })
})

describe('isSameName', () => {
  const cases: [a: string, b: string, isSame: boolean][] = [
    ['a.b', 'a.b', true],
    ['a.b', 'A.B', true],
    ['a.b.', 'a.b', true],
    ['a.b', 'a.b.', true],
    ['a.b', 'a.c', false],
    ['a.b', 'a.b.c', false],
    ['a.b..', 'a.b', false],
    ['a.b', '.a.b', false],
    ['ab', 'a.b', false],
  ]
  for (const [a, b, isSame] of cases) {
    it(`returns ${isSame} for ${a} and ${b}`, () => {
      assert.equal(isSameName(a, b), isSame)
    })
  }
})

describe('isDnsName', () => {
  const label = 'a'.repeat(63)
  const longest = [label, label, label, 'b'.repeat(61)].join('.')
  const cases: [name: string, isValid: boolean][] = [
    ['a', true],
    ['a.', true],
    ['redis.connect.consul', true],
    ['_redis._tcp.service.consul', true],
    ['A.B', true],
    ['10.0.0.1', true],
    ['-a-', true],
    [label, true],
    [longest, true],
    [`${longest}.`, true],
    ['', false],
    ['.', false],
    ['..', false],
    ['a..', false],
    ['.a', false],
    ['a..b', false],
    [`${label}a`, false],
    [`b.${label}a.c`, false],
    [`${longest}b`, false],
    [`${longest}b.`, false],
    [`${longest}..`, false],
    ['a.b ', false],
    [' a', false],
    ['a\n', false],
    ['a\\.b', false],
    ['*', false],
    ['::1', false],
    ['[::1]', false],
    ['a'.repeat(100_000), false],
    ['a.'.repeat(100_000), false],
  ]
  for (const [name, isValid] of cases) {
    it(`returns ${isValid} for ${inspect(name.slice(0, 40))} with ${name.length} characters`, () => {
      assert.equal(isDnsName(name), isValid)
    })
  }

  it('accepts only the characters of host names and the underscore', () => {
    const accepted: string[] = []
    for (let code = 0; code <= 0xffff; code += 1) {
      const character = String.fromCharCode(code)
      if (isDnsName(`a${character}a`)) accepted.push(character)
    }
    const expected = '-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz'
    assert.equal(accepted.join(''), expected)
  })
})

describe('isSrv, isAddress, and isSoa', () => {
  it('distinguish the types of records', () => {
    const records: Answer[] = [
      srv('a'),
      address,
      { type: 'AAAA', name: 'a', data: '::1' },
      { type: 'CNAME', name: 'a', data: 'b' },
      { type: 'TXT', name: 'a', data: 'b' },
      soa,
    ]
    const kinds = records.map((record) => [isSrv(record), isAddress(record), isSoa(record)])
    assert.deepEqual(kinds, [
      [true, false, false],
      [false, true, false],
      [false, true, false],
      [false, false, false],
      [false, false, false],
      [false, false, true],
    ])
  })
})
