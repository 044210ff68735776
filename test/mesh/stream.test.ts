import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type TestContext, describe, it } from 'node:test'
import type { MeshStream, Service } from '../../src/index.js'
import { dialLocal, pump } from '../../src/proxy.js'
import { type TestMesh, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { startTcpServer } from './tcp-server.js'

interface Serving extends TestMesh {
  readonly web: Service
  readonly api: Service
}

/** Starts a service `api` that echoes, and a service `web`. */
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
  it('sends no request before it is used', async (t) => {
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

  for (const [trigger, use] of [
    ['connect', (stream) => stream.connect(5432, 'ignored')],
    ['a write', (stream) => stream.write('x')],
    ['a reader', (stream) => stream.resume()],
  ] as const satisfies readonly [string, (stream: MeshStream) => unknown][]) {
    it(`dials with ${trigger}`, async (t) => {
      const { web } = await echoing(t)
      const stream = web.stream('api')
      use(stream)
      // A readable stream calls its read() in the next tick.
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

  it('calls the callback of connect, as net.Socket does', async (t) => {
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

  it('sends what was written before it was connected, in order, and ends', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api', { allowHalfOpen: true })
    for (let i = 0; i < 100; i += 1) stream.write(`${i},`)
    stream.end('end')
    assert.equal(await readAll(stream), `${Array.from({ length: 100 }, (_, i) => i).join()},end`)
  })

  it('applies backpressure in both directions', async (t) => {
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

  it('buffers no more than its high-water mark for a slow reader', async (t) => {
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
    await until('the buffer is full', () => stream.readableLength >= stream.readableHighWaterMark)
    assert.ok(stream.readableLength < 512 * 1024, `${stream.readableLength} bytes buffered`)
    stream.destroy()
  })

  it('sends everything that was written after the peer has ended, and then ends', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    const received = new Promise<number>((resolve) => {
      void offer(api, (socket) => {
        let bytes = 0
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

  it('fails pending writes when it is destroyed half-open', async (t) => {
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

  it('fails a pipeline when it is destroyed before everything was sent', async (t) => {
    const mesh = await startMesh(t)
    await offer(mesh.join('api'), (socket) => socket.pause())
    const web = mesh.join('web')
    const stream = web.stream('api')
    const piped = rejection(pipeline(Readable.from([Buffer.alloc(64 << 20)]), stream))
    await once(stream, 'connect')
    await web.close({ drainTimeoutMs: 1 })
    await piped
  })

  it('ends when the peer ends', async (t) => {
    const mesh = await startMesh(t)
    await offer(mesh.join('api'), (socket) => socket.end('bye'))
    const stream = mesh.join('web').stream('api')
    assert.equal(await readAll(stream), 'bye')
    assert.equal(stream.writable, false)
  })

  it('emits timeout when no data arrives', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api').setTimeout(50)
    stream.connect()
    await once(stream, 'timeout')
    stream.destroy()
  })

  it('accepts a timeout that is longer than the longest timer of Node.js', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('api').setTimeout(2 ** 31, () => assert.fail('timed out'))
    await once(stream.connect(), 'connect')
    stream.destroy()
  })

  it('fails with the dial', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('missing').connect()
    const error = await failure(stream)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES')
    assert.equal(stream.destroyed, true)
  })

  it('fails the writes when the dial fails', async (t) => {
    const { web } = await echoing(t)
    const stream = web.stream('missing')
    const failed = failure(stream)
    const error = await new Promise<Error | null | undefined>((resolve) => stream.write('x', resolve))
    assert.equal((error as { code?: string } | undefined)?.code, 'ERR_CONNECT_NO_INSTANCES')
    await failed
  })

  it('fails when the upstream denies the connection', async (t) => {
    const { agent, web } = await echoing(t)
    agent.setIntention('web', 'api', 'deny')
    assert.equal((await failure(web.stream('api').connect())).code, 'ERR_CONNECT_REJECTED')
  })

  it('fails when its service is closed, and afterwards', async (t) => {
    const { web } = await echoing(t)
    const late = web.stream('api')
    const open = web.stream('api').connect()
    await once(open, 'connect')
    const closed = once(open, 'close')
    open.on('error', () => undefined)
    await web.close({ drainTimeoutMs: 1 })
    await closed
    assert.equal((await failure(late.connect())).code, 'ERR_CONNECT_CLOSED')
    const error = await failure(web.stream('api').connect())
    assert.equal(error.code, 'ERR_CONNECT_CLOSED')
  })

  it('aborts its dial when it is destroyed or its signal is aborted', async (t) => {
    const { join } = await startMesh(t)
    const silent = await startTcpServer(t)
    const upstream = { address: silent.address, service: 'api' }
    const web = join('web')
    const stream = web.stream(upstream).connect()
    await silent.connected
    stream.destroy()
    await silent.closed
    const stop = new AbortController()
    const aborted = web.stream(upstream, { signal: stop.signal }).connect()
    stop.abort()
    assert.equal((await failure(aborted)).code, 'ERR_CONNECT_ABORTED')
  })

  it('fails when the connection is reset', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    await offer(api, (socket) => {
      socket.write('hello')
      socket.once('data', () => socket.destroy())
    })
    const stream = mesh.join('web').stream('api').connect()
    assert.equal(String((await once(stream, 'data'))[0]), 'hello')
    const failed = rejection(once(stream, 'close'))
    stream.write('x')
    assert.equal((await failed).code, 'ECONNRESET')
    assert.equal(stream.destroyed, true)
  })

  it('negotiates an ALPN protocol', async (t) => {
    const mesh = await startMesh(t)
    const api = mesh.join('api')
    const listener = await api.listen(
      { port: 0, host: '127.0.0.1', alpnProtocols: ['echo/2', 'echo/1'] },
      (socket) => socket.end(String(socket.alpnProtocol)),
    )
    await api.register({ port: portOf(listener), address: '127.0.0.1' })
    const web = mesh.join('web')
    assert.equal(await readAll(web.stream('api', { alpnProtocols: ['echo/1'] })), 'echo/1')
    const socket = await web.dial('api', { alpnProtocols: ['echo/1', 'echo/2'] })
    assert.equal(socket.alpnProtocol, 'echo/2')
    assert.equal(await readAll(socket), 'echo/2')
    const error = await rejection(web.dial('api', { alpnProtocols: ['other'] }))
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
  })

  it('works with pump', async (t) => {
    const { web } = await echoing(t)
    const server = createServer({ allowHalfOpen: true }, (socket) => socket.end('local'))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const local = await dialLocal({ host: '127.0.0.1', port: (server.address() as { port: number }).port })
    const { sent, received } = await pump(web.stream('api', { allowHalfOpen: true }), local)
    assert.deepEqual([sent, received], [5, 5])
  })

  for (const [upstream, options] of [
    ['', {}],
    [{ service: 'a', query: 'b' }, {}],
    ['api', { timeoutMs: -1 }],
    ['api', { alpnProtocols: [] }],
    ['api', { alpnProtocols: ['x'.repeat(256)] }],
    ['api', { port: 1 }],
  ] as const) {
    it(`rejects ${JSON.stringify(upstream)} with ${JSON.stringify(options).slice(0, 40)} synchronously`, async (t) => {
      const { join } = await startMesh(t)
      assert.throws(() => join('web').stream(upstream, options as never), {
        code: 'ERR_CONNECT_OPTION',
      })
    })
  }
})
