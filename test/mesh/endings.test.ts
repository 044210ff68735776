// Early answers through a forward and a service in a separate process. endings-matrix.test.ts has all other endings.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { keepReadingAfterWriteError } from '../../src/sockets/read-on.js'
import { startMesh } from '../fixtures/mesh.js'

const SERVICE = fileURLToPath(new URL('../fixtures/answering-service.ts', import.meta.url))
const TRIES = 40

describe('an answer before the end of its request', () => {
  for (const adapter of ['serve', 'pump']) {
    it(`arrives completely through forward and ${adapter}`, async (t) => {
      const { agent, join } = await startMesh(t)
      const api = spawn(process.execPath, ['--import', 'tsx', SERVICE, agent.address, adapter], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      t.after(() => api.kill('SIGKILL'))
      await once(api.stdout, 'data')
      const forward = await join('web').forward('api', { port: 0 })
      const { port } = forward.address() as AddressInfo
      for (let i = 0; i < TRIES; i += 1) {
        const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        await once(socket, 'connect')
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
  }
})
