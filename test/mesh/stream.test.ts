import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type Socket, createServer } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type TestContext, describe, it } from 'node:test'
import type { MeshStream, Service } from '../../src/index.js'
import { dialLocal, pump } from '../../src/proxy.js'
import { offer, readAll, rejection, startMesh, type TestMesh, until } from '../fixtures/mesh.js'

interface Serving extends TestMesh {
  readonly web: Service
  readonly api: Service
}

/** A service `api` that echoes, and a service `web`. */
async function echoing(t: TestContext): Promise<Serving> {
  const mesh = await startMesh(t)
  const api = mesh.join('api')
  await offer(api, (socket) => socket.pipe(socket))
  return { ...mesh, api, web: mesh.join('web') }
}

async function failure(stream: MeshStream): Promise<Error & { code?: string }> {
  return ((await once(stream, 'error')) as [Error])[0]
}

describe('stream', () => {
  it('costs nothing until it is used', async (t) => {
    const { agent, api, web } = await echoing(t)
    await web.ready()
    const before = agent.requestCount(/^GET \/v1\/health/)
    const stream = web.stream('api')
    stream.setNoDelay(true).setKeepAlive(true, 1_000).setTimeout(60_000).unref().ref()
    assert.equal(stream.readyState, 'closed')
    assert.equal(stream.pending, true)
    assert.equal(stream.peer, undefined)
    await new Promise(setImmediate)
    assert.equal(agent.requestCount(/^GET \/v1\/health/), before)
    assert.equal(api.stats().connections, 0)
    stream.destroy()
    await once(stream, 'close')
  })

  for (const [what, use] of [
    ['connect', (stream) => stream.connect(5432, 'ignored')],
    ['a write', (stream) => stream.write('x')],
    ['a reader', (stream) => stream.resume()],
  ] as const satisfies readonly [string, (stream: MeshStream) => unknown][]) {
    it(`dials with ${what}`, async (t) => {
      const { web } = await echoing(t)
      const stream = web.stream('api')
      use(stream)
      // A reader is asked for on the next tick.
      await new Promise((resolve) => {
        process.nextTick(resolve)
      })
      assert.equal(stream.connecting, true)
      assert.equal(stream.readyState, 'opening')
      await once(stream, 'connect')
      assert.equal(stream.readyState, 'open')
      assert.equal(stream.peer?.service, 'api')
      assert.equal(stream.remoteAddress, '127.0.0.1')
      assert.ok((stream.remotePort ?? 0) > 0)
      stream.destroy()
    })
  }

  it('calls back on connect, as net.Socket does', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api')
    await new Promise<void>((resolve) => stream.connect(1, 'host', resolve))
    stream.connect(1, 'host')
    stream.write('hello')
    assert.equal(String((await once(stream, 'data'))[0]), 'hello')
    assert.equal(stream.bytesRead, 5)
    stream.end()
    await once(stream, 'close')
  })

  it('carries what was written before it was connected, in order, and ends', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api', { allowHalfOpen: true })
    for (let i = 0; i < 100; i += 1) stream.write(`${i},`)
    stream.end('end')
    assert.equal(await readAll(stream), `${Array.from({ length: 100 }, (_, i) => i).join()},end`)
  })

  it('carries much with backpressure, both ways', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api', { allowHalfOpen: true })
    const chunk = Buffer.alloc(100_000, 'x')
    let received = 0
    let most = 0
    stream.on('data', (data: Buffer) => (received += data.length))
    for (let i = 0; i < 300; i += 1) {
      if (!stream.write(chunk)) await once(stream, 'drain')
      most = Math.max(most, stream.writableLength)
    }
    stream.end()
    await once(stream, 'end')
    assert.equal(received, 30_000_000)
    assert.ok(most <= 200_000, `${most} bytes buffered`)
  })

  it('holds no more than its mark for a reader that is slow', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    await offer(api, (socket) => {
      const more = (): void => {
        while (socket.write(Buffer.alloc(65_536)));
      }
      socket.on('drain', more)
      more()
    })
    const stream = mesh.join('web').stream('api')
    await once(stream, 'readable')
    const full = await until(
      'the far side waits',
      () => stream.readableLength >= stream.readableHighWaterMark,
    )
    assert.equal(full, true)
    assert.ok(stream.readableLength < 512 * 1024, `${stream.readableLength} bytes buffered`)
    stream.destroy()
  })

  it('sends all that it holds when the other end has ended, and ends then', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    const received = new Promise<number>((resolve) => {
      void offer(api, (socket) => {
        let bytes = 0
        // It says goodbye at once, and reads on.
        socket.allowHalfOpen = true
        socket.end('bye')
        socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
        socket.on('end', () => {
          resolve(bytes)
        })
      })
    })
    const web = mesh.join('web')
    await until('api is there', () => web.resolve('api').then((found) => found.length === 1))
    const stream = web.stream('api')
    const finished = once(stream, 'finish')
    for (let i = 0; i < 64; i += 1) stream.write(Buffer.alloc(1 << 20))
    stream.resume()
    await finished
    assert.equal(await received, 64 << 20)
  })

  it('ends what is written to it when it is cut half-open', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    await offer(api, (socket) => {
      socket.allowHalfOpen = true
      socket.end('bye')
    })
    const web = mesh.join('web')
    const stream = web.stream('api', { allowHalfOpen: true })
    await once(stream.resume(), 'end')
    const closed = once(stream, 'close')
    stream.on('error', () => undefined)
    const written = new Promise((resolve) => stream.write(Buffer.alloc(64 << 20), resolve))
    await web.close({ drainTimeoutMs: 1 })
    assert.ok((await written) instanceof Error)
    await closed
  })

  it('lets nobody believe that all was sent when it is cut', async (t) => {
    const mesh = await startMesh(t)
    await offer(mesh.join('api'), (socket) => socket.pause())
    const web = mesh.join('web')
    const stream = web.stream('api')
    const piped = rejection(pipeline(Readable.from([Buffer.alloc(64 << 20)]), stream))
    await once(stream, 'connect')
    await web.close({ drainTimeoutMs: 1 })
    await piped
  })

  it('ends when the other end does', async (t) => {
    const mesh = await startMesh(t)
    await offer(mesh.join('api'), (socket) => socket.end('bye'))
    const stream = mesh.join('web').stream('api')
    assert.equal(await readAll(stream), 'bye')
    assert.equal(stream.writable, false)
  })

  it('tells of silence', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api').setTimeout(50)
    stream.connect()
    await once(stream, 'timeout')
    stream.destroy()
  })

  it('waits for a timeout that is longer than the longest timer of Node.js', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api').setTimeout(2 ** 31, () => assert.fail('timed out'))
    await once(stream.connect(), 'connect')
    stream.destroy()
  })

  it('fails with the dial', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('nobody').connect()
    const error = await failure(stream)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(stream.destroyed, true)
  })

  it('tells those who have written that nothing of it went', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('nobody')
    const failed = failure(stream)
    const error = await new Promise<Error | null | undefined>((resolve) => stream.write('x', resolve))
    assert.equal((error as { code?: string } | undefined)?.code, 'ERR_CONNECT_NO_INSTANCES')
    await failed
  })

  it('fails when the upstream refuses us', async (t) => {
    const { agent, web } = await echoing(t)
    agent.setIntention('web', 'api', 'deny')
    assert.equal((await failure(web.stream('api').connect())).code, 'ERR_CONNECT_REJECTED')
  })

  it('fails after its service is closed, and with it', async (t) => {
    const { web } = await echoing(t)
    const late = web.stream('api')
    const open = web.stream('api').connect()
    await once(open, 'connect')
    const cut = once(open, 'close')
    open.on('error', () => undefined)
    await web.close({ drainTimeoutMs: 1 })
    await cut
    assert.equal((await failure(late.connect())).code, 'ERR_CONNECT_CLOSED')
    const error = await failure(web.stream('api').connect())
    assert.equal(error.code, 'ERR_CONNECT_CLOSED')
  })

  it('gives up a dial when it is destroyed, or its signal says so', async (t) => {
    const { join } = await startMesh(t)
    // An instance that takes connections and says nothing.
    const silent = createServer(() => undefined).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    t.after(() => silent.close())
    const address = `127.0.0.1:${(silent.address() as { port: number }).port}`
    const web = join('web')
    await web.ready()
    const connected = once(silent, 'connection')
    const stream = web.stream({ address, service: 'api' }).connect()
    const [socket] = (await connected) as [Socket]
    const gone = once(socket.resume(), 'close')
    stream.destroy()
    await gone
    const stop = new AbortController()
    const other = web.stream({ address, service: 'api' }, { signal: stop.signal }).connect()
    stop.abort()
    assert.equal((await failure(other)).code, 'ERR_CONNECT_ABORTED')
  })

  it('breaks when the connection does', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    await offer(api, (socket) => {
      socket.write('hello')
      socket.once('data', () => socket.destroy())
    })
    const stream = mesh.join('web').stream('api').connect()
    assert.equal(String((await once(stream, 'data'))[0]), 'hello')
    const broken = rejection(once(stream, 'close'))
    stream.write('x')
    assert.equal((await broken).code, 'ECONNRESET')
    assert.equal(stream.destroyed, true)
  })

  it('agrees on a protocol', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    const listener = await api.listen(
      { port: 0, host: '127.0.0.1', alpnProtocols: ['echo/2', 'echo/1'] },
      (socket) => socket.end(String(socket.alpnProtocol)),
    )
    await api.register({ port: (listener.address() as { port: number }).port, address: '127.0.0.1' })
    const web = mesh.join('web')
    assert.equal(await readAll(web.stream('api', { alpnProtocols: ['echo/1'] })), 'echo/1')
    const socket = await web.dial('api', { alpnProtocols: ['echo/1', 'echo/2'] })
    assert.equal(socket.alpnProtocol, 'echo/2')
    assert.equal(await readAll(socket), 'echo/2')
    const error = await rejection(web.dial('api', { alpnProtocols: ['other'] }))
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
  })

  it('can be pumped like any socket', async (t) => {
    const { web } = await echoing(t)
    const server = createServer({ allowHalfOpen: true }, (socket) => socket.end('local'))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const local = await dialLocal({ host: '127.0.0.1', port: (server.address() as { port: number }).port })
    const { sent, received } = await pump(web.stream('api', { allowHalfOpen: true }), local)
    assert.deepEqual([sent, received].sort(), [5, 5].sort())
  })

  for (const [upstream, options] of [
    ['', {}],
    [{ service: 'a', query: 'b' }, {}],
    ['api', { timeoutMs: -1 }],
    ['api', { alpnProtocols: [] }],
    ['api', { alpnProtocols: ['x'.repeat(256)] }],
    ['api', { port: 1 }],
  ] as const) {
    it(`refuses ${JSON.stringify(upstream)} with ${JSON.stringify(options).slice(0, 40)} at once`, async (t) => {
      const { join } = await startMesh(t)
      assert.throws(() => join('web').stream(upstream, options as never), {
        code: 'ERR_CONNECT_OPTION',
      })
    })
  }
})
