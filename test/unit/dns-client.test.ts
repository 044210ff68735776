import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { getEventListeners, once } from 'node:events'
import type { Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { type TestContext, describe, it } from 'node:test'
import { type Answer, TRUNCATED_RESPONSE, encode } from 'dns-packet'
import { DnsClient } from '../../src/agent/dns/client.js'
import type { DnsMessage } from '../../src/agent/dns/message.js'
import { AbortError, DnsError, TimeoutError } from '../../src/base/errors.js'
import { type DnsQuery, answerTo, startDnsServer, withLength } from '../fixtures/dns-server.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const NAME = 'redis.connect.consul'
const record = (target: string): Answer => ({
  type: 'SRV',
  name: NAME,
  ttl: 0,
  data: { priority: 1, weight: 1, port: 6379, target },
})
const [GOOD, FORGED] = [{ answers: [record('good')] }, { answers: [record('forged')] }]

/** Responds to each query with these contents. */
const respond =
  (contents?: Parameters<typeof answerTo>[1]) =>
  (query: DnsQuery): void => {
    query.reply(answerTo(query, contents))
  }

async function start(
  t: TestContext,
  answer: (query: DnsQuery, nth: number) => void,
  options: Parameters<typeof startDnsServer>[2] = {},
) {
  const server = await startDnsServer(t, answer, options)
  const clock = new FakeClock()
  const client = new DnsClient(server, clock)
  return {
    server,
    clock,
    client,
    query: (signal = new AbortController().signal) => client.query(NAME, 'SRV', signal),
    serverAddress: server.host.includes(':')
      ? `[${server.host}]:${server.port}`
      : `${server.host}:${server.port}`,
  }
}

function targets({ answers }: DnsMessage): unknown[] {
  return answers.map((answer) => (answer.type === 'SRV' ? answer.data.target : answer))
}

async function failure(promise: Promise<unknown>): Promise<DnsError & { cause?: Error }> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof DnsError, String(error))
  assert.equal(error.code, 'ERR_CONNECT_DNS')
  assert.equal(error.question, `SRV ${NAME}`)
  return error as DnsError & { cause?: Error }
}

/** The number of open sockets in this process. */
async function openSockets(): Promise<number> {
  // A closed handle is removed in a later turn.
  for (let i = 0; i < 3; i += 1) await settle()
  return process.getActiveResourcesInfo().filter((kind) => kind === 'UDPWrap' || kind === 'TCPSocketWrap')
    .length
}

describe('DnsClient over UDP', () => {
  it('sends one question, and returns the response', async (t) => {
    const { server, clock, query } = await start(t, respond(GOOD))
    const { signal } = new AbortController()
    const before = await openSockets()
    assert.deepEqual(targets(await query(signal)), ['good'])
    assert.deepEqual(
      server.queries.map(({ over, packet }) => [over, packet.type, packet.flag_rd, packet.questions]),
      [['udp', 'query', true, [{ name: NAME, type: 'SRV', class: 'IN' }]]],
    )
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    assert.equal(await openSockets(), before)
  })

  it('sends the type of the question', async (t) => {
    const { server, client } = await start(t, respond())
    for (const type of ['A', 'AAAA'] as const)
      await client.query('n1.node.consul', type, new AbortController().signal)
    assert.deepEqual(
      server.queries.map(({ packet }) => packet.questions),
      ['A', 'AAAA'].map((type) => [{ name: 'n1.node.consul', type, class: 'IN' }]),
    )
  })

  it('resolves with a response that has an error code', async (t) => {
    const { query } = await start(t, respond({ rcode: 3 }))
    assert.equal((await query()).rcode, 'NXDOMAIN')
  })

  it('receives a response of up to 4096 bytes', async (t) => {
    const answers = Array.from({ length: 60 }, (_, i) => record(`n${i}.node.consul`))
    const { server, query } = await start(t, (received) => {
      const message = answerTo(received, { answers })
      assert.ok(message.length > 3_000 && message.length <= 4_096, `${message.length} bytes`)
      received.reply(message)
    })
    assert.equal((await query()).answers.length, 60)
    assert.equal(server.queries.length, 1)
  })

  it('sends parallel questions from different ports with different IDs, and matches the responses', async (t) => {
    const waiting: DnsQuery[] = []
    const { server, client } = await start(t, (received) => {
      waiting.push(received)
    })
    const names = Array.from({ length: 20 }, (_, i) => `s${i}.connect.consul`)
    const answers = names.map((name) => client.query(name, 'SRV', new AbortController().signal))
    await server.arrived(20)
    for (const received of waiting.reverse()) {
      const { name } = received.packet.questions![0]!
      received.reply(answerTo(received, { answers: [{ ...record(`at.${name}`), name }] }))
    }
    assert.deepEqual(
      (await Promise.all(answers)).flatMap(targets),
      names.map((name) => `at.${name}`),
    )
    assert.equal(new Set(server.queries.map(({ port }) => port)).size, 20)
    assert.ok(new Set(server.queries.map(({ packet }) => packet.id)).size > 15)
  })

  it('repeats a question after 500 ms and after 1 s more', async (t) => {
    const { server, clock, query } = await start(t, (received, nth) => {
      if (nth === 3) received.reply(answerTo(received, GOOD))
    })
    const answer = query()
    await server.arrived(1)
    assert.deepEqual(clock.delays, [500])
    await clock.advance(499)
    assert.equal(server.queries.length, 1)
    await clock.advance(1)
    await server.arrived(2)
    assert.deepEqual(clock.delays, [1_000])
    await clock.advance(1_000)
    await server.arrived(3)
    assert.deepEqual(clock.delays, [2_000])
    assert.deepEqual(targets(await answer), ['good'])
    assert.equal(clock.pending, 0)
    // A late response to an earlier datagram is valid.
    assert.equal(new Set(server.queries.map(({ packet }) => packet.id)).size, 1)
  })

  it('rejects after three tries', async (t) => {
    const { server, clock, query, serverAddress } = await start(t, () => undefined)
    const before = await openSockets()
    const failed = failure(query())
    for (const [i, ms] of [500, 1_000, 2_000].entries()) {
      await server.arrived(i + 1)
      await clock.advance(ms)
    }
    const { message, server: address, cause } = await failed
    assert.equal(message, `DNS SRV ${NAME} at ${serverAddress}: no valid response in 3 tries`)
    assert.deepEqual([address, cause], [serverAddress, undefined])
    assert.deepEqual([server.queries.length, clock.pending], [3, 0])
    assert.equal(await openSockets(), before)
  })

  const withAnotherId = (query: DnsQuery): Buffer =>
    answerTo({ ...query, packet: { ...query.packet, id: query.packet.id! ^ 1 } }, FORGED)
  const invalid: [rule: string, message: (query: DnsQuery) => Buffer][] = [
    ['another ID', withAnotherId],
    [
      'another question',
      ({ packet }) => {
        const questions = [{ name: 'other.connect.consul', type: 'SRV' as const }]
        return encode({ type: 'response', id: packet.id, questions, ...FORGED })
      },
    ],
    ['the question', ({ packet }) => encode({ ...packet, type: 'query' })],
    ['no bytes', () => Buffer.alloc(0)],
    ['garbage', () => Buffer.alloc(100, 0xff)],
  ]
  for (const [rule, message] of invalid) {
    it(`ignores a datagram with ${rule}, and accepts a valid one after it`, async (t) => {
      const { server, query } = await start(t, (received) => {
        received.reply(message(received))
        received.reply(message(received))
        received.reply(answerTo(received, GOOD))
      })
      assert.deepEqual(targets(await query()), ['good'])
      assert.equal(server.queries.length, 1)
    })
  }

  it('reports the last invalid datagram as the cause', async (t) => {
    const { server, clock, query } = await start(t, (received, nth) => {
      if (nth === 1) received.reply(withAnotherId(received))
    })
    const failed = failure(query())
    await server.arrived(1)
    await datagramsArrived(t)
    for (const [i, ms] of [500, 1_000, 2_000].entries()) {
      await server.arrived(i + 1)
      await clock.advance(ms)
    }
    assert.match((await failed).cause!.message, /its ID differs/)
  })

  it('ignores a datagram from another port, also with the right ID and question', async (t) => {
    const forger = createSocket('udp4')
    t.after(() => forger.close())
    const { query } = await start(t, (received) => {
      forger.send(answerTo(received, FORGED), received.port, '127.0.0.1', () => {
        received.reply(answerTo(received, GOOD))
      })
    })
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('rejects without another try if no server listens', async () => {
    const socket = createSocket('udp4')
    socket.bind(0, '127.0.0.1')
    await once(socket, 'listening')
    const { port } = socket.address()
    socket.close()
    await once(socket, 'close')
    const clock = new FakeClock()
    const before = await openSockets()
    const client = new DnsClient({ host: '127.0.0.1', port }, clock)
    const { message, cause, server } = await failure(client.query(NAME, 'SRV', new AbortController().signal))
    assert.equal((cause as NodeJS.ErrnoException).code, 'ECONNREFUSED')
    assert.match(message, /: no response: .*ECONNREFUSED/)
    assert.equal(server, `127.0.0.1:${port}`)
    assert.equal(clock.pending, 0)
    assert.equal(await openSockets(), before)
  })

  it('rejects without another try if the datagram cannot be sent', async (t) => {
    const [clock, controller] = [new FakeClock(), new AbortController()]
    t.after(() => {
      controller.abort()
    })
    // Sending to the broadcast address requires SO_BROADCAST.
    const client = new DnsClient({ host: '255.255.255.255', port: 53 }, clock)
    const { message, cause } = await failure(client.query(NAME, 'SRV', controller.signal))
    assert.match(message, /: no response: /)
    assert.match((cause as NodeJS.ErrnoException).code!, /^E[A-Z]+$/)
    assert.equal(clock.pending, 0)
  })

  it('rejects if the host is invalid', async () => {
    const clock = new FakeClock()
    const client = new DnsClient({ host: '..', port: 53 }, clock)
    const { cause } = await failure(client.query(NAME, 'SRV', new AbortController().signal))
    assert.match((cause as NodeJS.ErrnoException).code!, /^E[A-Z_]+$/)
    assert.equal(clock.pending, 0)
  })

  it('accepts a host name, and tries its next address after a failure', async (t) => {
    const server = await startDnsServer(t, respond(GOOD))
    // The hosts file may also map the name to an IPv6 address, where no server listens.
    const client = new DnsClient({ host: 'localhost', port: server.port }, new FakeClock())
    assert.deepEqual(targets(await client.query(NAME, 'SRV', new AbortController().signal)), ['good'])
  })
})

describe('DnsClient over TCP, after a truncated response', () => {
  type TcpQuery = DnsQuery & { readonly socket: Socket }

  /** Responds with a truncated message over UDP, and as the test defines over TCP. */
  function truncating(overTcp: (query: TcpQuery) => void) {
    return (query: DnsQuery): void => {
      if (query.over === 'udp') query.reply(answerTo(query, { flags: TRUNCATED_RESPONSE, ...FORGED }))
      else overTcp(query as TcpQuery)
    }
  }

  it('repeats the question, and returns the whole response', async (t) => {
    const answers = Array.from({ length: 1000 }, (_, i) => record(`n${i}.node.consul`))
    const { server, clock, query } = await start(t, truncating(respond({ answers })))
    const { signal } = new AbortController()
    const before = await openSockets()
    const message = await query(signal)
    assert.deepEqual([message.answers.length, message.isTruncated], [1000, false])
    const [udp, tcp] = server.queries
    assert.deepEqual([udp?.over, tcp?.over, server.queries.length], ['udp', 'tcp', 2])
    assert.deepEqual([tcp?.packet.id, tcp?.packet.questions], [udp?.packet.id, udp?.packet.questions])
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    await once(tcp!.socket!, 'close')
    assert.equal(await openSockets(), before)
  })

  it('accepts a response in pieces of one byte', async (t) => {
    const { query } = await start(
      t,
      truncating((received) => {
        const { socket } = received
        socket.setNoDelay(true)
        const bytes = withLength(answerTo(received, GOOD))
        const next = (at: number): void => {
          if (at < bytes.length) socket.write(bytes.subarray(at, at + 1), () => setImmediate(next, at + 1))
        }
        next(0)
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('ignores bytes after the response', async (t) => {
    const { query } = await start(
      t,
      truncating((received) => {
        received.socket.write(Buffer.concat([withLength(answerTo(received, GOOD)), Buffer.alloc(5, 0xff)]))
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('accepts a response that is followed by the end of the connection', async (t) => {
    const { query } = await start(
      t,
      truncating((received) => {
        received.socket.end(withLength(answerTo(received, GOOD)))
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  const broken: [rule: string, overTcp: (query: TcpQuery) => void, cause: RegExp][] = [
    [
      'ends within the length',
      ({ socket }) => {
        socket.end(Buffer.alloc(1))
      },
      /closed the connection before the end of its response/,
    ],
    [
      'ends within the response',
      (received) => {
        received.socket.end(withLength(answerTo(received, GOOD)).subarray(0, -1))
      },
      /closed the connection before the end of its response/,
    ],
    [
      'sends a length that is too low',
      (received) => {
        const message = answerTo(received, GOOD)
        received.socket.end(withLength(message, message.length - 10))
      },
      /./,
    ],
    [
      'sends a length of 0',
      ({ socket }) => {
        socket.write(Buffer.alloc(2))
      },
      /./,
    ],
    [
      'resets the connection',
      ({ socket }) => {
        socket.resetAndDestroy()
      },
      /ECONNRESET/,
    ],
    [
      'sends another ID',
      (received) => {
        received.reply(
          answerTo({ ...received, packet: { ...received.packet, id: received.packet.id! ^ 1 } }, GOOD),
        )
      },
      /its ID differs/,
    ],
  ]
  for (const [rule, overTcp, cause] of broken) {
    it(`rejects if the server ${rule}`, async (t) => {
      const { server, clock, query, serverAddress } = await start(t, truncating(overTcp))
      const before = await openSockets()
      const error = await failure(query())
      const opening = `DNS SRV ${NAME} at ${serverAddress}: the response is truncated over UDP, and there is none over TCP: `
      assert.ok(error.message.startsWith(opening), error.message)
      assert.match(error.cause!.message, cause)
      assert.equal(server.queries.length, 2)
      assert.equal(clock.pending, 0)
      const { socket } = server.queries[1]!
      if (!socket!.closed) await once(socket!, 'close')
      assert.equal(await openSockets(), before)
    })
  }

  it('rejects if no server listens', async (t) => {
    const { query } = await start(
      t,
      truncating(() => undefined),
      { tcp: false },
    )
    assert.equal(((await failure(query())).cause as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  })

  it('rejects after 3 s without a complete response', async (t) => {
    for (const overTcp of [
      () => undefined,
      (received: TcpQuery) =>
        void received.socket.write(withLength(answerTo(received, GOOD)).subarray(0, -1)),
    ]) {
      const { server, clock, query } = await start(t, truncating(overTcp))
      const failed = failure(query())
      await server.arrived(2)
      assert.deepEqual(clock.delays, [3_000])
      await clock.advance(3_000)
      assert.ok((await failed).cause instanceof TimeoutError)
      const { socket } = server.queries[1]!
      if (!socket!.closed) await once(socket!, 'close')
    }
  })

  it('accepts a response over TCP with the flag for truncation', async (t) => {
    const { server, query } = await start(t, truncating(respond({ flags: TRUNCATED_RESPONSE, ...GOOD })))
    assert.deepEqual(targets(await query()), ['good'])
    assert.equal(server.queries.length, 2)
  })
})

describe('DnsClient with a signal', () => {
  const reason = new Error('enough')
  const isAbort = (error: unknown): boolean => error instanceof AbortError && error.cause === reason

  it('closes the socket on abort', async (t) => {
    const { server, clock, query } = await start(t, () => undefined)
    const before = await openSockets()
    const controller = new AbortController()
    const rejected = assert.rejects(query(controller.signal), isAbort)
    await server.arrived(1)
    controller.abort(reason)
    await rejected
    assert.equal(await openSockets(), before)
    await clock.advance(10_000)
    assert.deepEqual([server.queries.length, clock.pending], [1, 0])
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
  })

  it('closes the TCP connection on abort', async (t) => {
    const { server, clock, query } = await start(t, (received) => {
      if (received.over === 'udp') received.reply(answerTo(received, { flags: TRUNCATED_RESPONSE }))
    })
    const controller = new AbortController()
    const rejected = assert.rejects(query(controller.signal), isAbort)
    await server.arrived(2)
    const closed = once(server.queries[1]!.socket!, 'close')
    controller.abort(reason)
    await rejected
    await closed
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
  })

  it('sends nothing if the signal is aborted before or during the lookup of the host', async (t) => {
    const { server, query, client } = await start(t, respond())
    await assert.rejects(query(AbortSignal.abort(reason)), isAbort)
    const controller = new AbortController()
    const rejected = assert.rejects(query(controller.signal), isAbort)
    controller.abort(reason)
    await rejected
    // An earlier datagram would have arrived before this one.
    await client.query('last', 'A', new AbortController().signal)
    assert.deepEqual(
      server.queries.map(({ packet }) => packet.questions?.[0]?.name),
      ['last'],
    )
  })
})

describe('DnsClient over IPv6', () => {
  const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === '::1'),
  )

  it('uses UDP and TCP', { skip: hasIpv6 ? false : 'no IPv6 loopback address' }, async (t) => {
    const { server, query } = await start(
      t,
      (received) => {
        received.reply(
          answerTo(received, { flags: received.over === 'udp' ? TRUNCATED_RESPONSE : 0, ...GOOD }),
        )
      },
      { host: '::1' },
    )
    assert.deepEqual(targets(await query()), ['good'])
    assert.deepEqual(
      server.queries.map(({ over }) => over),
      ['udp', 'tcp'],
    )
  })

  it('writes the address in brackets in errors', async () => {
    const client = new DnsClient({ host: '::1%nowhere0', port: 53 }, new FakeClock())
    const { server, message } = await failure(client.query(NAME, 'SRV', new AbortController().signal))
    assert.equal(server, '[::1%nowhere0]:53')
    assert.ok(message.startsWith(`DNS SRV ${NAME} at [::1%nowhere0]:53: `), message)
  })
})

/** Resolves when all datagrams that were sent on the loopback have arrived: sends another one and waits for it. */
async function datagramsArrived(t: TestContext): Promise<void> {
  const socket = createSocket('udp4')
  t.after(() => socket.close())
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  socket.send('x', socket.address().port, '127.0.0.1')
  await once(socket, 'message')
  await settle()
}
