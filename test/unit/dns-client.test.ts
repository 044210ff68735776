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
    where: server.host.includes(':') ? `[${server.host}]:${server.port}` : `${server.host}:${server.port}`,
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

/** How many sockets there are that a client may have left. */
async function openSockets(): Promise<number> {
  // A handle is gone in the turn after it was closed.
  for (let i = 0; i < 3; i += 1) await settle()
  return process.getActiveResourcesInfo().filter((kind) => kind === 'UDPWrap' || kind === 'TCPSocketWrap')
    .length
}

describe('DnsClient: over UDP', () => {
  it('asks once, and gives the answer', async (t) => {
    const { server, clock, query } = await start(t, (asked) => {
      asked.reply(answerTo(asked, GOOD))
    })
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

  it('asks for the type that is wanted', async (t) => {
    const { server, client } = await start(t, (asked) => {
      asked.reply(answerTo(asked))
    })
    for (const type of ['A', 'AAAA'] as const)
      await client.query('n1.node.consul', type, new AbortController().signal)
    assert.deepEqual(
      server.queries.map(({ packet }) => packet.questions),
      ['A', 'AAAA'].map((type) => [{ name: 'n1.node.consul', type, class: 'IN' }]),
    )
  })

  it('an answer that there is no such name is an answer, and so is a refusal', async (t) => {
    for (const [rcode, name] of [
      [3, 'NXDOMAIN'],
      [2, 'SERVFAIL'],
      [5, 'REFUSED'],
    ] as const) {
      const { query } = await start(t, (asked) => {
        asked.reply(answerTo(asked, { rcode }))
      })
      assert.equal((await query()).rcode, name)
    }
  })

  it('takes a datagram that is as big as it said it could take', async (t) => {
    const answers = Array.from({ length: 60 }, (_, i) => record(`n${i}.node.consul`))
    const { server, query } = await start(t, (asked) => {
      const message = answerTo(asked, { answers })
      assert.ok(message.length > 3_000 && message.length <= 4_096, `${message.length} bytes`)
      asked.reply(message)
    })
    assert.equal((await query()).answers.length, 60)
    assert.equal(server.queries.length, 1)
  })

  it('many questions at once, each with its own answer, from its own port, under its own id', async (t) => {
    const waiting: DnsQuery[] = []
    const { server, client } = await start(t, (asked) => {
      waiting.push(asked)
    })
    const names = Array.from({ length: 20 }, (_, i) => `s${i}.connect.consul`)
    const answers = names.map((name) => client.query(name, 'SRV', new AbortController().signal))
    await server.arrived(20)
    for (const asked of waiting.reverse()) {
      const { name } = asked.packet.questions![0]!
      asked.reply(answerTo(asked, { answers: [{ ...record(`at.${name}`), name }] }))
    }
    assert.deepEqual(
      (await Promise.all(answers)).flatMap(targets),
      names.map((name) => `at.${name}`),
    )
    assert.equal(new Set(server.queries.map(({ port }) => port)).size, 20)
    assert.ok(new Set(server.queries.map(({ packet }) => packet.id)).size > 15)
  })

  it('asks again when a datagram was lost: after 500 ms, and after 1 s', async (t) => {
    const { server, clock, query } = await start(t, (asked, nth) => {
      if (nth === 3) asked.reply(answerTo(asked, GOOD))
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
    // The same question: an answer to any of the three would do.
    assert.equal(new Set(server.queries.map(({ packet }) => packet.id)).size, 1)
  })

  it('gives up after three tries', async (t) => {
    const { server, clock, query, where } = await start(t, () => undefined)
    const before = await openSockets()
    const failed = failure(query())
    for (const [i, ms] of [500, 1_000, 2_000].entries()) {
      await server.arrived(i + 1)
      await clock.advance(ms)
    }
    const { message, server: told, cause } = await failed
    assert.equal(message, `DNS SRV ${NAME} at ${where}: no valid response in 3 tries`)
    assert.deepEqual([told, cause], [where, undefined])
    assert.deepEqual([server.queries.length, clock.pending], [3, 0])
    assert.equal(await openSockets(), before)
  })

  const wrong: [rule: string, message: (asked: DnsQuery) => Buffer, problem: RegExp][] = [
    [
      'another id',
      (asked) => answerTo({ ...asked, packet: { ...asked.packet, id: asked.packet.id! ^ 1 } }, FORGED),
      /its ID differs/,
    ],
    [
      'another question',
      (asked) => {
        const questions = [{ name: 'other.connect.consul', type: 'SRV' as const }]
        return encode({ type: 'response', id: asked.packet.id, questions, ...FORGED })
      },
      /answers another question/,
    ],
    ['our own question', (asked) => encode({ ...asked.packet, type: 'query' }), /not a response/],
    ['nothing', () => Buffer.alloc(0), /./],
    ['garbage', () => Buffer.alloc(100, 0xff), /./],
  ]
  for (const [rule, message, problem] of wrong) {
    it(`a datagram with ${rule} is not the end: the right one comes after it`, async (t) => {
      const { server, query } = await start(t, (asked) => {
        asked.reply(message(asked))
        asked.reply(message(asked))
        asked.reply(answerTo(asked, GOOD))
      })
      assert.deepEqual(targets(await query()), ['good'])
      assert.equal(server.queries.length, 1)
    })

    it(`nothing but datagrams with ${rule}: the last of them is the cause`, async (t) => {
      const { server, clock, query } = await start(t, (asked, nth) => {
        if (nth === 1) asked.reply(message(asked))
      })
      // The datagram is on its way; it is there when one that was sent after it is.
      const failed = failure(query())
      await server.arrived(1)
      await heard(t)
      for (const [i, ms] of [500, 1_000, 2_000].entries()) {
        await server.arrived(i + 1)
        await clock.advance(ms)
      }
      assert.match((await failed).cause!.message, problem)
    })
  }

  it('takes nothing from anybody else, though it has id and question right', async (t) => {
    const forger = createSocket('udp4')
    t.after(() => forger.close())
    const { query } = await start(t, (asked) => {
      forger.send(answerTo(asked, FORGED), asked.port, '127.0.0.1', () => {
        asked.reply(answerTo(asked, GOOD))
      })
    })
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('nobody listens: it is told at once, and not asked again', async () => {
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

  it('a network that does not take the datagram: it is told at once', async (t) => {
    const [clock, controller] = [new FakeClock(), new AbortController()]
    t.after(() => {
      controller.abort()
    })
    // A broadcast address is refused to whoever has not asked for the right to it.
    const client = new DnsClient({ host: '255.255.255.255', port: 53 }, clock)
    const { message, cause } = await failure(client.query(NAME, 'SRV', controller.signal))
    assert.match(message, /: no response: /)
    assert.match((cause as NodeJS.ErrnoException).code!, /^E[A-Z]+$/)
    assert.equal(clock.pending, 0)
  })

  it('a host that is none: it is told at once', async () => {
    const clock = new FakeClock()
    const client = new DnsClient({ host: '..', port: 53 }, clock)
    const { cause } = await failure(client.query(NAME, 'SRV', new AbortController().signal))
    assert.match((cause as NodeJS.ErrnoException).code!, /^E[A-Z_]+$/)
    assert.equal(clock.pending, 0)
  })

  it('a host by its name', async (t) => {
    const server = await startDnsServer(t, (asked) => {
      asked.reply(answerTo(asked, GOOD))
    })
    // The file of hosts may know an IPv6 address of that name too, where nobody listens.
    const client = new DnsClient({ host: 'localhost', port: server.port }, new FakeClock())
    assert.deepEqual(targets(await client.query(NAME, 'SRV', new AbortController().signal)), ['good'])
  })
})

describe('DnsClient: over TCP, when the answer does not fit', () => {
  /** Truncated over UDP; over TCP as the test says. */
  function truncating(overTcp: (asked: DnsQuery & { readonly socket: Socket }) => void) {
    return (asked: DnsQuery): void => {
      if (asked.over === 'udp') asked.reply(answerTo(asked, { flags: TRUNCATED_RESPONSE, ...FORGED }))
      else overTcp(asked as DnsQuery & { readonly socket: Socket })
    }
  }

  it('asks the same again, and gives the whole answer', async (t) => {
    const answers = Array.from({ length: 1000 }, (_, i) => record(`n${i}.node.consul`))
    const { server, clock, query } = await start(
      t,
      truncating((asked) => {
        asked.reply(answerTo(asked, { answers }))
      }),
    )
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

  it('in pieces, however small', async (t) => {
    const { query } = await start(
      t,
      truncating((asked) => {
        const { socket } = asked
        socket.setNoDelay(true)
        const bytes = withLength(answerTo(asked, GOOD))
        const next = (at: number): void => {
          if (at < bytes.length) socket.write(bytes.subarray(at, at + 1), () => setImmediate(next, at + 1))
        }
        next(0)
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('with more behind it, which is not looked at', async (t) => {
    const { query } = await start(
      t,
      truncating((asked) => {
        asked.socket.write(Buffer.concat([withLength(answerTo(asked, GOOD)), Buffer.alloc(5, 0xff)]))
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  it('and the end right behind it', async (t) => {
    const { query } = await start(
      t,
      truncating((asked) => {
        asked.socket.end(withLength(answerTo(asked, GOOD)))
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
  })

  const broken: [
    rule: string,
    overTcp: (asked: DnsQuery & { readonly socket: Socket }) => void,
    cause: RegExp,
  ][] = [
    [
      'the connection ends at once',
      ({ socket }) => {
        socket.end()
      },
      /closed the connection before the end of its response/,
    ],
    [
      'it ends within the length',
      ({ socket }) => {
        socket.end(Buffer.alloc(1))
      },
      /closed the connection before the end of its response/,
    ],
    [
      'it ends in the middle',
      (asked) => {
        asked.socket.end(withLength(answerTo(asked, GOOD)).subarray(0, -1))
      },
      /closed the connection before the end of its response/,
    ],
    [
      'the length says more than there is',
      (asked) => {
        const message = answerTo(asked, GOOD)
        asked.socket.end(withLength(message, message.length + 1))
      },
      /closed the connection before the end of its response/,
    ],
    [
      'the length says less than there is',
      (asked) => {
        const message = answerTo(asked, GOOD)
        asked.socket.end(withLength(message, message.length - 10))
      },
      /./,
    ],
    [
      'the length is 0',
      ({ socket }) => {
        socket.write(Buffer.alloc(2))
      },
      /./,
    ],
    [
      'the connection is reset',
      ({ socket }) => {
        socket.resetAndDestroy()
      },
      /ECONNRESET/,
    ],
    [
      'it answers another id',
      (asked) => {
        asked.reply(answerTo({ ...asked, packet: { ...asked.packet, id: asked.packet.id! ^ 1 } }, GOOD))
      },
      /its ID differs/,
    ],
  ]
  for (const [rule, overTcp, cause] of broken) {
    it(`${rule}: there is no answer`, async (t) => {
      const { server, clock, query, where } = await start(t, truncating(overTcp))
      const before = await openSockets()
      const error = await failure(query())
      const opening = `DNS SRV ${NAME} at ${where}: the response is truncated over UDP, and there is none over TCP: `
      assert.ok(error.message.startsWith(opening), error.message)
      assert.match(error.cause!.message, cause)
      assert.equal(server.queries.length, 2)
      assert.equal(clock.pending, 0)
      const { socket } = server.queries[1]!
      if (!socket!.closed) await once(socket!, 'close')
      assert.equal(await openSockets(), before)
    })
  }

  it('nobody listens', async (t) => {
    const { query } = await start(
      t,
      truncating(() => undefined),
      { tcp: false },
    )
    assert.equal(((await failure(query())).cause as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  })

  it('nothing comes, or not all of it: after 3 s there is no answer', async (t) => {
    for (const overTcp of [
      () => undefined,
      (asked: DnsQuery) => void asked.socket!.write(withLength(answerTo(asked, GOOD)).subarray(0, -1)),
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

  it('an answer over TCP that says that it was cut is what there is', async (t) => {
    const { server, query } = await start(
      t,
      truncating((asked) => {
        asked.reply(answerTo(asked, { flags: TRUNCATED_RESPONSE, ...GOOD }))
      }),
    )
    assert.deepEqual(targets(await query()), ['good'])
    assert.equal(server.queries.length, 2)
  })
})

describe("DnsClient: the caller's signal", () => {
  const reason = new Error('enough')
  const isAbort = (error: unknown): boolean => error instanceof AbortError && error.cause === reason

  it('ends the wait for a datagram, and closes the socket', async (t) => {
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

  it('ends the wait over TCP, and closes the connection', async (t) => {
    const { server, clock, query } = await start(t, (asked) => {
      if (asked.over === 'udp') asked.reply(answerTo(asked, { flags: TRUNCATED_RESPONSE }))
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

  it('that is aborted beforehand: nothing is asked', async (t) => {
    const { server, query, client } = await start(t, (asked) => {
      asked.reply(answerTo(asked))
    })
    await assert.rejects(query(AbortSignal.abort(reason)), isAbort)
    // Whatever had been sent before this would have arrived before it.
    await client.query('last', 'A', new AbortController().signal)
    assert.deepEqual(
      server.queries.map(({ packet }) => packet.questions?.[0]?.name),
      ['last'],
    )
  })

  it('while the host is looked up: nothing is asked', async (t) => {
    const { server, query, client } = await start(t, (asked) => {
      asked.reply(answerTo(asked))
    })
    const controller = new AbortController()
    const rejected = assert.rejects(query(controller.signal), isAbort)
    controller.abort(reason)
    await rejected
    await client.query('last', 'A', new AbortController().signal)
    assert.deepEqual(
      server.queries.map(({ packet }) => packet.questions?.[0]?.name),
      ['last'],
    )
  })
})

describe('DnsClient: IPv6', () => {
  const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === '::1'),
  )

  it('over UDP and TCP', { skip: hasIpv6 ? false : 'there is no IPv6 on the loopback' }, async (t) => {
    const { server, query } = await start(
      t,
      (asked) => {
        asked.reply(answerTo(asked, { flags: asked.over === 'udp' ? TRUNCATED_RESPONSE : 0, ...GOOD }))
      },
      { host: '::1' },
    )
    assert.deepEqual(targets(await query()), ['good'])
    assert.deepEqual(
      server.queries.map(({ over }) => over),
      ['udp', 'tcp'],
    )
  })

  it('an address of it is in brackets where its port is beside it', async () => {
    const client = new DnsClient({ host: '::1%nowhere0', port: 53 }, new FakeClock())
    const { server, message } = await failure(client.query(NAME, 'SRV', new AbortController().signal))
    assert.equal(server, '[::1%nowhere0]:53')
    assert.ok(message.startsWith(`DNS SRV ${NAME} at [::1%nowhere0]:53: `), message)
  })
})

/** Resolves when a datagram that is sent now has arrived: all that were sent before it on the loopback have, too. */
async function heard(t: TestContext): Promise<void> {
  const socket = createSocket('udp4')
  t.after(() => socket.close())
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  socket.send('x', socket.address().port, '127.0.0.1')
  await once(socket, 'message')
  await settle()
}
