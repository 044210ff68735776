import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type Socket, connect, createServer } from 'node:net'
import { PassThrough } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { adoptReads } from '../../src/base/node-internals.js'
import { portOf, startMesh, until } from '../fixtures/mesh.js'

/** Both ends of a connection; the second is the accepted one, and is paused. */
async function pair(t: TestContext): Promise<[Socket, Socket]> {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const near = connect((server.address() as { port: number }).port, '127.0.0.1')
  const [[far]] = await Promise.all([accepted, once(near, 'connect')])
  server.close()
  t.after(() => {
    near.destroy()
    far.destroy()
  })
  return [near, far]
}

describe('adoptReads', () => {
  // The speed of a pump depends on this: the test fails on a version of Node.js that does not support it.
  it('makes an accepted socket read into the buffer of the caller', async (t) => {
    const [near, far] = await pair(t)
    const buffer = Buffer.alloc(1_024)
    const received: string[] = []
    const adopted = adoptReads(far, buffer, (size) => {
      received.push(buffer.toString('utf8', 0, size))
      return true
    })
    assert.equal(adopted, true)
    far.on('data', () => assert.fail('the socket is read as a stream'))
    far.resume()
    near.write('hello')
    await until('hello is received', () => received.join('') === 'hello')
    const ended = once(far, 'end')
    near.end('bye')
    await ended
    assert.equal(received.join(''), 'hellobye')
  })

  it('stops reading when the callback returns false, and continues on resume()', async (t) => {
    const [near, far] = await pair(t)
    const buffer = Buffer.alloc(4)
    let received = ''
    adoptReads(far, buffer, (size) => {
      received += buffer.toString('utf8', 0, size)
      return false
    })
    near.write('abcdefgh')
    far.resume()
    await until('the first bytes are received', () => received !== '')
    await new Promise(setImmediate)
    assert.equal(received, 'abcd')
    far.resume()
    await until('the remaining bytes are received', () => received === 'abcdefgh')
  })

  it('makes an accepted TLS socket read into the buffer of the caller', async (t) => {
    const { join } = await startMesh(t)
    let received = ''
    let adopted = false
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
      const buffer = Buffer.alloc(16_384)
      adopted = adoptReads(socket, buffer, (size) => {
        received += buffer.toString('utf8', 0, size)
        return true
      })
      socket.resume()
    })
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    // Earlier bytes would be read as a stream.
    await until('the reads are adopted', () => adopted)
    socket.write('hello')
    await until('hello is received', () => received === 'hello')
  })

  it('returns false for a stream that is no socket, a closed socket, and a socket with its own buffer', async (t) => {
    const never = (): boolean => assert.fail('the stream was read')
    const buffer = Buffer.alloc(1)
    assert.equal(adoptReads(new PassThrough(), buffer, never), false)
    const [near, far] = await pair(t)
    far.destroy()
    assert.equal(adoptReads(far, buffer, never), false)
    near.destroy()
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const own = connect({
      port,
      host: '127.0.0.1',
      onread: { buffer: Buffer.alloc(8), callback: () => true },
    })
    t.after(() => {
      own.destroy()
      server.close()
    })
    await once(own, 'connect')
    assert.equal(adoptReads(own, buffer, never), false)
  })
})
