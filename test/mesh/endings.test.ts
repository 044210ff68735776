// What reaches a client when connections end in every order, through a forward and a service in another process.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Service } from '../../src/index.js'
import { keepReadingAfterWriteError } from '../../src/sockets/read-on.js'
import { rejection, startMesh } from '../fixtures/mesh.js'

const SERVICE = fileURLToPath(new URL('../fixtures/answering-service.ts', import.meta.url))
const TRIES = 40
const LARGE_BYTES = 8 << 20

interface Scene {
  readonly web: Service
  readonly api: ChildProcess
  /** A connection to a forward that leads to the service. */
  readonly open: () => Promise<Socket>
}

async function begin(t: TestContext, way: string): Promise<Scene> {
  const { agent, join } = await startMesh(t)
  const api = spawn(process.execPath, ['--import', 'tsx', SERVICE, agent.address, way], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.after(() => api.kill('SIGKILL'))
  await once(api.stdout, 'data')
  const web = join('web')
  const door = await web.forward('api', { port: 0 })
  const { port } = door.address() as AddressInfo
  return {
    web,
    api,
    async open() {
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
      await once(socket, 'connect')
      return socket
    },
  }
}

async function bodyOf(socket: AsyncIterable<unknown>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  const all = Buffer.concat(chunks)
  return all.subarray(all.indexOf('\r\n\r\n') + 4)
}

for (const way of ['serve', 'pump']) {
  describe(`the end of a connection, with ${way} at the other end`, () => {
    it('leaves an answer whole for a client that has ended its own side', async (t) => {
      const { open } = await begin(t, way)
      for (let i = 0; i < TRIES; i += 1) {
        const socket = await open()
        socket.end('GET /large HTTP/1.0\r\n\r\n')
        assert.equal((await bodyOf(socket)).length, LARGE_BYTES)
      }
    })

    it('leaves an answer whole that comes before the request was read', async (t) => {
      const { open } = await begin(t, way)
      for (let i = 0; i < TRIES; i += 1) {
        const socket = await open()
        keepReadingAfterWriteError(socket)
        socket.on('error', () => undefined)
        socket.write(`POST / HTTP/1.1\r\nHost: api\r\nContent-Length: ${64 << 20}\r\n\r\n`)
        const upload = Buffer.alloc(1 << 20)
        const write = (): void => {
          while (!socket.destroyed && socket.write(upload));
        }
        socket.on('drain', write)
        write()
        let answer = ''
        socket.on('data', (chunk: Buffer) => (answer += chunk.toString()))
        await once(socket, 'end')
        socket.destroy()
        assert.match(answer, /^HTTP\/1\.1 413 .*too large/s)
      }
    })

    it('is an error when the other end is killed while it answers', async (t) => {
      const { api, web, open } = await begin(t, way)
      const forwarded = await open()
      const dialed = await web.dial('api')
      const failures = [forwarded, dialed].map((socket) => rejection(bodyOf(socket)))
      const answered = [forwarded, dialed].map((socket) => once(socket, 'readable'))
      for (const socket of [forwarded, dialed]) socket.write('GET /endless HTTP/1.0\r\n\r\n')
      await Promise.all(answered)
      api.kill('SIGKILL')
      assert.deepEqual(
        (await Promise.all(failures)).map(({ code }) => code),
        ['ECONNRESET', 'ECONNRESET'],
      )
    })
  })
}
