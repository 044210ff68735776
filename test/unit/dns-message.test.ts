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

/** A whole answer, with what is said of it changed. */
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

/** A message by its bytes: the header's counts, and whatever is to follow. */
function raw(counts: readonly [number, number, number, number], ...rest: (Buffer | number[])[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt16BE(question.id, 0)
  header.writeUInt16BE(0x8000, 2)
  counts.forEach((count, i) => header.writeUInt16BE(count, 4 + 2 * i))
  return Buffer.concat([header, ...rest.map((bytes) => Buffer.from(bytes))])
}

/** The question section of the right question. */
const ASKED = answer().subarray(HEADER_BYTES)
/** A pointer to the name in the question. */
const POINTER = [0xc0, HEADER_BYTES]
/** Type, class and TTL. */
const fixed = (type: number): number[] => [0, type, 0, 1, 0, 0, 0, 5]

describe('dnsQuestion', () => {
  it('has an id of 16 bits that nobody can guess', () => {
    const ids = Array.from({ length: 2000 }, () => dnsQuestion(NAME, 'SRV').id)
    assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0 && id <= 0xffff))
    // By chance, some are the same, and some are in every part of the range.
    assert.ok(new Set(ids).size > 1900)
    assert.ok(ids.some((id) => id < 0x2000) && ids.some((id) => id >= 0xe000))
  })

  it('has the name and the type that are given', () => {
    const { name, type } = dnsQuestion('a.b', 'AAAA')
    assert.deepEqual([name, type], ['a.b', 'AAAA'])
  })
})

describe('encodeQuestion', () => {
  for (const type of ['SRV', 'A', 'AAAA'] as const) {
    it(`asks for ${type}, with recursion, and says how much it can take`, () => {
      const packet = decode(encodeQuestion({ id: 0xfffe, name: 'redis.connect.consul.', type }))
      assert.equal(packet.type, 'query')
      assert.equal(packet.id, 0xfffe)
      assert.deepEqual([packet.flag_rd, packet.flag_tc, packet.flag_aa], [true, false, false])
      assert.deepEqual(packet.questions, [{ name: NAME, type, class: 'IN' }])
      assert.deepEqual([packet.answers, packet.authorities], [[], []])
      const [opt, ...others] = packet.additionals!
      assert.equal(others.length, 0)
      assert.ok(opt?.type === 'OPT')
      const { name, udpPayloadSize, ednsVersion, extendedRcode, flag_do, options } = opt
      assert.deepEqual(
        [name, udpPayloadSize, ednsVersion, extendedRcode, flag_do, options],
        ['.', 4096, 0, 0, false, []],
      )
    })
  }

  it('takes every name that may be dialled', () => {
    const longest = `${'a'.repeat(63)}.`.repeat(3) + 'b'.repeat(61)
    for (const name of ['a', '_redis._tcp.a', longest, `${longest}.`]) {
      assert.ok(isDnsName(name))
      const { questions } = decode(encodeQuestion({ id: 1, name, type: 'SRV' }))
      assert.equal(questions?.[0]?.name, name.replace(/\.$/, ''))
    }
  })
})

describe('decodeAnswer', () => {
  it('gives what the sections say', () => {
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

  it('with nothing in it is an answer too', () => {
    assert.deepEqual(decodeAnswer(answer(), question), {
      rcode: 'NOERROR',
      isTruncated: false,
      answers: [],
      authorities: [],
      additionals: [],
    })
  })

  it('understands names that point back', () => {
    const bytes = raw([1, 1, 0, 0], ASKED, POINTER, fixed(33), [0, 8], [0, 0, 0, 1, 0x1f, 0x90], POINTER)
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
    it(`tells the code ${rcode}: ${name}`, () => {
      assert.equal(decodeAnswer(answer({ rcode }), question).rcode, name)
    })
  }

  it('tells that it was cut, whatever other flags there are', () => {
    assert.equal(decodeAnswer(answer({ flags: TRUNCATED_RESPONSE }), question).isTruncated, true)
    for (let bit = 0; bit < 15; bit += 1) {
      const { isTruncated } = decodeAnswer(answer({ flags: 1 << bit }), question)
      assert.equal(isTruncated, 1 << bit === TRUNCATED_RESPONSE, `bit ${bit}`)
    }
  })

  const same: [rule: string, asked: string, answered: string][] = [
    ['in other letters', NAME, 'Redis.CONNECT.consul'],
    ['asked for in other letters', 'REDIS.connect.consul', NAME],
    ['asked for with a dot at its end', `${NAME}.`, NAME],
  ]
  for (const [rule, asked, answered] of same) {
    it(`a name ${rule} is the same`, () => {
      const bytes = answer({ questions: [{ name: answered, type: 'SRV' }] })
      assert.equal(decodeAnswer(bytes, { ...question, name: asked }).rcode, 'NOERROR')
    })
  }

  const other = 'the response answers another question'
  const refused: [rule: string, bytes: Buffer, message: string | RegExp][] = [
    ['nothing', Buffer.alloc(0), /./],
    ['half a header', answer().subarray(0, 11), /./],
    ['zeros', Buffer.alloc(64), 'the message is not a response'],
    ['a query', answer({ type: 'query' }), 'the message is not a response'],
    ['our own question', encodeQuestion(question), 'the message is not a response'],
    ['another id', answer({ id: question.id ^ 1 }), `${other}: its ID differs`],
    ['the id turned round', answer({ id: 0xcdab }), `${other}: its ID differs`],
    ['no question', answer({ questions: [] }), other],
    ['no question, and an answer', answer({ questions: [], answers: [srv('a')] }), other],
    ['another name', answer({ questions: [{ name: 'redis.connect.consu', type: 'SRV' }] }), other],
    ['a name with more in front', answer({ questions: [{ name: `a.${NAME}`, type: 'SRV' }] }), other],
    ['a name with less in front', answer({ questions: [{ name: 'connect.consul', type: 'SRV' }] }), other],
    ['the root', answer({ questions: [{ name: '.', type: 'SRV' }] }), other],
    ['another type', answer({ questions: [{ name: NAME, type: 'A' }] }), other],
    ['another class', answer({ questions: [{ name: NAME, type: 'SRV', class: 'CH' }] }), other],
    ['any class', answer({ questions: [{ name: NAME, type: 'SRV', class: 'ANY' }] }), other],
    [
      'two questions, the right one first',
      answer({
        questions: [
          { name: NAME, type: 'SRV' },
          { name: NAME, type: 'A' },
        ],
      }),
      other,
    ],
    ['the right question twice', raw([2, 0, 0, 0], ASKED, ASKED), other],
    ['a question that is promised and not there', raw([1, 0, 0, 0]), /./],
    ['an answer that is promised and not there', raw([1, 1, 0, 0], ASKED), /./],
    ['more answers than any message could have', raw([1, 0xffff, 0, 0], ASKED), /./],
    ['more of everything', raw([0xffff, 0xffff, 0xffff, 0xffff], ASKED), /./],
    ['an authority that is promised and not there', raw([1, 0, 1, 0], ASKED), /./],
    ['an additional record that is promised and not there', raw([1, 0, 0, 1], ASKED), /./],
    ['a name that points to itself', raw([1, 0, 0, 0], POINTER, [0, 33, 0, 1]), /./],
    ['a name that points forwards', raw([1, 0, 0, 0], [0xc0, 14], [1, 0x61, 0], [0, 33, 0, 1]), /./],
    ['a name that points behind the end', raw([1, 0, 0, 0], [0xff, 0xff], [0, 33, 0, 1]), /./],
    [
      'two names that point to each other',
      raw(
        [1, 1, 0, 0],
        ASKED,
        [0xc0, HEADER_BYTES + ASKED.length + 2],
        [0xc0, HEADER_BYTES + ASKED.length],
        fixed(1),
      ),
      /./,
    ],
    ['half a pointer', raw([1, 0, 0, 0], [0xc0]), /./],
    ['a label of a kind that is not known', raw([1, 0, 0, 0], [0x41, 0x61, 0], [0, 33, 0, 1]), /./],
    ['another one', raw([1, 0, 0, 0], [0x80, 0x61, 0], [0, 33, 0, 1]), /./],
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
    ['a record without its fixed part', raw([1, 1, 0, 0], ASKED, POINTER, [0, 33]), /./],
    ['a record that ends before its length', raw([1, 1, 0, 0], ASKED, POINTER, fixed(33)), /./],
    ['a service record of 4 bytes', raw([1, 1, 0, 0], ASKED, POINTER, fixed(33), [0, 4], [0, 0, 0, 1]), /./],
    [
      'a service record that says it is longer than the message',
      raw([1, 1, 0, 0], ASKED, POINTER, fixed(33), [0xff, 0xff], [0, 0, 0, 1, 0, 80], POINTER),
      /./,
    ],
    ['an address that is cut', raw([1, 1, 0, 0], ASKED, POINTER, fixed(1), [0, 4], [10, 0]), /./],
    ['an address that is not there', raw([1, 1, 0, 0], ASKED, POINTER, fixed(1), [0, 4]), /./],
    [
      'an IPv6 address that is cut',
      raw([1, 1, 0, 0], ASKED, POINTER, fixed(28), [0, 16], [0x20, 1, 0xd, 0xb8]),
      /./,
    ],
    [
      'a text that says it is longer than the message',
      raw([1, 0, 0, 1], ASKED, POINTER, fixed(16), [0, 9], [3, 0x61]),
      /./,
    ],
    [
      'a text whose parts are longer than itself',
      raw([1, 0, 0, 1], ASKED, POINTER, fixed(16), [0, 2], [9, 0x61, 0x61]),
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

  it('refuses an answer that was cut, wherever that is', () => {
    assert.equal(decodeAnswer(whole, question).additionals.length, 3)
    const taken: number[] = []
    for (let length = 0; length < whole.length; length += 1) {
      try {
        decodeAnswer(whole.subarray(0, length), question)
        taken.push(length - whole.length)
      } catch (error) {
        assert.ok(error instanceof Error)
      }
    }
    assert.deepEqual(taken, [], 'cut by so many bytes it was taken')
  })

  /** Either an Error, or a message that is one. */
  function expectSense(bytes: Buffer): void {
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

  it('makes an error or sense of any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expectSense(Buffer.from(bytes))
      }),
      settings,
    )
  })

  it('makes an error or sense of any bytes behind the right header', () => {
    const counts = fc.tuple(fc.nat(3), fc.nat(3), fc.nat(3), fc.nat(3))
    fc.assert(
      fc.property(counts, fc.boolean(), fc.uint8Array({ maxLength: 120 }), ([q, a, n, x], isAsked, bytes) => {
        const rest = Buffer.from(bytes)
        expectSense(isAsked ? raw([1, a, n, x], ASKED, rest) : raw([q, a, n, x], rest))
      }),
      settings,
    )
  })

  it('makes an error or sense of an answer with some of its bytes changed', () => {
    const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(whole.length), (changes, cut) => {
        const bytes = Buffer.from(whole)
        for (const [at, byte] of changes) bytes[at] = byte
        expectSense(bytes)
        expectSense(bytes.subarray(0, cut))
      }),
      settings,
    )
  })

  it('takes none for another question, whatever that is', () => {
    const name = fc.stringMatching(/^[a-z]{1,5}(\.[a-z]{1,5}){0,2}$/)
    const asked = fc.record({
      id: fc.nat(0xffff),
      name,
      type: fc.constantFrom('SRV', 'A', 'AAAA'),
    })
    fc.assert(
      fc.property(asked, asked, (mine, theirs) => {
        const bytes = encode({
          type: 'response',
          id: theirs.id,
          questions: [{ name: theirs.name, type: theirs.type }],
        })
        const isMine = mine.id === theirs.id && mine.name === theirs.name && mine.type === theirs.type
        let isTaken = true
        try {
          decodeAnswer(bytes, mine)
        } catch {
          isTaken = false
        }
        assert.equal(isTaken, isMine)
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
    it(`${a} and ${b}: ${isSame ? 'yes' : 'no'}`, () => {
      assert.equal(isSameName(a, b), isSame)
    })
  }
})

describe('isDnsName', () => {
  const label = 'a'.repeat(63)
  const longest = [label, label, label, 'b'.repeat(61)].join('.')
  const cases: [name: string, isOne: boolean][] = [
    ['a', true],
    ['a.', true],
    ['redis.connect.consul', true],
    ['redis.connect.dc-1.consul.', true],
    ['_redis._tcp.service.consul', true],
    ['nearest-redis.query.consul', true],
    ['0a000001.addr.dc1.consul', true],
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
    ['a b', false],
    ['a.b ', false],
    [' a', false],
    ['a\n', false],
    ['a\0b', false],
    ['a/b', false],
    ['a:80', false],
    ['a%b', false],
    ['a@b', false],
    ['a\\.b', false],
    ['*', false],
    ['*.a', false],
    ['::1', false],
    ['[::1]', false],
    ['ü', false],
    // They would become an s and a k in a comparison without case that knows Unicode.
    ['\u017f', false],
    ['\u212a', false],
    ['a'.repeat(100_000), false],
    ['a.'.repeat(100_000), false],
  ]
  for (const [name, isOne] of cases) {
    it(`${inspect(name.slice(0, 40))}, ${name.length} characters: ${isOne ? 'yes' : 'no'}`, () => {
      assert.equal(isDnsName(name), isOne)
    })
  }

  it('of all characters those of host names, and _, alone', () => {
    const taken: string[] = []
    for (let code = 0; code <= 0xffff; code += 1) {
      const character = String.fromCharCode(code)
      if (isDnsName(`a${character}a`)) taken.push(character)
    }
    const expected = '-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz'
    assert.equal(taken.join(''), expected)
  })
})

describe('the kinds of records', () => {
  it('each is known by its type', () => {
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
