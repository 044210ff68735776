import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request } from 'node:http'
import { type Socket, connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { Admin } from '../../examples/proxy/src/operator/admin.js'
import { LocalServer, type LocalServerOptions } from '../../examples/proxy/src/listeners/local-server.js'
import { waitBound } from '../fixtures/bounds.js'

const LOOPBACK = { host: '127.0.0.1', port: 0 }

async function openServer(t: TestContext, options?: LocalServerOptions): Promise<number> {
  const answer = (): Promise<{ body: string }> => Promise.resolve({ body: 'ready\n' })
  const server = new LocalServer(answer, ({ message }) => ({ status: 500, body: message }), options)
  const { port } = await server.open(LOOPBACK)
  t.after(() => {
    server.close()
  })
  return port
}

async function statusOf(port: number, host?: string): Promise<number> {
  const sent = request({
    port,
    host: '127.0.0.1',
    agent: false,
    ...(host !== undefined && { headers: { host } }),
  })
  sent.end()
  const [response] = (await once(sent, 'response')) as [{ statusCode: number; resume(): void }]
  response.resume()
  return response.statusCode
}

async function connectIdle(t: TestContext, port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  t.after(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}

describe('LocalServer', () => {
  it('answers a health check while idle connections use up the connection limit', async (t) => {
    const port = await openServer(t, { maxConnections: 4 })
    for (let i = 0; i < 8; i++) await connectIdle(t, port)
    assert.equal(await statusOf(port), 200)
  })

  it('closes a connection whose headers do not arrive in time', { timeout: waitBound(10_000) }, async (t) => {
    const port = await openServer(t, { headersTimeoutMs: 100 })
    const sockets = [await connectIdle(t, port), await connectIdle(t, port)]
    sockets[1]?.write('GET / HTTP/1.1\r\nHost: loc')
    for (const socket of sockets) {
      socket.resume()
      await once(socket, 'close')
    }
  })

  const hosts: [host: string, status: number][] = [
    ['127.0.0.1:8500', 200],
    ['[::1]:8500', 200],
    ['localhost', 200],
    ['attacker.example', 403],
    ['localhost.attacker.example:80', 403],
    ['1'.repeat(10_000), 403],
  ]
  for (const [host, status] of hosts) {
    it(`answers ${status} to a request over the loopback with the Host ${host.slice(0, 32)}`, async (t) => {
      const admin = new Admin({ '/': () => ({ body: 'page\n' }) })
      const { port } = await admin.open(LOOPBACK)
      t.after(() => {
        admin.close()
      })
      assert.equal(await statusOf(port, host), status)
    })
  }
})
