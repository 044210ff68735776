// A real redis-server on loopback, and a minimal client.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { TestContext } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { stopChild } from './child-process.js'
import { WAIT_MS, until } from './service-mesh.js'

/** Starts a server without persistence, which ends with the test. Returns its port. */
export async function startRedis(t: TestContext): Promise<number> {
  const port = await freePort()
  const flags = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  const child = spawn('redis-server', flags, { stdio: 'ignore' })
  t.after(() => stopChild(child))
  await once(child, 'spawn')
  await until('redis answers', async () => (await redis(port, 'PING')) === '+PONG')
  return port
}

/** Sends one command. Returns the first line of the answer. */
export async function redis(port: number, command: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.setTimeout(WAIT_MS, () => socket.destroy(new Error('redis did not answer')))
    socket.write(`${command}\r\n`)
    let received = ''
    for await (const chunk of socket) {
      received += String(chunk)
      const end = received.indexOf('\r\n')
      if (end !== -1) return received.slice(0, end)
    }
    throw new Error(`redis ended before it answered ${command}`)
  } finally {
    socket.destroy()
  }
}
