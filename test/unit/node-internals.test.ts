import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type Socket, connect, createServer } from 'node:net'
import { PassThrough } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { adoptReads } from '../../src/base/node-internals.js'
import { portOf, startMesh, until } from '../fixtures/mesh.js'

/** Two ends of one connection; the second was accepted, and is read by nobody yet. */
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
  // What the speed of a proxy rests on: should a version of Node take it away, this tells.
  it('reads what an accepted socket receives into a buffer of ours', async (t) => {
    const [near, far] = await pair(t)
    const buffer = Buffer.alloc(1_024)
    const heard: string[] = []
    const adopted = adoptReads(far, buffer, (size) => {
      heard.push(buffer.toString('utf8', 0, size))
      return true
    })
    assert.equal(adopted, true)
    far.on('data', () => assert.fail('it is read as a stream'))
    far.resume()
    near.write('hello')
    await until('it is heard', () => heard.join('') === 'hello')
    // The end comes as ever.
    const ended = once(far, 'end')
    near.end('bye')
    await ended
    assert.equal(heard.join(''), 'hellobye')
  })

  it('stops when it is told to, and goes on when it is resumed', async (t) => {
    const [near, far] = await pair(t)
    const buffer = Buffer.alloc(4)
    let heard = ''
    adoptReads(far, buffer, (size) => {
      heard += buffer.toString('utf8', 0, size)
      return false
    })
    near.write('abcdefgh')
    far.resume()
    await until('it has heard something', () => heard !== '')
    await new Promise(setImmediate)
    assert.equal(heard, 'abcd')
    far.resume()
    await until('it has heard the rest', () => heard === 'abcdefgh')
  })

  it('does the same for TLS', async (t) => {
    const { join } = await startMesh(t)
    let heard = ''
    let adopted = false
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
      const buffer = Buffer.alloc(16_384)
      adopted = adoptReads(socket, buffer, (size) => {
        heard += buffer.toString('utf8', 0, size)
        return true
      })
      socket.resume()
    })
    const socket = await join('web').dial({ address: `127.0.0.1:${portOf(listener)}`, service: 'api' })
    // What comes before is read as ever.
    await until('it is adopted', () => adopted)
    socket.write('hello')
    await until('it is heard', () => heard === 'hello')
  })

  it('leaves alone what is no socket, is closed, or has a buffer of its own', async (t) => {
    const never = (): boolean => assert.fail('it was read')
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
