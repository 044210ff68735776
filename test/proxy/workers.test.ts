import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import type { Socket } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import {
  type RunningProxy,
  configFile,
  connectEcho,
  echo,
  expectEcho,
  isRefused,
  startApplication,
  startEchoPair,
  startProxy,
} from './connect-proxy.js'

const TWO_WORKERS = ['-workers', '2']

/** The IDs of the worker processes of a proxy. */
function workersOf({ pid }: RunningProxy): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
}

function environment(pid: number): string {
  return readFileSync(`/proc/${pid}/environ`, 'utf8')
}

async function isReady(proxy: RunningProxy): Promise<boolean> {
  return (await proxy.admin('/ready')).status === 200
}

/** Starts a pair of proxies with two workers each, and opens eight connections through them. */
async function start(t: TestContext) {
  const pair = await startEchoPair(t, { inbound: TWO_WORKERS, outbound: TWO_WORKERS })
  await until(
    'all workers listen',
    async () => (await isReady(pair.inbound)) && (await isReady(pair.outbound)),
  )
  const sockets: Socket[] = []
  for (let i = 0; i < 8; i += 1) sockets.push(await connectEcho(t, pair.port))
  return { ...pair, sockets }
}

/** Whether an echo arrives before the connection ends. */
function isAlive(socket: Socket): Promise<boolean> {
  return expectEcho(socket).then(
    () => true,
    () => false,
  )
}

describe('a proxy with workers', () => {
  it('distributes connections over the workers, and sums their metrics', async (t) => {
    const { inbound, outbound, sockets } = await start(t)
    assert.equal(workersOf(inbound).length, 2)
    assert.equal(await inbound.metric('connections_open'), 8)
    assert.equal(await outbound.metric('connections_opened_total'), 8)
    for (const socket of sockets) socket.end()
    await Promise.all(sockets.map((socket) => readAll(socket)))
    await until(
      'all connections have ended',
      async () => (await inbound.metric('connections_closed_total')) === sockets.length,
    )
    const workers = inbound.lines.filter(({ msg }) => msg === 'connection').map(({ worker }) => worker)
    assert.deepEqual([...new Set(workers)].sort(), [1, 2])
  })

  it('loses only the connections of a killed worker, and starts another worker', async (t) => {
    const { outbound, sockets, port } = await start(t)
    const [victim] = workersOf(outbound)
    process.kill(victim!, 'SIGKILL')
    await outbound.logged('worker exited')
    const open = sockets.filter(({ destroyed, readableEnded }) => !destroyed && !readableEnded)
    const alive = (await Promise.all(open.map(isAlive))).filter(Boolean).length
    assert.ok(alive > 0 && alive < sockets.length, `${alive} connections are alive`)
    await until(
      'the metrics count the connections of the other worker',
      async () => (await outbound.metric('connections_open')) === alive,
    )
    await until(
      'a new worker is ready',
      async () => workersOf(outbound).length === 2 && (await isReady(outbound)),
    )
    await connectEcho(t, port)
  })

  it('drains all workers on SIGTERM, and leaves no process and no registration', async (t) => {
    const { inbound, outbound, sockets, agent } = await start(t)
    const pids = [...workersOf(inbound), ...workersOf(outbound)]
    for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
    await Promise.all([inbound, outbound].map((proxy) => proxy.logged('SIGTERM: draining open connections')))
    await expectEcho(sockets[0]!)
    for (const socket of sockets) socket.end()
    assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
    const left = readdirSync('/proc').filter((name) => pids.includes(Number(name)))
    assert.deepEqual(left, [])
    assert.equal((await fetch(`${agent.url}/v1/agent/service/api-proxy`)).status, 404)
  })

  it('ends its workers when it is killed', async (t) => {
    const { outbound } = await start(t)
    const pids = workersOf(outbound)
    await outbound.stop('SIGKILL')
    await until('all workers have ended', () =>
      pids.every((pid) => !readdirSync('/proc').includes(String(pid))),
    )
  })

  it('revokes connections in every worker, and keeps its token out of their environment', async (t) => {
    const { agent } = await startMesh(t, {
      acl: { enabled: true, managementToken: 'secret-7', defaultPolicy: 'deny' },
    })
    const application = await startApplication(t, echo)
    const [listen, port] = [await freePort(), await freePort()]
    const env = { CONSUL_HTTP_TOKEN: 'secret-7' }
    agent.setIntention('web', 'api', 'allow')
    const inbound = await startProxy(
      t,
      agent.address,
      [
        ...['-service', 'api', '-service-addr', String(application.port), '-listen', `127.0.0.1:${listen}`],
        ...['-register', ...TWO_WORKERS],
      ],
      { env },
    )
    const outbound = ['-service', 'web', '-upstream', `api:${port}`, ...TWO_WORKERS]
    await startProxy(t, agent.address, outbound, { env })
    const sockets = await Promise.all(Array.from({ length: 4 }, () => connectEcho(t, port)))
    for (const pid of workersOf(inbound)) assert.equal(environment(pid).includes('secret-7'), false)
    const revoked = Promise.all(sockets.map((socket) => rejection(readAll(socket))))
    agent.setIntention('web', 'api', 'deny')
    for (const { message } of await revoked) assert.match(message, /ECONNRESET/)
    assert.equal(await inbound.metric('revocations_total'), 4)
  })

  it('ends workers that are still starting', async (t) => {
    const { agent } = await startMesh(t)
    const path = configFile(t, {
      service: 'web',
      drain_timeout_ms: 600_000,
      workers: 2,
      upstreams: [{ destination_name: 'api', local_bind_port: await freePort() }],
    })
    const proxy = await startProxy(t, agent.address, ['-config-file', path], {
      ready: ['configuration applied'],
    })
    assert.equal(await proxy.stop(), 0)
    assert.ok(!proxy.lines.some(({ msg }) => msg === 'upstream is open'))
  })

  it('accepts a drain_timeout_ms above the maximum of a timer, 2^31 ms', async (t) => {
    const { agent } = await startEchoPair(t)
    const port = await freePort()
    const path = configFile(t, {
      service: 'web',
      drain_timeout_ms: 2 ** 31,
      workers: 2,
      upstreams: [{ destination_name: 'api', local_bind_port: port }],
    })
    const proxy = await startProxy(t, agent.address, ['-config-file', path], { ready: ['upstream is open'] })
    const socket = await connectEcho(t, port)
    proxy.signal('SIGTERM')
    await until('the port is closed', () => isRefused(port))
    // Several round trips: the kill of a worker would end the connection.
    for (let i = 0; i < 100; i += 1) await expectEcho(socket)
    socket.end()
    assert.equal(await proxy.ended(), 0)
  })
})
