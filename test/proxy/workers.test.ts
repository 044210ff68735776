import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import {
  type RunningProxy,
  configFile,
  echo,
  isRefused,
  localConnect,
  nextData,
  startApplication,
  startPair,
  startProxy,
} from './connect-proxy.js'

/** The processes that share the work of a proxy. */
function workersOf({ pid }: RunningProxy): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
}

function environment(pid: number): string {
  return readFileSync(`/proc/${pid}/environ`, 'utf8')
}

async function isReady(proxy: RunningProxy): Promise<boolean> {
  return (await proxy.admin('/ready')).status === 200
}

/** A pair whose proxies have two workers each, and eight connections through them. */
async function start(t: TestContext) {
  const mesh = await startMesh(t)
  const application = await startApplication(t, echo)
  const workers = ['-workers', '2']
  const pair = await startPair(t, mesh.agent.address, application.port, {
    inbound: workers,
    outbound: workers,
  })
  await until(
    'all workers listen',
    async () => (await isReady(pair.inbound)) && (await isReady(pair.outbound)),
  )
  const sockets = Array.from({ length: 8 }, () => localConnect(t, pair.port))
  for (const socket of sockets) {
    socket.on('error', () => undefined)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
  }
  return { ...mesh, ...pair, sockets }
}

describe('a proxy with workers', () => {
  it('shares connections among them, and counts those of all', async (t) => {
    const { inbound, outbound, sockets } = await start(t)
    assert.equal(workersOf(inbound).length, 2)
    assert.equal(await inbound.metric('connections_open'), 8)
    assert.equal(await outbound.metric('connections_opened_total'), 8)
    const lines = await Promise.all(
      sockets.map(async (socket) => {
        socket.end()
        await readAll(socket)
      }),
    )
    await until(
      'all have ended',
      async () => (await inbound.metric('connections_closed_total')) === lines.length,
    )
    const by = inbound.lines.filter(({ msg }) => msg === 'connection').map(({ worker }) => worker)
    assert.deepEqual([...new Set(by)].sort(), [1, 2])
  })

  it('loses the connections of a worker that dies, and no other; another takes its place', async (t) => {
    const { outbound, sockets, port } = await start(t)
    const [victim] = workersOf(outbound)
    process.kill(victim!, 'SIGKILL')
    await outbound.logged('worker exited')
    const alive = await Promise.all(
      sockets.map(async (socket) => {
        if (socket.destroyed || socket.readableEnded) return 0
        return new Promise<number>((resolve) => {
          socket.once('data', () => {
            resolve(1)
          })
          for (const event of ['end', 'close'] as const) {
            socket.once(event, () => {
              resolve(0)
            })
          }
          socket.write('still there?')
        })
      }),
    )
    const left = alive.reduce((sum, one) => sum + one, 0)
    assert.ok(left > 0 && left < sockets.length, `${left} live on`)
    // Exactly those that the other one has.
    await until(
      'the rest is known to be gone',
      async () => (await outbound.metric('connections_open')) === left,
    )
    await until('another is there', async () => workersOf(outbound).length === 2 && (await isReady(outbound)))
    const fresh = localConnect(t, port)
    fresh.write('x')
    assert.equal(await nextData(fresh), 'x')
  })

  it('drains all of them on SIGTERM, and leaves nothing behind', async (t) => {
    const { inbound, outbound, sockets, agent } = await start(t)
    const [socket] = sockets
    const pids = [...workersOf(inbound), ...workersOf(outbound)]
    for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
    await Promise.all([inbound, outbound].map((proxy) => proxy.logged('SIGTERM: draining open connections')))
    socket!.write('after')
    assert.equal(await nextData(socket!), 'after')
    for (const one of sockets) one.end()
    assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
    const left = readdirSync('/proc').filter((name) => pids.includes(Number(name)))
    assert.deepEqual(left, [])
    assert.equal((await fetch(`${agent.url}/v1/agent/service/api-proxy`)).status, 404)
  })

  it('ends its workers when it is killed', async (t) => {
    const { outbound } = await start(t)
    const pids = workersOf(outbound)
    await outbound.stop('SIGKILL')
    await until('they are gone', () => pids.every((pid) => !readdirSync('/proc').includes(String(pid))))
  })

  it('follows a configuration, cuts on an intention, and keeps its token to itself', async (t) => {
    const { agent } = await startMesh(t, {
      acl: { enabled: true, managementToken: 'secret-7', defaultPolicy: 'deny' },
    })
    const application = await startApplication(t, echo)
    const [listen, port] = [await freePort(), await freePort()]
    const env = { CONSUL_HTTP_TOKEN: 'secret-7' }
    const flags = [
      '-service',
      'api',
      '-service-addr',
      String(application.port),
      '-listen',
      `127.0.0.1:${listen}`,
    ]
    agent.setIntention('web', 'api', 'allow')
    const inbound = await startProxy(t, agent.address, [...flags, '-register', '-workers', '2'], { env })
    await startProxy(t, agent.address, ['-service', 'web', '-upstream', `api:${port}`, '-workers', '2'], {
      env,
    })
    const sockets = Array.from({ length: 4 }, () => localConnect(t, port))
    for (const socket of sockets) {
      socket.write('hello')
      assert.equal(await nextData(socket), 'hello')
    }
    for (const pid of workersOf(inbound)) assert.equal(environment(pid).includes('secret-7'), false)
    const gone = Promise.all(sockets.map((socket) => rejection(readAll(socket))))
    agent.setIntention('web', 'api', 'deny')
    for (const { message } of await gone) assert.match(message, /ECONNRESET/)
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

  it('drains for more than 2^31 ms', async (t) => {
    const { agent } = await startMesh(t)
    const application = await startApplication(t, echo)
    const port = await freePort()
    await startPair(t, agent.address, application.port)
    const path = configFile(t, {
      service: 'web',
      drain_timeout_ms: 2 ** 31,
      workers: 2,
      upstreams: [{ destination_name: 'api', local_bind_port: port }],
    })
    const proxy = await startProxy(t, agent.address, ['-config-file', path], { ready: ['upstream is open'] })
    const socket = localConnect(t, port)
    socket.write('hello')
    assert.equal(await nextData(socket), 'hello')
    proxy.signal('SIGTERM')
    await until('the port is closed', () => isRefused(port))
    // Several round trips: a worker that is killed would have ended the connection.
    for (let i = 0; i < 100; i += 1) {
      socket.write('still here')
      assert.equal(await nextData(socket), 'still here')
    }
    socket.end()
    assert.equal(await proxy.ended(), 0)
  })
})
