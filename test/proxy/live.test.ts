// A configuration that changes while connections are open: only what has changed is touched.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import type { TestAgent } from '../../src/testing/index.js'
import { WAIT_MS, ask, readAll, startMesh, until } from '../fixtures/mesh.js'
import {
  type RunningProxy,
  echo,
  isRefused,
  localConnect,
  nextData,
  startApplication,
  startPair,
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

/** Registers the proxy, or changes its registration, as its operator would. */
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

/** A service `api` behind a sidecar, and the sidecar of `web`, which takes its configuration from the agent. */
async function start(t: TestContext) {
  const { agent, join } = await startMesh(t)
  const application = await startApplication(t, echo)
  await startPair(t, agent.address, application.port)
  const [port, upstream] = [await freePort(), await freePort()]
  const upstreams: Upstream[] = [{ DestinationName: 'api', LocalBindPort: upstream }]
  const registered = { port, applicationPort: application.port, upstreams }
  await register(agent, registered)
  const proxy = await startProxy(t, agent.address, ['-sidecar-for', 'web-1'], {
    ready: ['public listener is open', 'upstream is open'],
  })
  return { agent, join, proxy, registered, upstream, application }
}

/** Sends and checks what comes back, until it is stopped. */
function exchangeForever(t: TestContext, port: number) {
  const socket = localConnect(t, port)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  let [sentBytes, receivedBytes] = [0, 0]
  let stopping = false
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
    if (stopping) socket.end()
    else send()
  })
  const ended = new Promise<void>((resolve, reject) => {
    socket.once('end', resolve).once('error', reject)
    AbortSignal.timeout(4 * WAIT_MS).addEventListener('abort', () => {
      reject(new Error('it has not ended'))
    })
  })
  // Looked at when it is stopped.
  ended.catch(() => undefined)
  send()
  return {
    /** Everything that was sent has come back, over the same connection. */
    finish: async (): Promise<void> => {
      stopping = true
      await ended
      assert.ok(receivedBytes > 0)
      assert.equal(received.digest('hex'), sent.digest('hex'))
    },
  }
}

async function isEcho(t: TestContext, port: number): Promise<Socket> {
  const socket = localConnect(t, port)
  socket.write('hello')
  assert.equal(await nextData(socket), 'hello')
  return socket
}

/** Waits until it has applied another configuration than those before. */
async function applied(proxy: RunningProxy, change: () => Promise<void>): Promise<void> {
  const before = proxy.lines.length
  await change()
  await proxy.logged('configuration applied', before)
}

describe('a configuration that changes under load', () => {
  it('upstreams come, go and move, and the untouched ones lose no byte', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    const steady = Array.from({ length: 4 }, () => exchangeForever(t, upstream))
    const [untouched] = registered.upstreams
    const [second, third] = [await freePort(), await freePort()]
    const change = (...others: Upstream[]): Promise<void> =>
      applied(proxy, () => register(agent, { ...registered, upstreams: [untouched!, ...others] }))
    // Added.
    await change({ DestinationName: 'api', LocalBindPort: second })
    await until('the added one listens', async () => !(await isRefused(second)))
    const doomed = await isEcho(t, second)
    // Moved.
    await change({ DestinationName: 'api', LocalBindPort: third })
    await until('the old place is gone', () => isRefused(second))
    await until('the new place listens', async () => !(await isRefused(third)))
    // One that was open where nobody listens any more may end in its time.
    doomed.end('bye')
    assert.equal(await readAll(doomed), 'bye')
    // Tuned: what is open leads where it did, and lives on.
    const tuned = exchangeForever(t, third)
    await change({ DestinationName: 'api', LocalBindPort: third, Config: { connect_timeout_ms: 50 } })
    await until('it listens again', async () => !(await isRefused(third)))
    await tuned.finish()
    // Led elsewhere.
    await change({ DestinationName: 'nobody', LocalBindPort: third })
    await until('it listens again', async () => !(await isRefused(third)))
    await proxy.logged('dial nobody')
    // Removed and added, ten times over.
    for (let i = 0; i < 10; i += 1) {
      await change(...(i % 2 === 0 ? [] : [{ DestinationName: 'api', LocalBindPort: third }]))
    }
    for (const one of steady) await one.finish()
    assert.equal(await proxy.metric('connections_closed_total', { reason: 'broken' }), 0)
  })

  it('the public listener moves, and open connections live on', async (t) => {
    const { agent, proxy, registered, join } = await start(t)
    const client = join('client')
    const dial = async (port: number) => client.dial({ address: `127.0.0.1:${port}`, service: 'web' })
    const open = await dial(registered.port)
    assert.equal(await ask(open, 'first'), 'first')
    const moved = await freePort()
    await applied(proxy, () => register(agent, { ...registered, port: moved }))
    await until('the new place listens', async () => !(await isRefused(moved)))
    await until('the old place is gone', () => isRefused(registered.port))
    assert.equal(await ask(open, 'still here'), 'still here')
    const fresh = await dial(moved)
    fresh.end('hello')
    assert.equal(await readAll(fresh), 'hello')
    open.end()
  })

  it('the application moves: new connections go there', async (t) => {
    const { agent, proxy, registered, join } = await start(t)
    const other = await startApplication(t, (socket) => socket.end('other'))
    await applied(proxy, () => register(agent, { ...registered, applicationPort: other.port }))
    const socket = await join('client').dial({ address: `127.0.0.1:${registered.port}`, service: 'web' })
    assert.equal(await readAll(socket), 'other')
    // Nothing was opened anew for it.
    assert.equal(proxy.lines.filter(({ msg }) => msg === 'public listener is open').length, 1)
  })

  it('a wrong value costs what it belongs to, and is reported once', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    const before = proxy.lines.length
    const wrong = { DestinationName: 'db', LocalBindPort: 1, Config: { tag: ['primary'] } }
    const upstreams = [...registered.upstreams, wrong]
    const config = { handshake_timeout_ms: 'soon', drain_timeout_ms: '5000', colour: 'red' }
    await applied(proxy, () => register(agent, { ...registered, upstreams, config }))
    const problems = [
      'handshake_timeout_ms: expected a positive number of milliseconds, got the string "soon"; the default applies: 10000',
      'upstreams[1].config.tag: expected one of tags, filter, near, got an unknown key; this upstream is not served',
    ]
    for (const problem of problems) await proxy.logged(problem, before)
    await proxy.logged('colour: no such key; it has no effect', before)
    await isEcho(t, upstream)
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

  it('an unusable registration changes nothing, and is shown until it is mended', async (t) => {
    const { agent, proxy, registered, upstream } = await start(t)
    await register(agent, { ...registered, config: { namespace: 'a/b', BindPort: 1, bind_port: 2 } })
    await proxy.logged('configuration: config.bind_port: expected one spelling of a key, got two')
    const shown = async (): Promise<string[]> =>
      (JSON.parse((await proxy.admin('/ready')).text) as { problems: string[] }).problems
    assert.deepEqual(await shown(), [
      'configuration: config.bind_port: expected one spelling of a key, got two',
    ])
    await isEcho(t, upstream)
    await register(agent, registered)
    await until('nothing is wrong', async () => (await shown()).length === 0)
  })

  it('another service: the proxy stands for that one from then on', async (t) => {
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

  it('a registration that is gone: it goes on with what it has', async (t) => {
    const { agent, proxy, upstream } = await start(t)
    await fetch(`${agent.url}/v1/agent/service/deregister/${ID}`, { method: 'PUT' })
    await proxy.logged(
      'expected one proxy registered for the service instance web-1 on this agent, found none',
    )
    await isEcho(t, upstream)
  })
})
