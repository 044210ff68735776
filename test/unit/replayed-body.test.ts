import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { type TestContext, describe, it } from 'node:test'
import { Client, FormData as UndiciFormData } from 'undici'
import { ReplayedBody } from '../../src/http/routes/replayed-body.js'
import { settle } from '../fixtures/fake-clock.js'

type Body = ConstructorParameters<typeof ReplayedBody>[0]
type Chunks = AsyncGenerator<Buffer | string>

/** A body whose end is counted. */
function start(body: unknown) {
  const ends: string[] = []
  const replayed = new ReplayedBody(body as Body, () => ends.push('end'))
  return { body: replayed, ends, next: () => replayed.next() as unknown as Chunks }
}

/** A source whose chunks the test gives. */
function manualSource() {
  const events: string[] = []
  const waiting: ((result: IteratorResult<Buffer>) => void)[] = []
  const source = {
    [Symbol.asyncIterator]: () => source,
    next: () => {
      events.push('next')
      return new Promise<IteratorResult<Buffer>>((resolve) => waiting.push(resolve))
    },
    return: () => {
      events.push('return')
      return Promise.resolve({ done: true as const, value: undefined })
    },
  }
  return {
    source,
    events,
    give: async (chunk: string | undefined) => {
      const resolve = waiting.shift()
      assert.ok(resolve !== undefined, 'no chunk is wanted')
      resolve(
        chunk === undefined ? { done: true, value: undefined } : { done: false, value: Buffer.from(chunk) },
      )
      await settle()
    },
  }
}

async function join(chunks: Chunks): Promise<string> {
  const parts: Buffer[] = []
  for await (const chunk of chunks) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts).toString('latin1')
}

function* letters(): Generator<string> {
  yield 'a'
  yield 'b'
  yield 'c'
}

async function* lettersLater(): AsyncGenerator<Buffer> {
  for (const letter of letters()) {
    await settle()
    yield Buffer.from(letter)
  }
}

describe('ReplayedBody: a body that is no stream', () => {
  const bodies: [kind: string, body: unknown][] = [
    ['nothing', undefined],
    ['null', null],
    ['a string', 'text'],
    ['a Buffer', Buffer.from('text')],
    ['a Uint8Array', new Uint8Array([1, 2])],
    ['an ArrayBuffer', new ArrayBuffer(4)],
    ['a Blob', new Blob(['text'])],
    ['a FormData of Node.js', new FormData()],
    ['a FormData of undici', new UndiciFormData()],
  ]
  for (const [kind, value] of bodies) {
    it(`passes unchanged to each attempt: ${kind}`, () => {
      const { body, ends } = start(value)
      assert.deepEqual(ends, [])
      assert.equal(body.next(), value)
      assert.deepEqual(ends, ['end'])
      body.stop()
      assert.equal(body.isReplayable, true)
      assert.equal(body.next(), value)
      body.dispose()
      assert.deepEqual(ends, ['end'])
    })
  }
})

describe('ReplayedBody: a stream', () => {
  const streams: [kind: string, create: () => unknown][] = [
    ['a Readable', () => Readable.from(letters(), { objectMode: false })],
    ['an async generator', lettersLater],
    ['a generator', letters],
    ['an array', () => ['a', Buffer.from('b'), new Uint8Array([0x63])]],
    ['a web stream', () => new Blob(['abc']).stream()],
  ]
  for (const [kind, create] of streams) {
    it(`gives the same bytes to each attempt: ${kind}`, async () => {
      const { body, ends, next } = start(create())
      for (let i = 0; i < 3; i += 1) assert.equal(await join(next()), 'abc')
      assert.equal(body.isReplayable, true)
      assert.deepEqual(ends, ['end'])
    })

    it(`gives all bytes to the second attempt if the first one took only a part: ${kind}`, async () => {
      const { ends, next } = start(create())
      const first = next()
      await first.next()
      assert.deepEqual(ends, [])
      assert.equal(await join(next()), 'abc')
      assert.deepEqual(ends, ['end'])
    })
  }

  it('is not read before the first attempt takes a chunk', async () => {
    const { source, events } = manualSource()
    const { body } = start(source)
    await settle()
    const chunks = body.next() as unknown as Chunks
    await settle()
    assert.deepEqual(events, [])
    void chunks.next()
    await settle()
    assert.deepEqual(events, ['next'])
    // Nothing is read ahead.
    await settle()
    assert.deepEqual(events, ['next'])
  })

  it('gives a chunk to the second attempt for which the first one still waits', async () => {
    const { source, events, give } = manualSource()
    const { next } = start(source)
    const first = next()
    const pending = assert.rejects(first.next(), /has ended/)
    await settle()
    const second = join(next())
    await settle()
    assert.deepEqual(events, ['next'])
    await give('one ')
    await pending
    await give('two')
    await give(undefined)
    assert.equal(await second, 'one two')
    assert.deepEqual(events, ['next', 'next', 'next'])
  })

  it('gives the first attempt nothing more once it is stopped', async () => {
    const { body, next } = start(letters())
    const first = next()
    await first.next()
    body.stop()
    // It must not look like the end of the body.
    await assert.rejects(first.next(), /has ended/)
    assert.equal(await join(next()), 'abc')
  })

  it('has no end before the first attempt takes it', async () => {
    const { source, give } = manualSource()
    const { ends, next } = start(source)
    const whole = join(next())
    await settle()
    await give('a')
    assert.deepEqual(ends, [])
    await give(undefined)
    assert.deepEqual(ends, ['end'])
    assert.equal(await whole, 'a')
  })
})

describe('ReplayedBody: a long stream', () => {
  const MIB = 1_048_576

  it('of 1 MiB is replayable', async () => {
    const { body, next } = start([Buffer.alloc(MIB - 1, 'a'), 'b'])
    const whole = await join(next())
    assert.equal(whole.length, MIB)
    assert.equal(body.isReplayable, true)
    assert.equal(await join(next()), whole)
  })

  it('of more is not, and the first attempt gets all of it', async () => {
    const parts = ['a'.repeat(MIB), 'b', 'c'.repeat(MIB), 'd']
    const { body, ends, next } = start(parts)
    assert.equal(await join(next()), parts.join(''))
    assert.equal(body.isReplayable, false)
    assert.deepEqual(ends, ['end'])
    await assert.rejects(join(next()), /too long/)
  })

  it('is replayable until its length is known', async () => {
    const { body, next } = start(['a'.repeat(MIB), 'b', 'c'])
    const first = next()
    await first.next()
    assert.equal(body.isReplayable, true)
    assert.equal((await join(next())).length, MIB + 2)
    assert.equal(body.isReplayable, false)
  })

  it('goes to the second attempt while the first one still waits', async () => {
    const { source, give } = manualSource()
    const { next } = start(source)
    const first = next()
    await Promise.all([first.next(), settle().then(() => give('a'.repeat(MIB)))])
    const pending = assert.rejects(first.next())
    await settle()
    const second = join(next())
    // Without the end of the first attempt, the second one would lose this chunk.
    await give('b')
    await pending
    await give('c')
    await give(undefined)
    assert.equal((await second).slice(-3), 'abc')
  })

  it('in one chunk is replayable', async () => {
    const { body, next } = start(['a'.repeat(MIB + 1)])
    assert.equal((await join(next())).length, MIB + 1)
    assert.equal(body.isReplayable, true)
  })
})

describe('ReplayedBody: a source that fails', () => {
  it('fails the attempt with its error after the chunks before it, and is not replayable', async () => {
    const problem = new Error('disk')
    const { body, ends, next } = start(
      (function* () {
        yield 'a'
        throw problem
      })(),
    )
    const chunks = next()
    assert.equal((await chunks.next()).value, 'a')
    await assert.rejects(chunks.next(), problem)
    assert.equal(body.isReplayable, false)
    assert.deepEqual(ends, ['end'])
  })

  it('fails the attempt that waits', async () => {
    const problem = new Error('disk')
    const source = new Readable({ read: () => undefined })
    const { next } = start(source)
    const pending = assert.rejects(join(next()), problem)
    await settle()
    source.destroy(problem)
    await pending
  })

  it('before the first attempt fails that attempt, and not the process', async () => {
    const problem = new Error('disk')
    const source = new Readable({ read: () => undefined })
    const { next } = start(source)
    source.destroy(problem)
    await settle()
    await assert.rejects(join(next()), problem)
  })
})

describe('ReplayedBody: dispose', () => {
  it('ends a generator whose chunks were taken in part', async () => {
    let isEnded = false
    const { body, next } = start(
      (function* () {
        try {
          yield* letters()
        } finally {
          isEnded = true
        }
      })(),
    )
    await next().next()
    body.dispose()
    assert.equal(isEnded, true)
  })

  it('ends a source once, and not one that has ended', async () => {
    for (const isWhole of [false, true]) {
      const { source, events, give } = manualSource()
      const { body, next } = start(source)
      const result = next().next()
      result.catch(() => undefined)
      await settle()
      await give(isWhole ? undefined : 'a')
      body.dispose()
      body.dispose()
      assert.deepEqual(
        events.filter((event) => event === 'return'),
        isWhole ? [] : ['return'],
      )
    }
  })

  const moments: [moment: string, begin: (chunks: Chunks) => unknown][] = [
    ['before its first chunk is taken', () => undefined],
    ['while a chunk is awaited', (chunks) => chunks.next().catch(() => undefined)],
  ]
  for (const [moment, begin] of moments) {
    it(`destroys a Readable ${moment}`, async () => {
      const source = new Readable({ read: () => undefined })
      const { body, next } = start(source)
      begin(next())
      await settle()
      body.dispose()
      assert.equal(source.destroyed, true)
      await settle()
    })
  }

  it('does not touch a source that no attempt has asked for', async () => {
    const { source, events } = manualSource()
    start(source).body.dispose()
    const stream = new Readable({ read: () => undefined })
    start(stream).body.dispose()
    await settle()
    assert.deepEqual([events, stream.destroyed], [[], false])
    stream.destroy()
  })

  it('fails an attempt that still reads: a part must not look complete', async () => {
    const { body, next } = start(letters())
    const chunks = next()
    await chunks.next()
    body.dispose()
    await assert.rejects(chunks.next())
  })

  it('ignores an error of the source', async () => {
    const failures = [
      () => Promise.reject(new Error('no')),
      () => {
        throw new Error('no')
      },
    ]
    for (const fail of failures) {
      const source = {
        [Symbol.asyncIterator]: () => source,
        next: () => Promise.resolve({ done: false, value: 'a' }),
        return: fail,
      }
      const { body, next } = start(source)
      await next().next()
      body.dispose()
      await settle()
    }
  })

  it('does not report the end of the body', async () => {
    const { body, ends, next } = start(letters())
    await next().next()
    body.dispose()
    assert.deepEqual(ends, [])
  })
})

describe('ReplayedBody: undici', () => {
  async function receiver(t: TestContext) {
    const bodies: string[] = []
    const server = createServer((request, response) => {
      void text(request).then((body) => {
        bodies.push(body)
        response.end()
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = new Client(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    t.after(async () => {
      await client.destroy()
      server.close()
    })
    return { bodies, client }
  }

  it('sends each kind of body twice', async (t) => {
    const { bodies, client } = await receiver(t)
    const form = new UndiciFormData()
    form.append('field', 'value')
    const cases: [body: unknown, expected: RegExp][] = [
      ['text', /^text$/],
      [Buffer.from('text'), /^text$/],
      [new Blob(['text']), /^text$/],
      [form, /name="field"\r\n\r\nvalue\r\n/],
      [Readable.from(['te', 'xt']), /^text$/],
      [lettersLater(), /^abc$/],
      [letters(), /^abc$/],
    ]
    for (const [value, expected] of cases) {
      const { body } = start(value)
      for (let i = 0; i < 2; i += 1) {
        const response = await client.request({ path: '/', method: 'POST', body: body.next() ?? null })
        await response.body.dump()
        assert.match(bodies.pop() ?? '', expected)
      }
    }
  })
})
