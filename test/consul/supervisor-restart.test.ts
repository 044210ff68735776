// Restarts of one managed proxy, and of the agent, as a real agent's checks and the callers see them.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../fixtures/free-ports.js'
import { temporaryFolder } from '../proxy/connect-proxy.js'
import { Host, managed, settings } from '../supervisor/connect-supervisor.js'
import { isAlive } from '../supervisor/processes.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { agentJson, until } from './service-mesh.js'

/** The agent runs the check of a port every 10 s, and for the first time at a random moment of the first 10 s. */
const CHECK_MS = 20_000
const AGENT_RESTARTS = 5

interface AgentCheck {
  readonly Status: string
  /** Empty until the agent has run the check. */
  readonly Output: string
}

async function portCheckOf(consul: RealAgent, service: string): Promise<AgentCheck | undefined> {
  const checks = await agentJson<Record<string, AgentCheck>>(consul, '/v1/agent/checks')
  return checks[`service:${service}-proxy`]
}

/** Waits for a status, and returns what the check says at the first moment at which it has it. */
function withStatus(consul: RealAgent, service: string, status: string): Promise<AgentCheck> {
  return until(
    `the check of ${service} is ${status}`,
    async () => {
      const check = await portCheckOf(consul, service)
      if (check?.Status === status) return check
      throw new Error(JSON.stringify(check))
    },
    CHECK_MS,
  )
}

async function withOutput(consul: RealAgent, service: string, output: RegExp): Promise<void> {
  await until(
    `the check of ${service} says ${String(output)}`,
    async () => output.test((await portCheckOf(consul, service))?.Output ?? ''),
    CHECK_MS,
  )
}

async function startEcho(t: TestContext): Promise<number> {
  const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}

/** A program that listens at the port of its registration, as soon as there is a file. */
const GATED_PROXY = `
  const { existsSync } = require('node:fs')
  const { createServer } = require('node:net')
  const { CONSUL_HTTP_ADDR, CONNECT_PROXY_ID } = process.env
  process.on('SIGINT', () => process.exit(0))
  const start = async () => {
    if (!existsSync(process.argv[1])) return setTimeout(start, 20)
    const answer = await fetch('http://' + CONSUL_HTTP_ADDR + '/v1/agent/service/' + CONNECT_PROXY_ID)
    createServer((socket) => socket.destroy()).listen((await answer.json()).Port, '127.0.0.1')
  }
  start()
`

test('a restarted proxy is passing before the agent runs its check', { skip }, async (t) => {
  const consul = await startConsul(t)
  const gate = join(temporaryFolder(t), 'gate')
  const host = new Host(t, {
    agent: consul.address,
    files: {
      'agent.json': await settings(),
      'web.json': managed('web', { command: [process.execPath, '-e', GATED_PROXY, gate] }),
    },
  })

  await t.test('after its first start', async () => {
    await host.start()
    await host.running('web')
    // The agent runs the check every 10 s from here on, and sees the listener much later than the supervisor.
    await withOutput(consul, 'web', /refused/)
    writeFileSync(gate, '')
    assert.equal((await withStatus(consul, 'web', 'passing')).Output, '')
  })
  await t.test('after a restart during which the agent saw that nothing listens', async () => {
    rmSync(gate)
    const { pid } = await host.running('web')
    await host.command('restart', 'web')
    await host.row('web', (row) => row.state === 'running' && row.pid !== pid)
    assert.match((await withStatus(consul, 'web', 'critical')).Output, /refused/)
    writeFileSync(gate, '')
    assert.equal((await withStatus(consul, 'web', 'passing')).Output, '')
    await withOutput(consul, 'web', /Success/)
  })
  await t.test('after the agent itself was killed and is back', async () => {
    // The first check of an agent comes at a random moment of 10 s, in one of about ten runs before the supervisor's report.
    const outputs: string[] = []
    while (outputs.length < AGENT_RESTARTS && outputs.at(-1) !== '') {
      await consul.kill()
      await consul.restart()
      outputs.push((await withStatus(consul, 'web', 'passing')).Output)
    }
    assert.equal(outputs.at(-1), '')
  })
})

async function answers(path: string): Promise<Socket> {
  const socket = connect({ path })
  try {
    await once(socket, 'connect')
    socket.write('hello')
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(5_000) })) as [Buffer]
    assert.equal(String(chunk), 'hello')
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  }
}

test('a restart hands the unix socket of an upstream to the new process', { skip }, async (t) => {
  const consul = await startConsul(t)
  const path = join(temporaryFolder(t), 'api.sock')
  const port = await startEcho(t)
  const proxy = {
    upstreams: [
      { destination_name: 'api', local_bind_socket_path: path },
      { destination_name: 'api', local_bind_port: await freePort() },
    ],
  }
  const host = new Host(t, {
    agent: consul.address,
    files: {
      'agent.json': await settings(),
      'api.json': managed('api', {}, { port }),
      'web.json': managed('web', proxy),
    },
  })
  await host.start()
  const open = await until('the socket leads to api', () => answers(path), CHECK_MS)
  const end = new AbortController()
  const refusals: string[] = []
  const connecting = (async (): Promise<void> => {
    while (!end.signal.aborted) {
      await answers(path)
        .then((socket) => socket.destroy())
        .catch((error: unknown) => refusals.push(String(error)))
      await sleep(5)
    }
  })()
  const { pid } = await host.running('web')
  await host.command('restart', 'web')
  await host.row('web', (row) => row.state === 'running' && row.pid !== pid, CHECK_MS)
  await until('the new process serves the socket', async () => (await answers(path)).destroy())
  // A connection through the old process goes on, and its end must not take the new socket away.
  open.write('still open')
  assert.equal(String((await once(open, 'data'))[0]), 'still open')
  assert.ok(isAlive(pid))
  open.end()
  await until('the old process has ended', () => !isAlive(pid))
  ;(await answers(path)).destroy()
  end.abort()
  await connecting
  t.diagnostic(`${refusals.length} connections were refused: ${refusals.slice(0, 3).join('; ')}`)
  assert.ok(refusals.length < 50, `${refusals.length} refusals`)
  assert.ok(existsSync(path))
  assert.equal(statSync(path).mode & 0o777, 0o600)
})
