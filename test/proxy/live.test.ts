// Changes of the configuration while connections are open: unchanged parts are not affected.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import type { TestAgent } from '../../src/testing/index.js'
import { WAIT_MS, ask, readAll, until } from '../fixtures/mesh.js'
import {
  type RunningProxy,
  connectEcho,
  isRefused,
  localConnect,
  startApplication,
  startEchoPair,
  startProxy,
} from './connect-proxy.js'

interface Upstream {
  readonly DestinationName: string
  readonly LocalBindPort: number
  readonly DestinationType?: string
  readonly Config?: object
}

interface Registered {
  readonly port: number
  readonly applicationPort: number
  readonly upstreams?: readonly Upstream[]
  readonly config?: object
  readonly service?: string
}

const ID = 'web-1-proxy'

/** Registers the proxy, or changes its registration. */
async function register(agent: TestAgent, registered: Registered): Promise<void> {
  const { port, applicationPort, upstreams = [], config = {}, service = 'web' } = registered
  const response = await fetch(`${agent.url}/v1/agent/service/register`, {
    method: 'PUT',
    body: JSON.stringify({
      Kind: 'connect-proxy',
      ID,
      Name: `${service}-proxy`,
      Address: '127.0.0.1',
      Port: port,
      Proxy: {
        DestinationServiceName: service,
        DestinationServiceID: 'web-1',
        LocalServiceAddress: '127.0.0.1',
        LocalServicePort: applicationPort,
        Config: config,
        Upstreams: upstreams,
      },
    }),
  })
  assert.equal(response.status, 200, await response.text())
}

/** Starts `api` behind a sidecar, and a sidecar of `web` that reads its configuration from the agent. */
async function start(t: TestContext) {
  const { agent, join, application } = await startEchoPair(t)
  const [port, upstream] = [await freePort(), await freePort()]
  const upstreams: Upstream[] = [{ DestinationName: 'api', LocalBindPort: upstream }]
  const registered = { port, applicationPort: application.port, upstreams }
  await register(agent, registered)
  const proxy = await startProxy(t, agent.address, ['-sidecar-for', 'web-1'], {
    ready: ['public listener is open', 'upstream is open'],
  })
  return { agent, join, proxy, registered, upstream }
}

/** Sends data over an echo connection until `finish()`, which checks that every byte came back. */
function startExchange(t: TestContext, port: number) {
  const socket = localConnect(t, port)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  let [sentBytes, receivedBytes] = [0, 0]
  let isStopping = false
  const piece = randomBytes(10_000)
  const send = (): void => {
    sent.update(piece)
    sentBytes += piece.length
    socket.write(piece)
  }
  socket.on('data', (chunk: Buffer) => {
    received.update(chunk)
    receivedBytes += chunk.length
    if (receivedBytes !== sentBytes) return
    if (isStopping) socket.end()
    else send()
  })
  const ended = new Promise<void>((resolve, reject) => {
    socket.once('end', resolve).once('error', reject)
    AbortSignal.timeout(4 * WAIT_MS).addEventListener('abort', () => {
      reject(new Error('the exchange did not end'))
    })
  })
  // finish() reports the error.
  ended.catch(() => undefined)
  send()
  return {
    finish: async (): Promise<void> => {
      isStopping = true
      await ended
      assert.ok(receivedBytes > 0)
      assert.equal(received.digest('hex'), sent.digest('hex'))
    },
  }
}

/** Makes a change, and waits until the proxy has applied it. */
async function applied(proxy: RunningProxy, change: () => Promise<void>): Promise<void> {
  const before = proxy.lines.length
  await change()
  await proxy.logged('configuration applied', before)
}

describe('a change of the configuration of a sidecar', () => {
  it('adds, moves, changes, and removes upstreams without loss of a byte on other connections', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    const steady = Array.from({ length: 4 }, () => startExchange(t, upstream))
    const [untouched] = registered.upstreams
    const [second, third] = [await freePort(), await freePort()]
    const change = (...others: Upstream[]): Promise<void> =>
      applied(proxy, () => register(agent, { ...registered, upstreams: [untouched!, ...others] }))
    // Add an upstream.
    await change({ DestinationName: 'api', LocalBindPort: second })
    await until('the added upstream listens', async () => !(await isRefused(second)))
    const open = await connectEcho(t, second)
    // Move it.
    await change({ DestinationName: 'api', LocalBindPort: third })
    await until('the old port is closed', () => isRefused(second))
    await until('the new port listens', async () => !(await isRefused(third)))
    // Connections over the old port stay open.
    open.end('bye')
    assert.equal(await readAll(open), 'bye')
    // Change its timeout. Open connections stay.
    const kept = startExchange(t, third)
    await change({ DestinationName: 'api', LocalBindPort: third, Config: { connect_timeout_ms: 50 } })
    await until('the port listens again', async () => !(await isRefused(third)))
    await kept.finish()
    // Change its destination.
    await change({ DestinationName: 'missing', LocalBindPort: third })
    await until('the port listens again', async () => !(await isRefused(third)))
    // A connection that ends at once may be gone before its dial fails.
    await assert.rejects(readAll(connect(third, '127.0.0.1')), { code: 'ECONNRESET' })
    await proxy.logged('dial missing')
    // Remove and add it ten times.
    for (let i = 0; i < 10; i += 1) {
      await change(...(i % 2 === 0 ? [] : [{ DestinationName: 'api', LocalBindPort: third }]))
    }
    for (const exchange of steady) await exchange.finish()
    assert.equal(await proxy.metric('connections_closed_total', { reason: 'broken' }), 0)
  })

  it('moves the public listener, and keeps open connections', async (t) => {
    const { agent, proxy, registered, join } = await start(t)
    const client = join('client')
    const dial = async (port: number) => client.dial({ address: `127.0.0.1:${port}`, service: 'web' })
    const open = await dial(registered.port)
    assert.equal(await ask(open, 'first'), 'first')
    const moved = await freePort()
    await applied(proxy, () => register(agent, { ...registered, port: moved }))
    await until('the new port listens', async () => !(await isRefused(moved)))
    await until('the old port is closed', () => isRefused(registered.port))
    assert.equal(await ask(open, 'still here'), 'still here')
    const fresh = await dial(moved)
    fresh.end('hello')
    assert.equal(await readAll(fresh), 'hello')
    open.end()
  })

  it('connects new connections to the new address of the application', async (t) => {
    const { agent, proxy, registered, join } = await start(t)
    const other = await startApplication(t, (socket) => socket.end('other'))
    await applied(proxy, () => register(agent, { ...registered, applicationPort: other.port }))
    const socket = await join('client').dial({ address: `127.0.0.1:${registered.port}`, service: 'web' })
    assert.equal(await readAll(socket), 'other')
    // The listener stayed open.
    assert.equal(proxy.lines.filter(({ msg }) => msg === 'public listener is open').length, 1)
  })

  it('uses the default for an invalid setting, skips an invalid upstream, and reports each once', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    const before = proxy.lines.length
    const invalid = { DestinationName: 'db', LocalBindPort: 1, Config: { tag: ['primary'] } }
    const upstreams = [...registered.upstreams, invalid]
    const config = { handshake_timeout_ms: 'soon', drain_timeout_ms: '5000', colour: 'red' }
    await applied(proxy, () => register(agent, { ...registered, upstreams, config }))
    const problems = [
      'handshake_timeout_ms: expected a positive number of milliseconds, got the string "soon"; the default applies: 10000',
      'upstreams[1].config.tag: expected one of tags, filter, near, got an unknown key; this upstream is not served',
    ]
    for (const problem of problems) await proxy.logged(problem, before)
    await proxy.logged('colour: unknown key, which has no effect', before)
    await connectEcho(t, upstream)
    const { status, text } = await proxy.admin('/ready')
    assert.equal(status, 200)
    assert.deepEqual((JSON.parse(text) as { problems: string[] }).problems, problems)
    const { drainTimeoutMs } = JSON.parse((await proxy.admin('/config')).text) as { drainTimeoutMs: number }
    assert.equal(drainTimeoutMs, 5_000)
    await applied(proxy, () =>
      register(agent, { ...registered, upstreams, config: { ...config, drain_timeout_ms: '6000' } }),
    )
    assert.equal(proxy.lines.slice(before).filter(({ msg }) => msg === problems[1]).length, 1)
  })

  it('keeps the current configuration when the registration is unusable, and reports it until it is usable', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    await register(agent, { ...registered, config: { namespace: 'a/b', BindPort: 1, bind_port: 2 } })
    await proxy.logged('configuration: config.bind_port: expected one spelling of a key, got two')
    const reported = async (): Promise<string[]> =>
      (JSON.parse((await proxy.admin('/ready')).text) as { problems: string[] }).problems
    assert.deepEqual(await reported(), [
      'configuration: config.bind_port: expected one spelling of a key, got two',
    ])
    await connectEcho(t, upstream)
    await register(agent, registered)
    await until('no problem is reported', async () => (await reported()).length === 0)
  })

  it('becomes the proxy of another service', async (t) => {
    const { agent, proxy, registered, join } = await start(t)
    const from = proxy.lines.length
    await register(agent, { ...registered, service: 'shop' })
    await proxy.logged(
      ({ msg, uri }) => msg === 'certificate in use' && String(uri).endsWith('/svc/shop'),
      from,
    )
    await proxy.logged('public listener is open', from)
    const client = join('client')
    const socket = await client.dial({ address: `127.0.0.1:${registered.port}`, service: 'shop' })
    socket.end('x')
    assert.equal(await readAll(socket), 'x')
  })

  it('keeps the current configuration when the registration is removed', async (t) => {
    const { agent, proxy, upstream } = await start(t)
    await fetch(`${agent.url}/v1/agent/service/deregister/${ID}`, { method: 'PUT' })
    await proxy.logged(
      'expected one proxy registered for the service instance web-1 on this agent, found none',
    )
    await connectEcho(t, upstream)
  })
})
