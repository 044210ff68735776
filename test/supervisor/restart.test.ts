// Restarts of a proxy while it has connections.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { service } from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import { freePort } from '../fixtures/free-ports.js'
import { until } from '../fixtures/mesh.js'
import { type Host, kill, managed, startHost, startIdle } from './connect-supervisor.js'
import { environmentOf, isAlive } from './processes.js'
import { waitBound } from '../fixtures/bounds.js'

/** Starts a bundled proxy of `web` in front of an echo server, with an upstream to the echo service `back`. */
async function startWeb(
  t: TestContext,
  config: object = {},
): Promise<{ agent: TestAgent; host: Host; upstream: number }> {
  const echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket))
  await once(echo.listen(0, '127.0.0.1'), 'listening')
  t.after(() => echo.close())
  const upstream = await freePort()
  const proxy = { config, upstreams: [{ destination_name: 'back', local_bind_port: upstream }] }
  const { port } = echo.address() as AddressInfo
  const { agent, host } = await startHost(t, { 'web.json': managed('web', proxy, { port }) })
  const back = service('back', { agent: { address: agent.address, env: {} } })
  t.after(() => back.close({ drainTimeoutMs: 1 }))
  const listener = await back.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    socket.on('error', () => undefined).pipe(socket)
  })
  await back.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
  await host.start()
  await host.running('web')
  return { agent, host, upstream }
}

/** Sends a line, and checks its echo. */
async function expectEcho(socket: Socket, line: string): Promise<void> {
  socket.write(line)
  const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(waitBound(5_000)) })) as [Buffer]
  assert.equal(String(chunk), line)
}

async function connectAndEcho(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    await expectEcho(socket, 'hello')
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  }
}

/** Connects repeatedly until the signal aborts, and returns the longest time between two successes. */
async function longestOutage(dial: () => Promise<Socket>, end: AbortSignal): Promise<number> {
  let longestMs = 0
  let succeededAt = performance.now()
  while (!end.aborted) {
    const socket = await dial().catch(() => undefined)
    if (socket !== undefined) {
      socket.destroy()
      longestMs = Math.max(longestMs, performance.now() - succeededAt)
      succeededAt = performance.now()
    }
    await sleep(5)
  }
  return Math.max(longestMs, performance.now() - succeededAt)
}

async function criticalChecks(agent: TestAgent): Promise<readonly string[]> {
  const checks = (await (await fetch(`${agent.url}/v1/agent/checks`)).json()) as Record<
    string,
    { Status: string }
  >
  return Object.entries(checks).flatMap(([id, { Status }]) => (Status === 'passing' ? [] : [id]))
}

test('restart of a bundled proxy keeps its connections, its registration, and its ports', async (t) => {
  const { agent, host, upstream } = await startWeb(t)
  const caller = service('caller', { agent: { address: agent.address, env: {} } })
  t.after(() => caller.close({ drainTimeoutMs: 1 }))
  const dialIn = async (): Promise<Socket> => {
    const socket = await caller.dial('web', { timeoutMs: 1_000 })
    await expectEcho(socket as unknown as Socket, 'hello')
    return socket as unknown as Socket
  }
  await until('the public listener answers', async () => (await dialIn()).destroy())
  const open = await until('the upstream answers', () => connectAndEcho(upstream))
  const before = await host.running('web')
  const end = new AbortController()
  const outages = Promise.all([
    longestOutage(dialIn, end.signal),
    longestOutage(() => connectAndEcho(upstream), end.signal),
  ])
  await host.command('restart', 'web')
  const after = await host.row('web', ({ state, pid }) => state === 'running' && pid !== before.pid)
  await expectEcho(open, 'the old process drains')
  assert.ok(isAlive(before.pid))
  open.end()
  await until('the old process has ended', () => !isAlive(before.pid))
  for (const dial of [dialIn, () => connectAndEcho(upstream)]) {
    await until('the new process answers', async () => (await dial()).destroy())
  }
  end.abort()
  const [inboundMs, outboundMs] = await outages
  t.diagnostic(`longest time without a connection: inbound ${inboundMs} ms, outbound ${outboundMs} ms`)
  // A proxy that stops before its successor listens is away for longer: the start of a process takes more than 1 s.
  assert.ok(inboundMs < 1_000 && outboundMs < 1_000, `${inboundMs} ms, ${outboundMs} ms`)
  assert.equal(after.port, before.port)
  assert.equal(after.restarts, before.restarts + 1)
  assert.deepEqual(await criticalChecks(agent), [])
  assert.equal(host.processes().length, 1)
})

test('restart of a bundled proxy keeps the old process until the new process is ready', async (t) => {
  const { agent, host, upstream } = await startWeb(t)
  await until('the upstream answers', async () => (await connectAndEcho(upstream)).destroy())
  const { pid } = await host.running('web')
  await agent.stop()
  await host.command('restart', 'web')
  await host.row('web', ({ problem = '' }) => problem.includes('did not become ready'), waitBound(40_000))
  assert.ok(isAlive(pid))
  await agent.restart()
  await host.row('web', (row) => row.state === 'running' && row.pid !== pid, waitBound(40_000))
  await until('the old process has ended', () => !isAlive(pid))
})

test('restart of a bundled proxy moves the admin address to the new process while the old process drains', async (t) => {
  const admin = await freePort()
  const { host, upstream } = await startWeb(t, { admin_addr: `127.0.0.1:${admin}` })
  const ready = async (): Promise<boolean> => (await fetch(`http://127.0.0.1:${admin}/ready`)).ok
  await until('the proxy is ready', ready)
  const open = await until('the upstream answers', () => connectAndEcho(upstream))
  const { pid } = await host.running('web')
  await host.command('restart', 'web')
  await host.row('web', (row) => row.state === 'running' && row.pid !== pid)
  await until('the new process is ready', ready)
  await expectEcho(open, 'the old process drains')
  assert.ok(isAlive(pid))
  open.end()
})

test('the check of a started proxy passes as soon as the proxy listens', async (t) => {
  const { agent, host } = await startWeb(t)
  await until('the check passes', async () => (await criticalChecks(agent)).length === 0)
  await host.command('stop', 'web')
  await host.command('start', 'web')
  const { pid } = await host.running('web')
  const before = performance.now()
  await until('the check passes', async () => (await criticalChecks(agent)).length === 0)
  assert.ok(performance.now() - before < 8_000, 'the check passes only after the interval of the agent')
  assert.ok(isAlive(pid))
})

test('the next supervisor stops a duplicate process that a killed supervisor left', async (t) => {
  const { host, supervisor: first, pid } = await startIdle(t)
  await first.stop('SIGKILL')
  const second = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore', env: environmentOf(pid) })
  t.after(() => {
    kill(second.pid!)
  })
  const ended = once(second, 'exit')
  const next = await host.start()
  await next.logged(`stopping a duplicate process: ${second.pid}`)
  await ended
  assert.equal((await host.running('a')).pid, pid)
})
