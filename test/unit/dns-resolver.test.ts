import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { Answer } from 'dns-packet'
import { DnsClient } from '../../src/agent/dns/client.js'
import type { DnsMessage, QuestionType } from '../../src/agent/dns/message.js'
import type { DialError } from '../../src/base/errors.js'
import { ClosedError, DnsError } from '../../src/base/errors.js'
import { DnsResolver } from '../../src/resolve/dns-resolver.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { DnsUpstream } from '../../src/resolve/upstream.js'
import { dialError } from '../fixtures/errors.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const NAME = 'redis.connect.consul'
/** The question for the records. */
const SRV = `SRV ${NAME}`
const SERVER = '127.0.0.1:8600'

type Reply = Partial<DnsMessage> | Error
type Zone = Record<string, Reply | undefined>

/** A client that responds from a zone, which maps a type and a name to a response, and records the questions. */
class FakeDns extends DnsClient {
  readonly questions: string[] = []
  readonly signals: AbortSignal[] = []
  zone: Zone
  /** Held responses, between `hold` and `release`. */
  #held: (() => void)[] | undefined

  constructor(zone: Zone) {
    super({ host: '127.0.0.1', port: 8600 }, new FakeClock())
    this.zone = zone
  }

  hold(): void {
    this.#held = []
  }

  async release(): Promise<void> {
    for (const respond of this.#held ?? []) respond()
    this.#held = undefined
    await settle()
  }

  override async query(name: string, type: QuestionType, signal: AbortSignal): Promise<DnsMessage> {
    this.questions.push(`${type} ${name}`)
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

const NO_RESPONSE = new DnsError(SERVER, SRV, 'no response')

function start(zone: Zone = {}, target: Partial<DnsUpstream> = {}) {
  const [dns, clock] = [new FakeDns(zone), new FakeClock()]
  const resolver = new DnsResolver(dns, { dns: NAME, service: 'redis', ...target }, clock)
  return {
    dns,
    clock,
    resolver,
    resolve: async ({ signal = new AbortController().signal, refresh = false } = {}): Promise<
      readonly Endpoint[]
    > => resolver.resolve({ signal, refresh, datacenter: 'dc1' }),
    /** The number of questions for the SRV records. */
    count: () => dns.questions.filter((question) => question === SRV).length,
  }
}

/** The host and the port of each endpoint, in order. */
function addressesOf(endpoints: readonly Endpoint[]): string[] {
  return endpoints.map(({ host, port }) => `${host} ${port}`)
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await dialError(promise)
  assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'unknown'])
  return error
}

describe('The endpoints of a DnsResolver', () => {
  it('have the address and the weight of DNS, and the identity of the upstream', async () => {
    const { dns, resolver, resolve } = start(
      {
        [SRV]: {
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
    assert.deepEqual(dns.questions, [SRV])
    assert.equal(resolver.name, `cache by DNS ${NAME}`)
  })

  it('have the additional addresses, matched by name without case', async () => {
    const { dns, resolve } = start({
      [SRV]: {
        answers: [srv('N1.node.consul.', { name: 'Redis.Connect.CONSUL.' }), srv('n2.node.consul')],
        additionals: [
          a('other.node.consul', '10.0.0.9'),
          a('n2.NODE.consul', '10.0.0.2'),
          a('n1.node.consul', '10.0.0.1'),
        ],
      },
    })
    assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379', '10.0.0.2 6379'])
    assert.equal(dns.questions.length, 1)
  })

  it('have weight 0 and the best priority by default', async () => {
    const { resolve } = start({
      [SRV]: {
        answers: [srv('n1'), { type: 'SRV', name: NAME, ttl: 1, data: { port: 80, target: 'n2' } }],
        additionals: [a('n1', '10.0.0.1'), a('n2', '10.0.0.2')],
      },
    })
    const [endpoint, ...others] = await resolve()
    assert.deepEqual([endpoint?.host, endpoint?.weight, others], ['10.0.0.2', 0, []])
  })

  describe('without an additional address', () => {
    const cases: [rule: string, zone: Zone, address: string, questions: string[]][] = [
      ['requests the address', { 'A n1': { answers: [a('n1', '10.0.0.1')] } }, '10.0.0.1 6379', ['A n1']],
      [
        'requests an IPv6 address if there is no IPv4 address',
        { 'AAAA n1': { answers: [a('n1', '2001:db8::1')] } },
        '2001:db8::1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'requests an IPv6 address after NXDOMAIN',
        {
          'A n1': { rcode: 'NXDOMAIN', answers: [a('n1', '10.0.0.1')] },
          'AAAA n1': { answers: [a('n1', '2001:db8::1')] },
        },
        '2001:db8::1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'ignores addresses of other names',
        { 'A n1': { answers: [a('n2', '10.0.0.2')] }, 'AAAA n1': { answers: [a('n2', '2001:db8::2')] } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
      [
        'leaves an alias to the operating system',
        { 'A n1': { answers: [{ type: 'CNAME', name: 'n1', data: 'n1.example' }] } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
      ['leaves an unknown name to the operating system', {}, 'n1 6379', ['A n1', 'AAAA n1']],
      [
        'leaves a name to the operating system after an error code',
        { 'A n1': { rcode: 'REFUSED' }, 'AAAA n1': { rcode: 'SERVFAIL' } },
        'n1 6379',
        ['A n1', 'AAAA n1'],
      ],
    ]
    for (const [rule, zone, address, questions] of cases) {
      it(rule, async () => {
        const { dns, resolve } = start({ [SRV]: { answers: [srv('n1')] }, ...zone })
        assert.deepEqual(addressesOf(await resolve()), [address])
        assert.deepEqual(dns.questions.slice(1), questions)
      })
    }

    it('removes the trailing dot of a host name', async () => {
      const { resolve } = start({ [SRV]: { answers: [srv('db.example.')] } })
      assert.deepEqual(addressesOf(await resolve()), ['db.example 6379'])
    })

    it('does not use an additional alias', async () => {
      const { dns, resolve } = start({
        [SRV]: {
          answers: [srv('n1')],
          additionals: [{ type: 'CNAME', name: 'n1', data: 'n2' }, a('n2', '10.0.0.2')],
        },
        'A n1': { answers: [a('n1', '10.0.0.1')] },
      })
      assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379'])
      assert.deepEqual(dns.questions.slice(1), ['A n1'])
    })

    it('skips a target after a failure', async () => {
      const { dns, resolve } = start({
        [SRV]: { answers: [srv('n1'), srv('n2')], additionals: [a('n1', '10.0.0.1')] },
        'A n2': NO_RESPONSE,
      })
      assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379'])
      assert.deepEqual(dns.questions.slice(1), ['A n2'])
    })

    it('rejects if no target can be resolved', async () => {
      const { resolve } = start({
        [SRV]: { answers: [srv('n2'), srv('n3')] },
        'A n2': NO_RESPONSE,
        'A n3': NO_RESPONSE,
      })
      await assert.rejects(resolve(), (error) => error === NO_RESPONSE)
    })

    it('requests the address of a target once', async () => {
      const { dns, resolve } = start({
        [SRV]: { answers: [srv('n1', { port: 1 }), srv('N1.', { port: 2 }), srv('n1', { port: 3 })] },
        'A n1': { answers: [a('n1', '10.0.0.1')] },
      })
      assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 1', '10.0.0.1 2', '10.0.0.1 3'])
      assert.deepEqual(dns.questions.slice(1), ['A n1'])
    })

    it('requests at most eight addresses at a time', async () => {
      const names = Array.from({ length: 20 }, (_, i) => `n${i}`)
      const zone: Zone = { [SRV]: { answers: names.map((name) => srv(name)) } }
      for (const name of names) zone[`A ${name}`] = { answers: [a(name, '10.0.0.1')] }
      const { dns, resolve } = start(zone)
      dns.hold()
      const resolving = resolve()
      await settle()
      // Release the SRV records, and hold the addresses.
      const released = dns.release()
      dns.hold()
      await released
      assert.equal(dns.questions.length, 1 + 8)
      await dns.release()
      assert.equal((await resolving).length, 20)
      assert.equal(dns.questions.length, 1 + 20)
    })

    it('uses the first additional address', async () => {
      const { resolve } = start({
        [SRV]: {
          answers: [srv('n1')],
          additionals: [a('n1', '2001:db8::1'), a('n1', '10.0.0.1'), a('N1', '10.0.0.2')],
        },
      })
      assert.deepEqual(addressesOf(await resolve()), ['2001:db8::1 6379'])
    })
  })
})

describe('The records of a DnsResolver', () => {
  const additional = [a('n1', '10.0.0.1'), a('n2', '10.0.0.2'), a('n3', '10.0.0.3')]
  const cases: [rule: string, answers: Answer[], addresses: string[]][] = [
    [
      'are those of the best priority',
      [srv('n1', { priority: 2 }), srv('n2', { priority: 1 }), srv('n3', { priority: 1 })],
      ['10.0.0.2 6379', '10.0.0.3 6379'],
    ],
    ['may have priority 0', [srv('n1', { priority: 1 }), srv('n2', { priority: 0 })], ['10.0.0.2 6379']],
    ['may have priority 65535', [srv('n1', { priority: 65535 })], ['10.0.0.1 6379']],
    ['exclude port 0', [srv('n1', { port: 0 }), srv('n2')], ['10.0.0.2 6379']],
    [
      'exclude the target ".", which means that there is no service',
      [srv('.'), srv('n2')],
      ['10.0.0.2 6379'],
    ],
    [
      'exclude unusable records before the best priority is determined',
      [srv('.', { priority: 1 }), srv('n2', { port: 0, priority: 1 }), srv('n1', { priority: 2 })],
      ['10.0.0.1 6379'],
    ],
    ['exclude other names', [srv('n1', { name: 'other.connect.consul' }), srv('n2')], ['10.0.0.2 6379']],
    [
      'exclude other types',
      [a(NAME, '10.0.0.9'), { type: 'TXT', name: NAME, data: 'x' }, srv('n2')],
      ['10.0.0.2 6379'],
    ],
    [
      'include two ports of one host',
      [srv('n1', { port: 1 }), srv('n1', { port: 2 })],
      ['10.0.0.1 1', '10.0.0.1 2'],
    ],
  ]
  for (const [rule, answers, expected] of cases) {
    it(rule, async () => {
      const { resolve } = start({ [SRV]: { answers, additionals: additional } })
      assert.deepEqual(addressesOf(await resolve()), expected)
    })
  }

  // isDnsName() has tests for all characters.
  const hostile = ['', '..', 'a b', '../../run/x.sock', 'a:80', '[::1]', 'a.'.repeat(130)]
  for (const target of hostile) {
    it(`exclude the target ${inspect(target)}, also with an additional address`, async () => {
      const { dns, resolve } = start({
        [SRV]: { answers: [srv(target), srv('n1')], additionals: [a(target, '10.9.9.9'), ...additional] },
      })
      assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379'])
      assert.equal(dns.questions.length, 1)
      const alone = start({ [SRV]: { answers: [srv(target)], additionals: [a(target, '10.9.9.9')] } })
      await refusal(alone.resolve())
      assert.equal(alone.dns.questions.length, 1)
    })
  }

  it('are limited to 1000', async () => {
    const answers = Array.from({ length: 1_001 }, (_, i) => srv('n1', { port: 1 + i }))
    const { resolve } = start({ [SRV]: { answers, additionals: [a('n1', '10.0.0.1')] } })
    assert.equal((await resolve()).length, 1_000)
  })

  it('exclude records without data', async () => {
    const empty = { type: 'SRV', name: NAME, ttl: 5 } as unknown as Answer
    const { resolve } = start({ [SRV]: { answers: [empty, srv('n1')], additionals: [a('n1', '10.0.0.1')] } })
    assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379'])
  })
})

describe('The TTL of a DnsResolver', () => {
  interface Times {
    readonly records: (number | undefined)[]
    readonly additional?: number[]
    readonly later?: number[]
    readonly ms: number
  }
  const cases: [rule: string, times: Times][] = [
    ['is that of the record', { records: [5], additional: [60], ms: 5_000 }],
    ['is that of the additional address', { records: [60], additional: [7], ms: 7_000 }],
    ['is the lowest one', { records: [60, 40, 50], additional: [90, 80, 30], ms: 30_000 }],
    ['is that of the requested address', { records: [60], later: [9], ms: 9_000 }],
    ['is that of the record for a host name', { records: [60], ms: 60_000 }],
    ['is at most a day', { records: [0x7fff_ffff], additional: [0x7fff_ffff], ms: 86_400_000 }],
  ]
  for (const [rule, { records, additional = [], later = [], ms }] of cases) {
    it(`${rule}: ${ms} ms`, async () => {
      const zone: Zone = {
        [SRV]: {
          answers: records.map((ttl, i) => srv(`n${i}`, { ttl })),
          additionals: additional.map((ttl, i) => a(`n${i}`, `10.0.0.${i}`, ttl)),
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
    ['a record with TTL 0', { answers: [srv('n1', { ttl: 0 })], additionals: [a('n1', '10.0.0.1')] }],
    [
      'a record with the most significant bit set',
      { answers: [srv('n1', { ttl: 0x8000_0000 })], additionals: [a('n1', '10.0.0.1')] },
    ],
    [
      'an address with the most significant bit set',
      { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1', 0xffff_ffff)] },
    ],
    [
      'a record without a TTL',
      {
        answers: [{ type: 'SRV', name: NAME, data: { port: 1, target: 'n1' } }],
        additionals: [a('n1', '10.0.0.1')],
      },
    ],
  ]
  for (const [rule, reply] of never) {
    it(`is 0 for ${rule}: the response serves only pending callers`, async () => {
      const { dns, resolve, count } = start({ [SRV]: reply })
      dns.hold()
      const waiting = [resolve(), resolve()]
      await settle()
      await dns.release()
      const [first, second] = await Promise.all(waiting)
      assert.equal(first, second)
      assert.equal(count(), 1)
      await resolve()
      assert.equal(count(), 2)
    })
  }

  it('ends with a refresh, but not within a second', async () => {
    const { clock, dns, resolve, count } = start({
      [SRV]: { answers: [srv('n1')], additionals: [a('n1', '10.0.0.1')] },
    })
    await resolve()
    await resolve({ refresh: true })
    assert.equal(count(), 1)
    clock.set(clock.now() + 1_000)
    dns.zone = { [SRV]: { answers: [srv('n1')], additionals: [a('n1', '10.0.0.2')] } }
    assert.deepEqual(addressesOf(await resolve()), ['10.0.0.1 6379'])
    assert.deepEqual(addressesOf(await resolve({ refresh: true })), ['10.0.0.2 6379'])
    assert.equal(count(), 2)
  })
})

describe('DnsResolver without endpoints', () => {
  const none: [rule: string, reply: Partial<DnsMessage>][] = [
    ['a name that does not exist', { rcode: 'NXDOMAIN' }],
    ['a name without records', {}],
    ['a name without SRV records', { answers: [a(NAME, '10.0.0.1')] }],
    ['unusable records', { answers: [srv('.'), srv('n1', { port: 0 })] }],
    ['records of another name', { answers: [srv('n1', { name: 'other.connect.consul' })] }],
  ]
  for (const [rule, reply] of none) {
    it(rule, async () => {
      const { resolve } = start({ [SRV]: reply })
      const { message, upstream } = await refusal(resolve())
      assert.equal(upstream, `redis by DNS ${NAME}`)
      assert.equal(message, `dial redis by DNS ${NAME}: the name does not exist, or has no valid SRV record`)
    })
  }

  const times: [ttl: number | undefined, minimum: number | undefined, ms: number][] = [
    [9, 3, 3_000],
    [3, 9, 3_000],
    [0, 9, 0],
    [undefined, 9, 0],
    [9, undefined, 0],
    // A minute at most.
    [3_600, 61, 60_000],
    [0x8000_0000, 9, 0],
    [9, 0x8000_0000, 0],
  ]
  for (const [ttl, minimum, ms] of times) {
    it(`asks again after ${ms} ms with a SOA with TTL ${ttl} and MINIMUM ${minimum}`, async () => {
      for (const rcode of ['NXDOMAIN', 'NOERROR']) {
        const { clock, dns, resolve, count } = start({ [SRV]: { rcode, authorities: [soa(ttl, minimum)] } })
        await refusal(resolve())
        if (ms > 0) {
          clock.set(clock.now() + ms - 1)
          await refusal(resolve())
          assert.equal(count(), 1)
          clock.set(clock.now() + 1)
        }
        dns.zone = { [SRV]: { answers: [srv('n1')] } }
        assert.deepEqual(addressesOf(await resolve()), ['n1 6379'])
        assert.equal(count(), 2)
      }
    })
  }

  it('asks again immediately without a SOA', async () => {
    const { resolve, count } = start({
      [SRV]: { rcode: 'NXDOMAIN', authorities: [{ type: 'NS', name: 'consul', ttl: 9, data: 'ns.consul' }] },
    })
    await refusal(resolve())
    await refusal(resolve())
    assert.equal(count(), 2)
  })
})

describe('DnsResolver', () => {
  for (const rcode of ['SERVFAIL', 'REFUSED']) {
    it(`rejects on ${rcode}, and asks again after a pause`, async () => {
      const { clock, resolve, resolver, count } = start({
        [SRV]: { rcode, answers: [srv('n1')], authorities: [soa(60, 60)] },
      })
      for (let i = 1; i < 3; i += 1) {
        await assert.rejects(resolve(), (error) => {
          assert.ok(error instanceof DnsError, String(error))
          assert.deepEqual([error.code, error.server, error.question], ['ERR_CONNECT_DNS', SERVER, SRV])
          assert.equal(error.message, `DNS SRV ${NAME} at ${SERVER}: the server returned ${rcode}`)
          assert.equal(resolver.lastError, error)
          return true
        })
        assert.equal(count(), i)
        clock.set(clock.now() + 1_000)
      }
    })
  }

  it('rejects with the error of the client', async () => {
    const { resolve, resolver } = start({ [SRV]: NO_RESPONSE })
    await assert.rejects(resolve(), (error) => error === NO_RESPONSE)
    assert.equal(resolver.lastError, NO_RESPONSE)
  })

  it('uses the last response after a failure, and asks again after 100 ms', async () => {
    for (const reply of [NO_RESPONSE, { rcode: 'SERVFAIL' }]) {
      const { clock, dns, resolve, resolver, count } = start({ [SRV]: { answers: [srv('n1')] } })
      const list = await resolve()
      clock.set(clock.now() + 60_000)
      dns.zone = { [SRV]: reply }
      assert.equal(await resolve(), list)
      assert.equal(count(), 2)
      assert.ok(resolver.lastError instanceof DnsError)
      clock.set(clock.now() + 100)
      dns.zone = { [SRV]: { answers: [srv('n2')] } }
      assert.deepEqual(addressesOf(await resolve()), ['n2 6379'])
      assert.equal(resolver.lastError, undefined)
    }
  })

  it('ends the wait of a single caller by its signal', async () => {
    const { dns, resolve } = start({ [SRV]: { answers: [srv('n1')] } })
    dns.hold()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(resolve({ signal: controller.signal }), (error) => error === reason)
    const resolving = resolve()
    await settle()
    controller.abort(reason)
    await rejected
    await dns.release()
    assert.deepEqual(addressesOf(await resolving), ['n1 6379'])
  })

  it('is empty before the first response, and after the name is removed', async () => {
    const { clock, dns, resolve, resolver } = start({ [SRV]: { answers: [srv('n1')] } })
    assert.equal(resolver.isEmpty, true)
    await resolve()
    assert.equal(resolver.isEmpty, false)
    clock.set(clock.now() + 60_000)
    dns.zone = { [SRV]: { rcode: 'NXDOMAIN' } }
    await refusal(resolve())
    assert.equal(resolver.isEmpty, true)
  })

  it('aborts all questions on close()', async () => {
    for (const answers of [[], [srv('n1'), srv('n2')]]) {
      const { dns, resolve, resolver } = start({ [SRV]: { answers } })
      if (answers.length === 0) dns.hold()
      const rejected = assert.rejects(resolve(), ClosedError)
      if (answers.length > 0) {
        while (dns.questions.length < 2) {
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
