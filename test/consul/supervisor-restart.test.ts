// Restarts of a managed proxy and of the agent, as seen by the checks of a real agent and by clients.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../fixtures/free-ports.js'
import { echo, startApplication, temporaryFolder } from '../proxy/connect-proxy.js'
import { Host, managed, settings } from '../supervisor/connect-supervisor.js'
import { isAlive } from '../supervisor/processes.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { agentJson, until } from './service-mesh.js'

/** The agent runs a TCP check every 10 s, the first time after a random delay of up to 10 s. */
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

/** Waits for a status of the check. Returns the check as it was then. */
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
    `the output of the check of ${service} matches ${String(output)}`,
    async () => output.test((await portCheckOf(consul, service))?.Output ?? ''),
    CHECK_MS,
  )
}

/** A program that listens on the port of its registration once a file exists. */
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

test('a proxy is passing before the agent runs its check', { skip }, async (t) => {
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
    // From here on the agent runs the check every 10 s, much later than the supervisor sees the listener.
    await withOutput(consul, 'web', /refused/)
    writeFileSync(gate, '')
    assert.equal((await withStatus(consul, 'web', 'passing')).Output, '')
  })
  await t.test('after a restart with a failed check', async () => {
    rmSync(gate)
    const { pid } = await host.running('web')
    await host.command('restart', 'web')
    await host.row('web', (row) => row.state === 'running' && row.pid !== pid)
    assert.match((await withStatus(consul, 'web', 'critical')).Output, /refused/)
    writeFileSync(gate, '')
    assert.equal((await withStatus(consul, 'web', 'passing')).Output, '')
    await withOutput(consul, 'web', /Success/)
  })
  await t.test('after a restart of the agent', async () => {
    // In about one of ten runs, the agent runs its first check before the report of the supervisor.
    const outputs: string[] = []
    while (outputs.length < AGENT_RESTARTS && outputs.at(-1) !== '') {
      await consul.kill()
      await consul.restart()
      outputs.push((await withStatus(consul, 'web', 'passing')).Output)
    }
    assert.equal(outputs.at(-1), '')
  })
})

async function connectEcho(path: string): Promise<Socket> {
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

test('a restart passes the unix socket of an upstream to the new process', { skip }, async (t) => {
  const consul = await startConsul(t)
  const path = join(temporaryFolder(t), 'api.sock')
  const { port } = await startApplication(t, echo)
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
  const open = await until('the socket reaches api', () => connectEcho(path), CHECK_MS)
  const end = new AbortController()
  const refusals: string[] = []
  const connecting = (async (): Promise<void> => {
    while (!end.signal.aborted) {
      await connectEcho(path)
        .then((socket) => socket.destroy())
        .catch((error: unknown) => refusals.push(String(error)))
      await sleep(5)
    }
  })()
  const { pid } = await host.running('web')
  await host.command('restart', 'web')
  await host.row('web', (row) => row.state === 'running' && row.pid !== pid, CHECK_MS)
  await until('the new process serves the socket', async () => (await connectEcho(path)).destroy())
  // Connections of the old process continue, and its end must not remove the new socket.
  open.write('still open')
  assert.equal(String((await once(open, 'data'))[0]), 'still open')
  assert.ok(isAlive(pid))
  open.end()
  await until('the old process has ended', () => !isAlive(pid))
  ;(await connectEcho(path)).destroy()
  end.abort()
  await connecting
  t.diagnostic(`${refusals.length} connections were refused: ${refusals.slice(0, 3).join('; ')}`)
  assert.ok(refusals.length < 50, `${refusals.length} refusals`)
  assert.ok(existsSync(path))
  assert.equal(statSync(path).mode & 0o777, 0o600)
})
