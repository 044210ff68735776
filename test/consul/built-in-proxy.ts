// The built-in proxy of Consul, `consul connect proxy`, as a separate process.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { TestContext } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { stopChild } from './child-process.js'
import type { RealAgent } from './real-agent.js'
import { WAIT_MS, until } from './service-mesh.js'

const binary = process.env['CONSUL_BIN'] ?? 'consul'

/** Starts and registers a proxy for inbound connections to a plain TCP application of `service`. */
export async function proxyInbound(
  t: TestContext,
  consul: RealAgent,
  service: string,
  applicationPort: number,
): Promise<{ readonly port: number }> {
  const port = await freePort()
  const address = `127.0.0.1:${applicationPort}`
  const args = ['-service', service, '-service-addr', address, '-listen', `127.0.0.1:${port}`, '-register']
  await start(t, consul, args, 'listener="public listener"')
  // The proxy logs this line before it listens.
  await until('the public listener accepts', async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    socket.destroy()
    return true
  })
  return { port }
}

/** Starts a proxy that forwards a local port to an upstream, as `service`. */
export async function proxyOutbound(
  t: TestContext,
  consul: RealAgent,
  service: string,
  upstream: string,
): Promise<{ readonly port: number }> {
  const port = await freePort()
  const args = ['-service', service, '-upstream', `${upstream}:127.0.0.1:${port}`]
  // The local port is open before the proxy has a certificate, and connections would fail until then.
  await start(t, consul, args, 'Parsed TLS identity')
  return { port }
}

/** Starts a proxy and waits until its log contains `ready`. The proxy ends with the test. */
async function start(t: TestContext, consul: RealAgent, args: string[], ready: string): Promise<void> {
  const child = spawn(binary, ['connect', 'proxy', '-log-level', 'debug', ...args], {
    env: { ...process.env, CONSUL_HTTP_ADDR: consul.address },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(() => stopChild(child))
  let output = ''
  const deadline = AbortSignal.timeout(WAIT_MS)
  await new Promise<void>((resolve, reject) => {
    const onData = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-16_000)
      if (output.includes(ready)) resolve()
    }
    child.stdout.on('data', onData)
    child.stderr.on('data', onData)
    child.once('error', reject)
    child.once('exit', () => {
      reject(new Error(`consul connect proxy ended:\n${output}`))
    })
    deadline.addEventListener('abort', () => {
      reject(new Error(`consul connect proxy has not logged '${ready}' within ${WAIT_MS} ms:\n${output}`))
    })
  })
}
