// The instance that a dial chooses, with instances that fail: that refuse, stay silent, reset, or have another identity.
import assert from 'node:assert/strict'
import { type Socket, connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { DialError, type Endpoint, type Resolver, type Service, TimeoutError } from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import { portWithFullBacklog } from '../fixtures/full-backlog.js'
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { type ClockedService, clockedService } from './clocked-service.js'
import { startTcpServer } from './tcp-server.js'
import { startTlsServer, tlsOptions } from './tls-peer.js'

function at(port: number, identity = 'api'): Endpoint {
  return { host: '127.0.0.1', port, identity: { service: identity } }
}

function sorted(...endpoints: Endpoint[]): Resolver {
  return { name: 'mine', isSorted: true, resolve: () => endpoints }
}

async function good(api: Service, answer: string): Promise<Endpoint> {
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end(answer))
  return at(portOf(listener))
}

/** A dialing service on a clock of its own, which always draws the first instance. */
function startDialer(t: TestContext, { address }: TestAgent): ClockedService {
  return clockedService(t, 'web', { agent: { address, env: {} } }, () => 0)
}

describe('an instance that', () => {
  const broken: readonly (readonly [fault: string, onConnection: (socket: Socket) => void, code: string])[] =
    [
      ['closes during the handshake', (socket) => socket.destroy(), 'ECONNRESET'],
      ['resets during the handshake', (socket) => socket.resetAndDestroy(), 'ECONNRESET'],
      ['does not speak TLS', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), 'ERR_SSL'],
    ]
  for (const [fault, onConnection, code] of broken) {
    it(`${fault} is skipped, and ejected for a time that doubles`, async (t) => {
      const { agent, join } = await startMesh(t)
      const bad = await startTcpServer(t, onConnection)
      const resolver = sorted(at(bad.port), await good(join('api'), 'good'))
      const { service: web, clock } = startDialer(t, agent)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.accepted(), 1)
      // After the ejection of 1 s, one trial fails, and the next ejection takes 2 s.
      await clock.advance(1_000)
      for (let i = 0; i < 3; i += 1) assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.accepted(), 2)
      await clock.advance(1_000)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.accepted(), 2)
      await clock.advance(1_000)
      assert.equal(await readAll(await web.dial(resolver)), 'good')
      assert.equal(bad.accepted(), 3)
      const error = await rejection(join('web').dial(sorted(at(bad.port))))
      assert.ok(error instanceof DialError)
      assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
      const cause = error.cause as NodeJS.ErrnoException
      assert.ok(`${cause.code} ${cause.message}`.includes(code) || /during the handshake/.test(cause.message))
    })
  }

  it('refuses connections returns after a successful trial', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const away = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const first = at(portOf(away))
    await away.close()
    const resolver = sorted(first, await good(api, 'second'))
    const { service: web, clock } = startDialer(t, agent)
    assert.equal(await readAll(await web.dial(resolver)), 'second')
    const back = await api.listen({ port: first.port, host: '127.0.0.1' }, (socket) => socket.end('first'))
    assert.equal(await readAll(await web.dial(resolver)), 'second')
    await clock.advance(1_000)
    assert.equal(await readAll(await web.dial(resolver)), 'first')
    assert.equal(await readAll(await web.dial(resolver)), 'first')
    await back.close()
  })

  it('is silent costs its share of the timeout, and only once', async (t) => {
    const { agent, join } = await startMesh(t)
    const silent = await startTcpServer(t)
    const resolver = sorted(at(silent.port), await good(join('api'), 'good'))
    const { service: web } = startDialer(t, agent)
    const startedAt = performance.now()
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 2_000 })), 'good')
    assert.ok(performance.now() - startedAt >= 990)
    // Long enough for the handshake of the good instance on a busy machine.
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 30_000 })), 'good')
    assert.equal(silent.accepted(), 1)
    const error = await rejection(web.dial(sorted(at(silent.port)), { timeoutMs: 100 }))
    assert.ok(error instanceof TimeoutError)
    assert.deepEqual(
      error.attempts.map(({ address }) => address),
      [silent.address],
    )
    assert.ok(error.cause instanceof TimeoutError)
  })

  it('has another identity is skipped, and named when no other instance exists', async (t) => {
    const { agent, join } = await startMesh(t)
    const impostor = await startTlsServer(t, tlsOptions(agent.issueLeaf('db'), agent.ca))
    const db = at(impostor.port)
    const resolver = sorted(db, await good(join('api'), 'good'))
    const { service: web } = startDialer(t, agent)
    for (let i = 0; i < 3; i += 1) assert.equal(await readAll(await web.dial(resolver)), 'good')
    assert.equal(impostor.accepted(), 1)
    const error = await rejection(web.dial(sorted(db)))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    assert.equal(error.attempts.length, 1)
  })
})

describe('a dial', () => {
  it('tries every instance once, and then resolves again', async (t) => {
    const { agent, join } = await startMesh(t)
    const bad = await Promise.all([1, 2, 3].map(() => startTcpServer(t, (socket) => socket.destroy())))
    const late = await good(join('api'), 'late')
    const refreshes: boolean[] = []
    const resolver: Resolver = {
      name: 'mine',
      resolve: ({ refresh }) => {
        refreshes.push(refresh)
        return [...bad.map(({ port }) => at(port)), ...(refresh ? [late] : [])]
      },
    }
    const { service: web } = startDialer(t, agent)
    assert.equal(await readAll(await web.dial(resolver)), 'late')
    assert.deepEqual(refreshes, [false, true])
    assert.deepEqual(
      bad.map(({ accepted }) => accepted()),
      [1, 1, 1],
    )
  })

  it('waits for slow instances and tries the next ones in parallel', async (t) => {
    const { join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    // Each instance starts to forward after 600 ms.
    const slow = await Promise.all(
      [1, 2, 3].map(() =>
        startTcpServer(t, (socket) => {
          const onward = connect(port, '127.0.0.1')
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
    // The second attempt was started, and neither of the two counts as failed.
    assert.deepEqual([slow[0]?.accepted(), slow[1]?.accepted()], [1, 1])
    assert.equal(await readAll(await web.dial(resolver, { timeoutMs: 1_000 })), 'good')
    assert.equal(slow[0]?.accepted(), 2)
  })

  it('returns the connection to a slow instance while the second resolution hangs', async (t) => {
    const { join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    let resume = (): void => undefined
    const slow = await startTcpServer(t, (socket) => {
      const onward = connect(port, '127.0.0.1')
      onward.on('error', () => undefined).on('close', () => socket.destroy())
      socket.pause().on('close', () => onward.destroy())
      resume = () => {
        socket.pipe(onward).pipe(socket)
      }
    })
    const resolver: Resolver = {
      name: 'mine',
      resolve: ({ refresh }) => {
        if (!refresh) return [at(slow.port)]
        resume()
        return new Promise(() => undefined)
      },
    }
    assert.equal(await readAll(await join('web').dial(resolver)), 'good')
  })

  it('keeps the expected identities when the list of the resolver changes', async (t) => {
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

  it('leaves no connection open when it is aborted', async (t) => {
    const { join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    const [silent, next] = [await startTcpServer(t), await startTcpServer(t)]
    for (const [moment, resolver] of [
      ['while resolving', { name: 'never', resolve: () => new Promise<never>(() => undefined) }],
      ['during a handshake', sorted(at(silent.port), at(next.port))],
      ['while connecting', sorted(at(await portWithFullBacklog(t)))],
    ] as const) {
      const controller = new AbortController()
      const aborted = rejection(web.dial(resolver, { signal: controller.signal }))
      if (moment === 'during a handshake') while (silent.open() === 0) await new Promise(setImmediate)
      else await new Promise(setImmediate)
      const reason = new Error('enough')
      controller.abort(reason)
      const error = await aborted
      assert.deepEqual([error.name, error.code], ['AbortError', 'ERR_CONNECT_ABORTED'], moment)
      assert.equal(error.cause, reason)
      while (silent.open() + next.open() > 0) await new Promise(setImmediate)
    }
    // An abort does not count against the instance: otherwise the dial would have tried the next one.
    assert.equal(next.accepted(), 0)
  })

  it('accepts host names, and tries a repeated address once', async (t) => {
    const { join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    const web = join('web')
    const byName = { ...at(port), host: 'localhost' }
    assert.equal(await readAll(await web.dial({ name: 'named', resolve: () => [byName] })), 'good')
    assert.equal(await readAll(await web.dial({ address: `localhost:${port}`, service: 'api' })), 'good')
    const bad = await startTcpServer(t, (socket) => socket.destroy())
    const error = await rejection(web.dial(sorted(at(bad.port), at(bad.port))))
    assert.ok(error instanceof DialError)
    assert.equal(error.attempts.length, 1)
    const nowhere = await rejection(web.dial({ address: 'no-such-host.invalid:1', service: 'api' }))
    assert.equal((nowhere.cause as NodeJS.ErrnoException).code, 'ENOTFOUND')
  })

  it('accepts a list of addresses and tries the next one', async (t) => {
    const { agent, join } = await startMesh(t)
    const { port } = await good(join('api'), 'good')
    const bad = await startTcpServer(t, (socket) => socket.destroy())
    const address = [`127.0.0.1:${bad.port}`, `127.0.0.1:${port}`]
    const { service: web } = startDialer(t, agent)
    for (let i = 0; i < 20; i += 1) {
      assert.equal(await readAll(await web.dial({ address, service: 'api' })), 'good')
    }
    assert.ok(bad.accepted() <= 1)
  })

  it('shares its watch with all services of the process, and with forwards', async (t) => {
    const { agent, join } = await startMesh(t)
    await offer(join('api'), greet)
    const [web, batch] = [join('web'), join('batch')]
    const forward = await batch.forward('api', { port: 0 })
    for (const service of [web, batch]) await readAll(await service.dial('api'))
    await agent.waitForBlocked('/v1/health/connect/api')
    // A first read, and a blocking query.
    assert.equal(agent.requestCount('/v1/health/connect/api'), 2)
    await forward.close()
  })
})

describe('resolve', () => {
  it('returns the endpoints with the identities that they must have', async (t) => {
    const { agent, join } = await startMesh(t)
    const listener = await offer(join('api'), greet)
    const endpoints = await join('web').resolve('api')
    assert.deepEqual(endpoints, [
      {
        host: '127.0.0.1',
        port: portOf(listener),
        identity: { service: 'api', datacenter: 'dc1', namespace: 'default', partition: 'default' },
        weight: 1,
        serverName: `api.default.dc1.internal.${agent.trustDomain}`,
      },
    ])
  })

  it('can be used by a resolver', async (t) => {
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

  it('fails at its timeout with the last answer of the agent', async (t) => {
    const { agent, join } = await startMesh(t)
    const web = join('web')
    await web.ready()
    agent.fault('/v1/health/connect/api', { status: 500, body: 'No cluster leader' })
    const error = await rejection(web.resolve('api', { timeoutMs: 100 }))
    assert.ok(error instanceof TimeoutError)
    assert.match(error.message, /No cluster leader/)
  })
})
