import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { Answer } from 'dns-packet'
import { DnsClient } from '../../src/agent/dns/client.js'
import type { DnsMessage, QuestionType } from '../../src/agent/dns/message.js'
import { ClosedError, DialError, DnsError } from '../../src/base/errors.js'
import { DnsResolver } from '../../src/resolve/dns-resolver.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { DnsTarget } from '../../src/resolve/upstream.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const NAME = 'redis.connect.consul'
const SERVER = '127.0.0.1:8600'

type Reply = Partial<DnsMessage> | Error
type Zone = Record<string, Reply | undefined>

/** A client that knows the answers, by type and name, and writes down what it was asked. */
class FakeDns extends DnsClient {
  readonly asked: string[] = []
  readonly signals: AbortSignal[] = []
  zone: Zone
  /** Whether answers wait until they are let go. */
  #held: (() => void)[] | undefined

  constructor(zone: Zone) {
    super({ host: '127.0.0.1', port: 8600 }, new FakeClock())
    this.zone = zone
  }

  hold(): void {
    this.#held = []
  }

  async letGo(): Promise<void> {
    for (const go of this.#held ?? []) go()
    this.#held = undefined
    await settle()
  }

  override async query(name: string, type: QuestionType, signal: AbortSignal): Promise<DnsMessage> {
    this.asked.push(`${type} ${name}`)
    this.signals.push(signal)
    await new Promise<void>((resolve, reject) => {
      if (signal.aborted) reject(signal.reason as Error)
      if (this.#held === undefined) {
        resolve()
        return
      }
      this.#held.push(resolve)
      signal.addEventListener('abort', () => {
        reject(signal.reason as Error)
      })
    })
    const reply = this.zone[`${type} ${name}`] ?? {}
    if (reply instanceof Error) throw reply
    return { rcode: 'NOERROR', isTruncated: false, answers: [], authorities: [], additionals: [], ...reply }
  }
}

interface SrvPart {
  readonly name?: string
  readonly ttl?: number | undefined
  readonly priority?: number | undefined
  readonly weight?: number | undefined
  readonly port?: number
}

function srv(
  target: string,
  { name = NAME, ttl = 60, priority = 1, weight = 1, port = 6379 }: SrvPart = {},
): Answer {
  return { type: 'SRV', name, ttl, data: { priority, weight, port, target } }
}

function a(name: string, data: string, ttl = 60): Answer {
  return { type: data.includes(':') ? 'AAAA' : 'A', name, ttl, data }
}

function soa(ttl: number | undefined, minimum: number | undefined): Answer {
  const data = { mname: 'ns.consul', rname: 'root.consul', ...(minimum !== undefined && { minimum }) }
  return { type: 'SOA', name: 'consul', ...(ttl !== undefined && { ttl }), data }
}

const noAnswer = new DnsError(SERVER, `SRV ${NAME}`, 'there is no answer')

function start(zone: Zone = {}, target: Partial<DnsTarget> = {}) {
  const [dns, clock] = [new FakeDns(zone), new FakeClock()]
  const resolver = new DnsResolver(dns, { dns: NAME, service: 'redis', ...target }, clock)
  return {
    dns,
    clock,
    resolver,
    resolve: async ({ signal = new AbortController().signal, refresh = false } = {}): Promise<
      readonly Endpoint[]
    > => resolver.resolve({ signal, refresh, datacenter: 'dc1' }),
    /** How often the records were asked for. */
    count: () => dns.asked.filter((question) => question === `SRV ${NAME}`).length,
  }
}

/** Host and port of each, in order. */
function places(endpoints: readonly Endpoint[]): string[] {
  return endpoints.map(({ host, port }) => `${host} ${port}`)
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof DialError, String(error))
  assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
  return error
}

describe('DnsResolver: endpoints', () => {
  it('place and weight come from DNS, the identity never', async () => {
    const { dns, resolver, resolve } = start(
      {
        [`SRV ${NAME}`]: {
          answers: [srv('n1.node.consul', { weight: 7 }), srv('n2.node.consul', { port: 1, weight: 0 })],
          additionals: [a('n1.node.consul', '10.0.0.1'), a('n2.node.consul', '2001:db8::2')],
        },
      },
      { service: 'cache', datacenter: 'dc2', namespace: 'n', partition: 'p' },
    )
    const identity = { service: 'cache', datacenter: 'dc2', namespace: 'n', partition: 'p' }
    const endpoints = await resolve()
    assert.deepEqual(endpoints, [
      { host: '10.0.0.1', port: 6379, weight: 7, identity },
      { host: '2001:db8::2', port: 1, weight: 0, identity },
    ])
    assert.equal(Object.isFrozen(endpoints), true)
    assert.deepEqual(dns.asked, [`SRV ${NAME}`])
    assert.equal(resolver.name, `cache by DNS ${NAME}`)
  })

  it('what came along is known by its name, in whatever letters', async () => {
    const { dns, resolve } = start({
      [`SRV ${NAME}`]: {
        answers: [srv('N1.node.consul.', { name: 'Redis.Connect.CONSUL.' }), srv('n2.node.consul')],
        additionals: [
          a('other.node.consul', '10.0.0.9'),
          a('n2.NODE.consul', '10.0.0.2'),
          a('n1.node.consul', '10.0.0.1'),
        ],
      },
    })
    assert.deepEqual(places(await resolve()), ['10.0.0.1 6379', '10.0.0.2 6379'])
    assert.equal(dns.asked.length, 1)
  })

  it('a record without a weight has none, and one without a priority the best', async () => {
    const { resolve } = start({
      [`SRV ${NAME}`]: {
        answers: [srv('n1'), { type: 'SRV', name: NAME, ttl: 1, data: { port: 80, target: 'n2' } }],
        additionals: [a('n1', '10.0.0.1'), a('n2', '10.0.0.2')],
      },
    })
    const [endpoint, ...others] = await resolve()
    assert.deepEqual([endpoint?.host, endpoint?.weight, others], ['10.0.0.2', 0, []])
  })

  describe('without an address that came along', () => {
    const cases: [rule: string, zone: Zone, place: string, asked: string[]][] = [
      [
        'the same server is asked for it',
        { 'A n1': { answers: [a('n1', '10.0.0.1')] } },
        '10.0.0.1 6379',
        ['A n1'],
      ],
      [
        'and for an IPv6 address when there is no other',
        { 'AAAA n1': { answers: [a('n1', '2001:db8::1')] } },
        '2001:db8::1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'and for an IPv6 address when the name is said not to exist',
        {
          'A n1': { rcode: 'NXDOMAIN', answers: [a('n1', '10.0.0.1')] },
          'AAAA n1': { answers: [a('n1', '2001:db8::1')] },
        },
        '2001:db8::1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'what it says of another name is not taken',
        { 'A n1': { answers: [a('n2', '10.0.0.2')] }, 'AAAA n1': { answers: [a('n2', '2001:db8::2')] } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'an alias is left to the system',
        { 'A n1': { answers: [{ type: 'CNAME', name: 'n1', data: 'n1.example' }] } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
      ['a name that it does not know is left to the system', {}, 'n1 6379', ['A n1', 'AAAA n1']],
      [
        'a name that it refuses to look up is left to the system',
        { 'A n1': { rcode: 'REFUSED' }, 'AAAA n1': { rcode: 'SERVFAIL' } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
    ]
    for (const [rule, zone, place, asked] of cases) {
      it(rule, async () => {
        const { dns, resolve } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] }, ...zone })
        assert.deepEqual(places(await resolve()), [place])
        assert.deepEqual(dns.asked.slice(1), asked)
      })
    }

    it('a host’s name has no dot at its end', async () => {
      const { resolve } = start({ [`SRV ${NAME}`]: { answers: [srv('db.example.')] } })
      assert.deepEqual(places(await resolve()), ['db.example 6379'])
    })

    it('an alias that came along is no address', async () => {
      const { dns, resolve } = start({
        [`SRV ${NAME}`]: {
          answers: [srv('n1')],
          additionals: [{ type: 'CNAME', name: 'n1', data: 'n2' }, a('n2', '10.0.0.2')],
        },
        'A n1': { answers: [a('n1', '10.0.0.1')] },
      })
      assert.deepEqual(places(await resolve()), ['10.0.0.1 6379'])
      assert.deepEqual(dns.asked.slice(1), ['A n1'])
    })

    it('one of which nothing can be learnt does not spoil the others, and is not asked for twice', async () => {
      const { dns, resolve } = start({
        [`SRV ${NAME}`]: { answers: [srv('n1'), srv('n2')], additionals: [a('n1', '10.0.0.1')] },
        'A n2': noAnswer,
      })
      assert.deepEqual(places(await resolve()), ['10.0.0.1 6379'])
      assert.deepEqual(dns.asked.slice(1), ['A n2'])
    })

    it('of all of which nothing can be learnt: that is the failure, and the last good answer serves on', async () => {
      const good = { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1')] }
      const bad = { answers: [srv('n2'), srv('n3')] }
      const { clock, dns, resolve } = start({
        [`SRV ${NAME}`]: bad,
        'A n2': noAnswer,
        'A n3': noAnswer,
      })
      await assert.rejects(resolve(), (error) => error === noAnswer)
      clock.set(clock.now() + 2_000)
      dns.zone = { ...dns.zone, [`SRV ${NAME}`]: good }
      const list = await resolve()
      clock.set(clock.now() + 60_000)
      dns.zone = { ...dns.zone, [`SRV ${NAME}`]: bad }
      assert.equal(await resolve(), list)
    })

    it('one that several records name is asked for once', async () => {
      const { dns, resolve } = start({
        [`SRV ${NAME}`]: {
          answers: [srv('n1', { port: 1 }), srv('N1.', { port: 2 }), srv('n1', { port: 3 })],
        },
        'A n1': { answers: [a('n1', '10.0.0.1')] },
      })
      assert.deepEqual(places(await resolve()), ['10.0.0.1 1', '10.0.0.1 2', '10.0.0.1 3'])
      assert.deepEqual(dns.asked.slice(1), ['A n1'])
    })

    it('of many only some are asked for at a time', async () => {
      const names = Array.from({ length: 20 }, (_, i) => `n${i}`)
      const zone: Zone = { [`SRV ${NAME}`]: { answers: names.map((name) => srv(name)) } }
      for (const name of names) zone[`A ${name}`] = { answers: [a(name, '10.0.0.1')] }
      const { dns, resolve } = start(zone)
      dns.hold()
      const resolving = resolve()
      await settle()
      // The records themselves are let go; what is asked for then is held.
      const letGo = dns.letGo()
      dns.hold()
      await letGo
      assert.equal(dns.asked.length, 1 + 8)
      await dns.letGo()
      assert.equal((await resolving).length, 20)
      assert.equal(dns.asked.length, 1 + 20)
    })

    it('the first address that came along is taken', async () => {
      const { resolve } = start({
        [`SRV ${NAME}`]: {
          answers: [srv('n1')],
          additionals: [a('n1', '2001:db8::1'), a('n1', '10.0.0.1'), a('N1', '10.0.0.2')],
        },
      })
      assert.deepEqual(places(await resolve()), ['2001:db8::1 6379'])
    })
  })
})

describe('DnsResolver: which records', () => {
  const along = [a('n1', '10.0.0.1'), a('n2', '10.0.0.2'), a('n3', '10.0.0.3')]
  const cases: [rule: string, answers: Answer[], places: string[]][] = [
    [
      'only the best priority',
      [srv('n1', { priority: 2 }), srv('n2', { priority: 1 }), srv('n3', { priority: 1 })],
      ['10.0.0.2 6379', '10.0.0.3 6379'],
    ],
    [
      'the best priority may be 0',
      [srv('n1', { priority: 1 }), srv('n2', { priority: 0 })],
      ['10.0.0.2 6379'],
    ],
    ['the best priority may be the last', [srv('n1', { priority: 65535 })], ['10.0.0.1 6379']],
    ['a port of 0 says that there is nobody', [srv('n1', { port: 0 }), srv('n2')], ['10.0.0.2 6379']],
    ['a target of "." says that there is nobody', [srv('.'), srv('n2')], ['10.0.0.2 6379']],
    [
      'one that is of no use does not hide a worse priority',
      [srv('.', { priority: 1 }), srv('n2', { port: 0, priority: 1 }), srv('n1', { priority: 2 })],
      ['10.0.0.1 6379'],
    ],
    [
      'those of another name are somebody else’s',
      [srv('n1', { name: 'other.connect.consul' }), srv('n2')],
      ['10.0.0.2 6379'],
    ],
    [
      'those of another kind are not looked at',
      [a(NAME, '10.0.0.9'), { type: 'TXT', name: NAME, data: 'x' }, srv('n2')],
      ['10.0.0.2 6379'],
    ],
    [
      'two ports of one host are two',
      [srv('n1', { port: 1 }), srv('n1', { port: 2 })],
      ['10.0.0.1 1', '10.0.0.1 2'],
    ],
  ]
  for (const [rule, answers, expected] of cases) {
    it(rule, async () => {
      const { resolve } = start({ [`SRV ${NAME}`]: { answers, additionals: along } })
      assert.deepEqual(places(await resolve()), expected)
    })
  }

  const hostile = [
    '',
    '.',
    '..',
    'a b',
    'a\nb',
    'a\0b',
    'a/b',
    '../../run/x.sock',
    'a:80',
    '[::1]',
    'a@b',
    'a%b',
    '*',
    '*.consul',
    'ü',
    'a..b',
    '.a',
    '-'.repeat(64),
    'a.'.repeat(130),
  ]
  for (const target of hostile) {
    it(`refuses the target ${inspect(target.slice(0, 40))}, though an address came along with it`, async () => {
      const { dns, resolve } = start({
        [`SRV ${NAME}`]: {
          answers: [srv(target), srv('n1')],
          additionals: [a(target, '10.9.9.9'), ...along],
        },
      })
      assert.deepEqual(places(await resolve()), ['10.0.0.1 6379'])
      // Nor is it asked for.
      assert.equal(dns.asked.length, 1)
      const alone = start({
        [`SRV ${NAME}`]: { answers: [srv(target)], additionals: [a(target, '10.9.9.9')] },
      })
      await refusal(alone.resolve())
      assert.equal(alone.dns.asked.length, 1)
    })
  }
})

describe('DnsResolver: how many records', () => {
  it('a thousand at most', async () => {
    for (const [count, taken] of [
      [1_000, 1_000],
      [1_001, 1_000],
    ] as const) {
      const answers = Array.from({ length: count }, (_, i) => srv('n1', { port: 1 + i }))
      const { resolve } = start({ [`SRV ${NAME}`]: { answers, additionals: [a('n1', '10.0.0.1')] } })
      assert.equal((await resolve()).length, taken)
    }
  })

  it('one that says nothing of where is none', async () => {
    const empty = { type: 'SRV', name: NAME, ttl: 5 } as unknown as Answer
    const { resolve } = start({
      [`SRV ${NAME}`]: { answers: [empty, srv('n1')], additionals: [a('n1', '10.0.0.1')] },
    })
    assert.deepEqual(places(await resolve()), ['10.0.0.1 6379'])
  })
})

describe('DnsResolver: how long', () => {
  interface Times {
    readonly records: (number | undefined)[]
    readonly along?: number[]
    readonly later?: number[]
    readonly ms: number
  }
  const cases: [rule: string, times: Times][] = [
    ['as the record says', { records: [5], along: [60], ms: 5_000 }],
    ['as the address that came along says', { records: [60], along: [7], ms: 7_000 }],
    ['the least of all', { records: [60, 40, 50], along: [90, 80, 30], ms: 30_000 }],
    ['the least of all, wherever it is', { records: [60, 20, 50], along: [30, 80, 90], ms: 20_000 }],
    ['as an address says that was asked for', { records: [60], later: [9], ms: 9_000 }],
    ['for a host’s name the record’s alone', { records: [60], ms: 60_000 }],
    ['for a day at most', { records: [86_401], along: [86_402], ms: 86_400_000 }],
    ['for a day and not a second less', { records: [86_400], along: [100_000], ms: 86_400_000 }],
    [
      'for a day, where it is the greatest that there is',
      { records: [0x7fff_ffff], along: [0x7fff_ffff], ms: 86_400_000 },
    ],
    ['for a host’s name a day at most', { records: [1_000_000], ms: 86_400_000 }],
  ]
  for (const [rule, { records, along = [], later = [], ms }] of cases) {
    it(`${rule}: ${ms} ms`, async () => {
      const zone: Zone = {
        [`SRV ${NAME}`]: {
          answers: records.map((ttl, i) => srv(`n${i}`, { ttl })),
          additionals: along.map((ttl, i) => a(`n${i}`, `10.0.0.${i}`, ttl)),
        },
      }
      later.forEach((ttl, i) => {
        zone[`A n${i}`] = { answers: [a(`n${i}`, `10.0.0.${i}`, ttl)] }
      })
      const { clock, resolve, count } = start(zone)
      const list = await resolve()
      clock.set(clock.now() + ms - 1)
      assert.equal(await resolve(), list)
      assert.equal(count(), 1)
      clock.set(clock.now() + 1)
      assert.deepEqual(await resolve(), list)
      assert.equal(count(), 2)
    })
  }

  const never: [rule: string, reply: Partial<DnsMessage>][] = [
    ['a record of 0 s', { answers: [srv('n1', { ttl: 0 })], additionals: [a('n1', '10.0.0.1')] }],
    [
      'a record with the top bit set',
      { answers: [srv('n1', { ttl: 0x8000_0000 })], additionals: [a('n1', '10.0.0.1')] },
    ],
    [
      'an address with the top bit set',
      { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1', 0xffff_ffff)] },
    ],
    ['an address of 0 s', { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1', 0)] }],
    [
      'a record that says nothing of it',
      {
        answers: [{ type: 'SRV', name: NAME, data: { port: 1, target: 'n1' } }],
        additionals: [a('n1', '10.0.0.1')],
      },
    ],
    [
      'an address that says nothing of it',
      { answers: [srv('n1')], additionals: [{ type: 'A', name: 'n1', data: '10.0.0.1' }] },
    ],
  ]
  for (const [rule, reply] of never) {
    it(`${rule} is for those who wait now`, async () => {
      const { dns, resolve, count } = start({ [`SRV ${NAME}`]: reply })
      dns.hold()
      const waiting = [resolve(), resolve()]
      await settle()
      await dns.letGo()
      const [one, other] = await Promise.all(waiting)
      assert.equal(one, other)
      assert.equal(count(), 1)
      await resolve()
      assert.equal(count(), 2)
    })
  }

  it('a refresh asks again, but not within a second', async () => {
    const { clock, dns, resolve, count } = start({
      [`SRV ${NAME}`]: { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1')] },
    })
    await resolve()
    await resolve({ refresh: true })
    assert.equal(count(), 1)
    clock.set(clock.now() + 1_000)
    dns.zone = { [`SRV ${NAME}`]: { answers: [srv('n1')], additionals: [a('n1', '10.0.0.2')] } }
    assert.deepEqual(places(await resolve()), ['10.0.0.1 6379'])
    assert.deepEqual(places(await resolve({ refresh: true })), ['10.0.0.2 6379'])
    assert.equal(count(), 2)
  })
})

describe('DnsResolver: there is none', () => {
  const none: [rule: string, reply: Partial<DnsMessage>][] = [
    ['the name does not exist', { rcode: 'NXDOMAIN' }],
    ['it has no records', {}],
    ['it has none of service', { answers: [a(NAME, '10.0.0.1')] }],
    ['it has none that can be dialled', { answers: [srv('.'), srv('n1', { port: 0 })] }],
    ['the records are of another name', { answers: [srv('n1', { name: 'other.connect.consul' })] }],
  ]
  for (const [rule, reply] of none) {
    it(rule, async () => {
      const { resolve } = start({ [`SRV ${NAME}`]: reply })
      const { message, upstream } = await refusal(resolve())
      assert.equal(upstream, `redis by DNS ${NAME}`)
      assert.equal(message, `dial redis by DNS ${NAME}: the name does not exist, or has no valid SRV record`)
    })
  }

  const times: [ttl: number | undefined, minimum: number | undefined, ms: number][] = [
    [9, 3, 3_000],
    [3, 9, 3_000],
    [5, 5, 5_000],
    [0, 9, 0],
    [9, 0, 0],
    [undefined, 9, 0],
    [9, undefined, 0],
    // A minute at most.
    [60, 60, 60_000],
    [3_600, 61, 60_000],
    [61, 3_600, 60_000],
    [0x8000_0000, 9, 0],
    [9, 0x8000_0000, 0],
  ]
  for (const [ttl, minimum, ms] of times) {
    it(`is kept for ${ms} ms where the zone says ${ttl ?? 'nothing'} and ${minimum ?? 'nothing'}`, async () => {
      for (const rcode of ['NXDOMAIN', 'NOERROR']) {
        const { clock, dns, resolve, count } = start({
          [`SRV ${NAME}`]: { rcode, authorities: [soa(ttl, minimum)] },
        })
        await refusal(resolve())
        if (ms > 0) {
          clock.set(clock.now() + ms - 1)
          await refusal(resolve())
          assert.equal(count(), 1)
          clock.set(clock.now() + 1)
        }
        dns.zone = { [`SRV ${NAME}`]: { answers: [srv('n1')] } }
        assert.deepEqual(places(await resolve()), ['n1 6379'])
        assert.equal(count(), 2)
      }
    })
  }

  it('is not kept where the zone says nothing', async () => {
    const { resolve, count } = start({
      [`SRV ${NAME}`]: {
        rcode: 'NXDOMAIN',
        authorities: [{ type: 'NS', name: 'consul', ttl: 9, data: 'ns.consul' }],
      },
    })
    await refusal(resolve())
    await refusal(resolve())
    assert.equal(count(), 2)
  })
})

describe('DnsResolver: failure', () => {
  for (const rcode of ['SERVFAIL', 'REFUSED', 'FORMERR', 'NOTIMP', 'UNKNOWN']) {
    it(`${rcode} is an error, and is not kept`, async () => {
      const { resolve, resolver, count } = start({
        [`SRV ${NAME}`]: { rcode, answers: [srv('n1')], authorities: [soa(60, 60)] },
      })
      for (let i = 1; i < 3; i += 1) {
        await assert.rejects(resolve(), (error) => {
          assert.ok(error instanceof DnsError, String(error))
          assert.equal(error.code, 'ERR_CONNECT_DNS')
          assert.equal(error.question, `SRV ${NAME}`)
          assert.match(error.message, new RegExp(`: the server returned ${rcode}$`))
          assert.equal(resolver.lastError, error)
          return true
        })
        assert.equal(count(), i)
      }
    })
  }

  it('the error of a code tells which server that was', async () => {
    const { resolve } = start({ [`SRV ${NAME}`]: { rcode: 'SERVFAIL' } })
    await assert.rejects(resolve(), {
      server: SERVER,
      message: `DNS SRV ${NAME} at ${SERVER}: the server returned SERVFAIL`,
    })
  })

  it('a server that does not answer is told as it is', async () => {
    const { resolve, resolver } = start({ [`SRV ${NAME}`]: noAnswer })
    await assert.rejects(resolve(), (error) => error === noAnswer)
    assert.equal(resolver.lastError, noAnswer)
  })

  it('the last good answer serves on', async () => {
    for (const reply of [noAnswer, { rcode: 'SERVFAIL' }]) {
      const { clock, dns, resolve, resolver, count } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] } })
      const list = await resolve()
      clock.set(clock.now() + 60_000)
      dns.zone = { [`SRV ${NAME}`]: reply }
      assert.equal(await resolve(), list)
      assert.equal(count(), 2)
      assert.ok(resolver.lastError instanceof DnsError)
      // A moment later it is asked again.
      clock.set(clock.now() + 100)
      dns.zone = { [`SRV ${NAME}`]: { answers: [srv('n2')] } }
      assert.deepEqual(places(await resolve()), ['n2 6379'])
      assert.equal(resolver.lastError, undefined)
    }
  })

  it('that the name has gone is an answer and no failure', async () => {
    const { clock, dns, resolve } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] } })
    await resolve()
    clock.set(clock.now() + 60_000)
    dns.zone = { [`SRV ${NAME}`]: { rcode: 'NXDOMAIN' } }
    await refusal(resolve())
  })

  it("the caller's signal ends its own wait", async () => {
    const { dns, resolve } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] } })
    dns.hold()
    const [mine, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(resolve({ signal: mine.signal }), (error) => error === reason)
    const patient = resolve()
    await settle()
    mine.abort(reason)
    await rejected
    await dns.letGo()
    assert.deepEqual(places(await patient), ['n1 6379'])
  })

  it('is empty until it has found somebody', async () => {
    const { dns, resolve, resolver } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] } })
    assert.equal(resolver.isEmpty, true)
    dns.hold()
    const resolving = resolve()
    await settle()
    await dns.letGo()
    await resolving
    assert.equal(resolver.isEmpty, false)
  })

  it('is empty again when the name has gone', async () => {
    const { clock, dns, resolve, resolver } = start({ [`SRV ${NAME}`]: { answers: [srv('n1')] } })
    await resolve()
    clock.set(clock.now() + 60_000)
    dns.zone = { [`SRV ${NAME}`]: { rcode: 'NXDOMAIN' } }
    await refusal(resolve())
    assert.equal(resolver.isEmpty, true)
  })

  it('close ends every question', async () => {
    for (const answers of [[], [srv('n1'), srv('n2')]]) {
      const { dns, resolve, resolver } = start({ [`SRV ${NAME}`]: { answers } })
      if (answers.length === 0) dns.hold()
      const rejected = assert.rejects(resolve(), ClosedError)
      if (answers.length > 0) {
        while (dns.asked.length < 2) {
          await Promise.resolve()
          dns.hold()
        }
      }
      resolver.close()
      await rejected
      assert.ok(dns.signals.every(({ aborted }) => aborted))
    }
  })
})
