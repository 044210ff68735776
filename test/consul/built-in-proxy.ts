// The proxy that comes with Consul, written in Go: `consul connect proxy`, as a process of its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { TestContext } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import type { RealAgent } from './real-agent.js'
import { WAIT_MS, until } from './service-mesh.js'

const binary = process.env['CONSUL_BIN'] ?? 'consul'

export interface BuiltInProxy {
  /** What it has logged, for messages. */
  log(): string
}

/** A proxy that lets the mesh in to a plain TCP application, registered as an instance of `service`. */
export async function proxyInbound(
  t: TestContext,
  consul: RealAgent,
  service: string,
  applicationPort: number,
): Promise<BuiltInProxy & { readonly port: number }> {
  const port = await freePort()
  const address = `127.0.0.1:${applicationPort}`
  const args = ['-service', service, '-service-addr', address, '-listen', `127.0.0.1:${port}`, '-register']
  const proxy = await start(t, consul, args, 'listener="public listener"')
  // It says so before it listens.
  await until('the public listener accepts', async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    socket.destroy()
    return true
  })
  return { ...proxy, port }
}

/** A proxy that leads a local port to an upstream of the mesh, as `service`. */
export async function proxyOutbound(
  t: TestContext,
  consul: RealAgent,
  service: string,
  upstream: string,
): Promise<BuiltInProxy & { readonly port: number }> {
  const port = await freePort()
  const args = ['-service', service, '-upstream', `${upstream}:127.0.0.1:${port}`]
  // Its upstream listener is open before it has a certificate, and connections would fail until then.
  const proxy = await start(t, consul, args, 'Parsed TLS identity')
  return { ...proxy, port }
}

/** Starts it, and waits until it has logged the words. It ends with the test. */
async function start(
  t: TestContext,
  consul: RealAgent,
  args: string[],
  ready: string,
): Promise<BuiltInProxy> {
  const child = spawn(binary, ['connect', 'proxy', '-log-level', 'debug', ...args], {
    env: { ...process.env, CONSUL_HTTP_ADDR: consul.address },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  })
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
  return { log: () => output }
}
