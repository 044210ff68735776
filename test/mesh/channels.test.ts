import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { connect as tcpConnect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { ChannelMessages } from '../../src/index.js'
import { greet, nextEvent, offer, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'

/** Collects the messages of a channel until the end of the test. */
function collect<K extends keyof ChannelMessages>(t: TestContext, name: K): ChannelMessages[K][] {
  const messages: ChannelMessages[K][] = []
  const onMessage = (message: unknown): void => {
    messages.push(message as ChannelMessages[K])
  }
  subscribe(name, onMessage)
  t.after(() => unsubscribe(name, onMessage))
  return messages
}

describe('channels', () => {
  it('report a successful dial with its failed attempts', async (t) => {
    const { join } = await startMesh(t)
    const port = portOf(await offer(join('api'), greet))
    const web = join('web')
    const dials = collect(t, 'consul-connect:dial')
    // Sorted, so that the port without a listener comes first.
    const resolver = {
      name: 'two instances',
      isSorted: true,
      resolve: () =>
        [1, port].map((each) => ({ host: '127.0.0.1', port: each, identity: { service: 'api' } })),
    }
    const socket = await web.dial(resolver)
    assert.equal(await readAll(socket), 'hello web')
    assert.equal(dials.length, 1)
    const [dial] = dials
    assert.ok(dial !== undefined && dial.durationMs > 0)
    const { durationMs, attempts, ...rest } = dial
    assert.deepEqual(
      attempts.map(({ address, error }) => [address, (error as { code?: string }).code]),
      [['127.0.0.1:1', 'ECONNREFUSED']],
    )
    assert.deepEqual(rest, {
      service: 'web',
      upstream: 'two instances',
      peer: socket.peer,
      address: `127.0.0.1:${port}`,
      target: {
        service: 'api',
        subset: undefined,
        namespace: undefined,
        partition: undefined,
        datacenter: undefined,
      },
      error: undefined,
    })
    const counted = { upstream: 'two instances', ...dial.target, count: 1 }
    assert.deepEqual(web.stats().attempts, [
      { ...counted, connected: false },
      { ...counted, connected: true },
    ])
  })

  it('report a failed dial with the error that was thrown', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    const dials = collect(t, 'consul-connect:dial')
    const error = await rejection(web.dial('missing'))
    assert.deepEqual(
      dials.map(({ upstream, peer, address, error: reported }) => [upstream, peer, address, reported]),
      [['missing', undefined, undefined, error]],
    )
  })

  it('report a dial in the async context of the call, through each adapter', async (t) => {
    const { join } = await startMesh(t)
    await offer(join('api'), greet)
    const web = join('web')
    const context = new AsyncLocalStorage<string>()
    const contexts: (string | undefined)[] = []
    const onDial = (): void => void contexts.push(context.getStore())
    subscribe('consul-connect:dial', onDial)
    t.after(() => unsubscribe('consul-connect:dial', onDial))
    await context.run('dial', async () => readAll(await web.dial('api')))
    await context.run('stream', async () => readAll(web.stream('api')))
    // The request fails, because the service does not speak HTTP.
    await context.run('fetch', () => rejection(web.fetch('https://api.service.consul/')))
    assert.deepEqual(contexts, ['dial', 'stream', 'fetch'])
  })

  it('report handshakes, decisions, and revocations, and no private key in any message', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await offer(api, (socket) => socket.pipe(socket)))
    const dials = collect(t, 'consul-connect:dial')
    const rotations = collect(t, 'consul-connect:rotation')
    const requests = collect(t, 'consul-connect:agent-request')
    const handshakes = collect(t, 'consul-connect:handshake')
    const decisions = collect(t, 'consul-connect:decision')
    const revocations = collect(t, 'consul-connect:revocation')
    const web = join('web')
    const socket = await web.dial('api')
    socket.on('error', () => undefined)
    await until('the connection is authorized', () => decisions.length === 1)
    const [{ durationMs, peer, ...decision }] = decisions as [ChannelMessages['consul-connect:decision']]
    assert.ok(durationMs >= 0)
    assert.equal(peer.service, 'web')
    assert.deepEqual(decision, {
      service: 'api',
      authorized: true,
      basis: 'default',
      reason: decision.reason,
    })
    assert.equal(handshakes.length, 1)
    assert.equal(handshakes[0]?.peer?.spiffeId, peer.spiffeId)
    assert.deepEqual([handshakes[0].service, handshakes[0].error], ['api', undefined])
    assert.ok((handshakes[0].durationMs ?? 0) > 0)
    const revoked = nextEvent(api, 'revoked')
    agent.setIntention('web', 'api', 'deny')
    const [error] = await revoked
    assert.deepEqual(revocations, [{ service: 'api', peer, error }])
    // A client that does not speak TLS.
    tcpConnect(port, '127.0.0.1')
      .on('error', () => undefined)
      .end('GET / HTTP/1.1\r\n\r\n')
    const failed = await until('a handshake has failed', () =>
      handshakes.find(({ error: cause }) => cause !== undefined),
    )
    assert.deepEqual([failed.service, failed.peer], ['api', undefined])
    assert.match(failed.error?.message ?? '', /SSL|TLS|wrong version|disconnected/i)
    assert.equal(decisions.length, 1)
    const all = [dials, rotations, requests, handshakes, decisions, revocations]
    for (const messages of all) assert.ok(messages.length > 0)
    assert.ok(!inspect(all, { depth: 20, showHidden: true }).includes('PRIVATE KEY'))
  })

  it('report the decisions of authorize()', async (t) => {
    const { join } = await startMesh(t)
    const api = join('api', { authorize: () => ({ authorized: false, reason: 'no' }) })
    await offer(join('db'), greet)
    const { peer } = await api.dial('db')
    const decisions = collect(t, 'consul-connect:decision')
    await api.authorize(peer)
    assert.deepEqual(
      decisions.map(({ authorized, reason, basis }) => ({ authorized, reason, basis })),
      [{ authorized: false, reason: 'no', basis: 'authorizer' }],
    )
  })

  it('report new certificates and roots', async (t) => {
    const { agent, join } = await startMesh(t)
    const rotations = collect(t, 'consul-connect:rotation')
    const web = join('web')
    await web.ready()
    const rotated = nextEvent(web, 'rotated')
    agent.rotateCa()
    await rotated
    await until('all rotations are reported', () => rotations.length === 3)
    assert.deepEqual(rotations.map(({ service, what }) => [service, what]).sort(), [
      ['web', 'leaf'],
      ['web', 'leaf'],
      ['web', 'roots'],
    ])
    assert.equal(rotations.at(-1)?.roots.pems.length, 2)
    assert.equal(rotations.findLast(({ what }) => what === 'leaf')?.leaf.uri, web.leaf?.uri)
  })

  it('report requests to the agent without tokens and keys', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t)
    const requests = collect(t, 'consul-connect:agent-request')
    const token = 'a-secret-token'
    const web = join('web', { agent: { ...agentOptions, token } })
    await web.ready()
    agent.fault(/\/v1\/agent\/service\/register/, { status: 500 })
    await rejection(web.register({ port: 1 }))
    await agent.waitForBlocked(/leaf/)
    agent.renewLeaf('web')
    await until('a blocking query is reported', () => requests.some(({ isBlocking }) => isBlocking))
    const of = (path: string) => requests.filter((request) => request.path.startsWith(path))
    const [first] = of('/v1/agent/connect/ca/leaf/web')
    assert.ok(first !== undefined && first.durationMs > 0)
    const { durationMs, ...leaf } = first
    assert.deepEqual(leaf, {
      address: agent.url,
      method: 'GET',
      path: '/v1/agent/connect/ca/leaf/web',
      isBlocking: false,
      status: 200,
      error: undefined,
    })
    assert.equal(of('/v1/agent/service/register')[0]?.status, 500)
    const shown = inspect(requests, { depth: 10, showHidden: true })
    assert.ok(!shown.includes(token))
    assert.ok(!shown.includes('PRIVATE KEY'))
  })

  it('report why the agent did not answer', async (t) => {
    const { join, agent } = await startMesh(t)
    const requests = collect(t, 'consul-connect:agent-request')
    await agent.stop()
    const web = join('web')
    await rejection(web.ready({ timeoutMs: 200 }))
    assert.ok(
      requests.some(
        ({ status, error }) =>
          status === undefined &&
          (error as { code?: string } | undefined)?.code === 'ERR_CONNECT_AGENT_UNREACHABLE',
      ),
    )
  })
})
