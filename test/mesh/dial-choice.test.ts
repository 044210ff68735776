// Which instance a dial takes, with instances that really fail: refuse, stay silent, break off, or prove to be others.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Server, type Socket, connect as connectTcp, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { createServer as createTlsServer } from 'node:tls'
import {
  DialError,
  type Endpoint,
  type MeshSocket,
  type Resolver,
  Service,
  type ServiceOptions,
  TimeoutError,
} from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { portWithFullBacklog } from '../fixtures/full-backlog.js'

/** A TCP server that does something to each connection, and counts them. */
async function misbehave(t: TestContext, act: (socket: Socket) => void) {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
    counted.connections += 1
    // What is not read is never seen to end.
    socket.resume()
    act(socket)
  })
  const counted = { connections: 0, open: () => sockets.size, port: 0 }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  counted.port = (server.address() as AddressInfo).port
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return counted
}

function at(port: number, identity = 'api'): Endpoint {
  return { host: '127.0.0.1', port, identity: { service: identity } }
}

function sorted(...endpoints: Endpoint[]): Resolver {
  return { name: 'mine', isSorted: true, resolve: () => endpoints }
}

async function good(api: Service, word: string): Promise<Endpoint> {
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end(word))
  return at(portOf(listener))
}

/** A service on a clock that the test turns; the instances' standing goes by it. */
function timed(t: TestContext, agent: TestAgent, options: ServiceOptions = {}) {
  // Certificates go by the same clock.
  const clock = new FakeClock(Date.now())
  const time = { clock, random: () => 0 }
  const web = new Service('web', { agent: { address: agent.address, env: {} }, ...options }, time)
  t.after(async () => {
    web.destroy()
    await web.close()
  })
  return { web, clock }
}

describe('an instance that', () => {
  const broken: readonly (readonly [what: string, act: (socket: Socket) => void, code: string])[] = [
    ['closes in the handshake', (socket) => socket.destroy(), 'ECONNRESET'],
    ['resets in the handshake', (socket) => socket.resetAndDestroy(), 'ECONNRESET'],
    ['speaks another language', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), 'ERR_SSL'],
  ]
  for (const [what, act, code] of broken) {
    it(`${what} is passed over, and left out afterwards`, async (t) => {
      const { agent, join } = await startMesh(t)
      const bad = await misbehave(t, act)
      const resolver = sorted(at(bad.port), await good(join('api'), 'good'))
      const { web, clock } = timed(t, agent)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.connections, 1)
      // Its ejection is over: one trial, and a longer ejection.
      await clock.advance(1_000)
      for (let i = 0; i < 3; i += 1) assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.connections, 2)
      await clock.advance(1_000)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.connections, 2)
      await clock.advance(1_000)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.connections, 3)
      const error = await rejection(join('web').dial(sorted(at(bad.port))))
      assert.ok(error instanceof DialError)
      assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
      const cause = error.cause as NodeJS.ErrnoException
      assert.ok(`${cause.code} ${cause.message}`.includes(code) || /during the handshake/.test(cause.message))
    })
  }

  it('is gone refuses; when it is back, its trial brings it back', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const { port } = await misbehave(t, () => undefined)
    const away = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const first = at(portOf(away))
    await away.close()
    const resolver = sorted(first, await good(api, 'second'))
    const { web, clock } = timed(t, agent)
    assert.equal(await readAll(await web.dial(resolver)), 'second')
    const back = await api.listen({ port: first.port, host: '127.0.0.1' }, (socket) => socket.end('first'))
    assert.equal(await readAll(await web.dial(resolver)), 'second')
    await clock.advance(1_000)
    assert.equal(await readAll(await web.dial(resolver)), 'first')
    assert.equal(await readAll(await web.dial(resolver)), 'first')
    await back.close()
    assert.ok(port > 0)
  })

  it('accepts and never speaks costs its share of the time, once', async (t) => {
    const { agent, join } = await startMesh(t)
    const silent = await misbehave(t, () => undefined)
    const resolver = sorted(at(silent.port), await good(join('api'), 'good'))
    const { web } = timed(t, agent)
    const startedAt = performance.now()
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 2_000 })), 'good')
    assert.ok(performance.now() - startedAt >= 990)
    // The share of the good instance is longer than its handshake takes on a busy machine.
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 30_000 })), 'good')
    assert.equal(silent.connections, 1)
    const error = await rejection(web.dial(sorted(at(silent.port)), { timeoutMs: 100 }))
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.attempts.length, 1)
  })

  it('proves to be another service is passed over; alone, it is told as what it is', async (t) => {
    const { agent, join } = await startMesh(t)
    const { chainPem, privateKeyPem } = agent.issueLeaf('db')
    let handshakes = 0
    const impostor = createTlsServer({ cert: chainPem, key: privateKeyPem }, () => (handshakes += 1))
    impostor.on('tlsClientError', () => (handshakes += 1))
    impostor.listen(0, '127.0.0.1')
    await once(impostor, 'listening')
    t.after(() => impostor.close())
    const db = at((impostor.address() as AddressInfo).port)
    const resolver = sorted(db, await good(join('api'), 'good'))
    const { web } = timed(t, agent)
    for (let i = 0; i < 3; i += 1) assert.equal(await readAll(await web.dial(resolver)), 'good')
    assert.equal(handshakes, 1)
    const error = await rejection(web.dial(sorted(db)))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    assert.equal(error.attempts.length, 1)
  })
})

describe('a dial', () => {
  it('tries every instance once, the ejected ones last, and then looks again', async (t) => {
    const { agent, join } = await startMesh(t)
    const bad = await Promise.all([1, 2, 3].map(() => misbehave(t, (socket) => socket.destroy())))
    const late = await good(join('api'), 'late')
    const asked: boolean[] = []
    const resolver: Resolver = {
      name: 'mine',
      resolve: ({ refresh }) => {
        asked.push(refresh)
        return [...bad.map(({ port }) => at(port)), ...(refresh ? [late] : [])]
      },
    }
    const { web } = timed(t, agent)
    assert.equal(await readAll(await web.dial(resolver)), 'late')
    assert.deepEqual(asked, [false, true])
    assert.deepEqual(
      bad.map(({ connections }) => connections),
      [1, 1, 1],
    )
  })

  it('waits for instances that are slow, and tries others beside them', async (t) => {
    const { join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    // Each lets nothing through for a while.
    const slow = await Promise.all(
      [1, 2, 3].map(() =>
        misbehave(t, (socket) => {
          const onward = connectTcp(port, '127.0.0.1')
          onward.on('error', () => undefined).on('close', () => socket.destroy())
          socket.on('close', () => onward.destroy())
          socket.pause()
          setTimeout(() => socket.pipe(onward).pipe(socket), 600)
        }),
      ),
    )
    const web = join('web')
    const resolver = sorted(...slow.map((each) => at(each.port)))
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 1_000 })), 'good')
    // The second was begun, and neither it nor the first is held to have failed.
    assert.deepEqual(
      slow.slice(0, 2).map(({ connections }) => connections),
      [1, 1],
    )
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 1_000 })), 'good')
    assert.equal(slow[0]?.connections, 2)
  })

  it('is not led astray by a list that is changed behind its back', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('db'), greet)
    await offer(join('api'), greet)
    const web = join('web')
    const mine = { ...at(portOf(listener)), identity: { service: 'api' } as { service?: string } }
    const resolver = { name: 'mine', resolve: () => list } as unknown as Resolver
    const list = Object.freeze([mine])
    assert.equal((await rejection(web.dial(resolver))).code, 'ERR_CONNECT_PEER_IDENTITY')
    delete mine.identity.service
    assert.equal((await rejection(web.dial(resolver))).code, 'ERR_CONNECT_PEER_IDENTITY')
    const [endpoint] = (await web.resolve('api')) as unknown as { identity: { service?: string } }[]
    assert.throws(() => delete endpoint?.identity.service, TypeError)
  })

  it('that is aborted at any moment leaves nothing open', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    const silent = await misbehave(t, () => undefined)
    const accepted = await misbehave(t, () => undefined)
    for (const [moment, resolver] of [
      ['while it resolves', { name: 'never', resolve: () => new Promise<never>(() => undefined) }],
      ['in a handshake', sorted(at(silent.port), at(accepted.port))],
      ['while it connects', sorted(at(await portWithFullBacklog(t)))],
    ] as const) {
      const controller = new AbortController()
      const dialling = rejection(web.dial(resolver, { signal: controller.signal }))
      if (moment === 'in a handshake') while (silent.open() === 0) await new Promise(setImmediate)
      else await new Promise(setImmediate)
      controller.abort(new Error('enough'))
      const error = await dialling
      assert.equal(error.code, 'ERR_CONNECT_ABORTED', moment)
      while (silent.open() + accepted.open() > 0) await new Promise(setImmediate)
    }
    // The half of them would be ejected if an abort counted against them.
    assert.equal(accepted.connections, 0)
  })

  it('takes host names, and the same address twice as one', async (t) => {
    const { join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    const web = join('web')
    const byName = { ...at(port), host: 'localhost' }
    assert.equal(await readAll(await web.dial({ name: 'named', resolve: () => [byName] })), 'good')
    assert.equal(await readAll(await web.dial({ address: `localhost:${port}`, service: 'api' })), 'good')
    const bad = await misbehave(t, (socket) => socket.destroy())
    const error = await rejection(web.dial(sorted(at(bad.port), at(bad.port))))
    assert.ok(error instanceof DialError)
    assert.equal(error.attempts.length, 1)
    const nowhere = await rejection(web.dial({ address: 'no-such-host.invalid:1', service: 'api' }))
    assert.equal((nowhere.cause as NodeJS.ErrnoException).code, 'ENOTFOUND')
  })

  it('takes a list of addresses, and goes on to the next', async (t) => {
    const { agent, join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    const bad = await misbehave(t, (socket) => socket.destroy())
    const address = [`127.0.0.1:${bad.port}`, `127.0.0.1:${port}`]
    const { web } = timed(t, agent)
    for (let i = 0; i < 20; i += 1) {
      assert.equal(await readAll(await web.dial({ address, service: 'api' })), 'good')
    }
    assert.ok(bad.connections <= 1)
  })

  it('costs the agent nothing once the service is known', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api', { authorize: () => ({ authorized: true, reason: 'test' }) }), greet)
    const web = join('web')
    assert.equal(await readAll(await web.dial('api')), 'hello web')
    await agent.waitForBlocked('/v1/health/connect/api')
    const before = agent.requestCount()
    for (let i = 0; i < 100; i += 1) assert.equal(await readAll(await web.dial('api')), 'hello web')
    assert.equal(agent.requestCount(), before)
  })

  it('shares its watch with every service of the process, and with a forward', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const [web, other] = [join('web'), join('other')]
    const forward = await other.forward('api', { port: 0 })
    for (const dialler of [web, other]) await readAll(await dialler.dial('api'))
    await agent.waitForBlocked('/v1/health/connect/api')
    // One read of what there is, and one that blocks.
    assert.equal(agent.requestCount('/v1/health/connect/api'), 2)
    await forward.close()
  })

  it('goes to the instances that are there now', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const words = async (dials: number): Promise<string[]> => {
      const heard = new Set<string>()
      for (let i = 0; i < dials; i += 1) heard.add(await readAll(await web.dial('api')))
      return [...heard].sort()
    }
    const [one, two] = [await good(api, 'one'), await good(api, 'two')]
    const register = ({ port }: Endpoint, name: string): void => {
      agent.registerService({
        ID: name,
        Name: 'api',
        Port: port,
        Address: '127.0.0.1',
        Connect: { Native: true },
      })
    }
    const web = join('web')
    register(one, 'one')
    assert.deepEqual(await words(10), ['one'])
    const blocked = agent.requestCount('/v1/health/connect/api')
    register(two, 'two')
    await agent.waitForRequests('/v1/health/connect/api', blocked + 1)
    await agent.waitForBlocked('/v1/health/connect/api')
    assert.deepEqual(await words(40), ['one', 'two'])
    agent.deregisterService('one')
    await agent.waitForRequests('/v1/health/connect/api', blocked + 2)
    await agent.waitForBlocked('/v1/health/connect/api')
    assert.deepEqual(await words(10), ['two'])
  })
})

describe('resolve', () => {
  it('gives the endpoints, each with who must be there', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), greet)
    const [endpoint, ...others] = await join('web').resolve('api')
    assert.deepEqual(others, [])
    assert.deepEqual(endpoint, {
      host: '127.0.0.1',
      port: portOf(listener),
      identity: { service: 'api', datacenter: 'dc1', namespace: undefined, partition: undefined },
      weight: 1,
    })
  })

  it('can be built upon', async (t) => {
    const { join } = await startMesh(t)
    const listener = await offer(join('api'), greet)
    const web = join('web')
    const wrapped: Resolver = {
      name: 'mine',
      resolve: async ({ signal }) =>
        (await web.resolve('api', { signal })).filter(({ port }) => port === portOf(listener)),
    }
    assert.equal(await readAll(await web.dial(wrapped)), 'hello web')
  })

  it('has a bound, whose cause is what the agent said last', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    agent.fault('/v1/health/connect/api', { status: 500, body: 'No cluster leader' })
    const error = await rejection(web.resolve('api', { timeoutMs: 100 }))
    assert.ok(error instanceof TimeoutError)
    assert.match(error.message, /No cluster leader/)
  })
})

/** Keeps its connections; the least loaded is taken next. */
it('connections that stay open are spread evenly', async (t) => {
  const { join } = await startMesh(t)
  const api = join('api')
  const counts = [0, 0, 0]
  const endpoints = await Promise.all(
    counts.map(async (_, i) => {
      const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
        counts[i]! += 1
        socket.write('x')
      })
      return at(portOf(listener))
    }),
  )
  const web = join('web')
  const resolver: Resolver = { name: 'mine', resolve: () => endpoints }
  const open: MeshSocket[] = []
  for (let i = 0; i < 60; i += 1) {
    const socket = await web.dial(resolver)
    await once(socket, 'data')
    open.push(socket)
  }
  assert.equal(
    counts.reduce((sum, count) => sum + count),
    60,
  )
  // Of two that are drawn the lighter is taken: with three, none gets far from its third.
  for (const count of counts) assert.ok(count >= 15 && count <= 25, counts.join(' '))
  for (const socket of open) socket.destroy()
})
