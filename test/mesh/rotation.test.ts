import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { describe, it } from 'node:test'
import { type Leaf, type MeshSocket, type Service, service } from '../../src/index.js'
import { TestAgent, TestCa } from '../../src/testing/index.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { greet, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { Service as TimedService } from '../../src/service/service.js'

type Emitter = NodeJS.EventEmitter

const rotated = async (from: Service): Promise<Leaf> =>
  ((await once(from as unknown as Emitter, 'rotated')) as [Leaf])[0]
const warning = async (from: Service): Promise<Error & { code?: string }> =>
  ((await once(from as unknown as Emitter, 'warning')) as [Error])[0]

describe('rotation', () => {
  it('of a leaf reaches new connections at once and breaks no open one', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await offer(api, (socket) => socket.pipe(socket))
    const before = await web.dial('api')
    const renewed = rotated(api)
    agent.renewLeaf('api')
    await renewed
    const after = await web.dial('api')
    assert.notEqual(after.peer.serialNumber, before.peer.serialNumber)
    assert.equal(after.peer.serialNumber, api.leaf?.serialNumber)
    await echo(before)
    await echo(after)
  })

  it('of the CA under a stream of dials fails none', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const web = join('web')
    await offer(api, greet)
    await web.ready()
    const old = agent.ca.root.fingerprint256
    let dials = 0
    const stop = new AbortController()
    const progress = new EventEmitter()
    const stream = (async () => {
      while (!stop.signal.aborted) {
        assert.equal(await readAll(await web.dial('api')), 'hello web')
        progress.emit(String((dials += 1)))
      }
    })()
    const more = (count: number): Promise<unknown> =>
      Promise.race([stream, once(progress, String(dials + count))])
    for (let i = 0; i < 3; i += 1) {
      const bothNew = Promise.all([rotated(api), rotated(web)])
      agent.rotateCa()
      await bothNew
      await more(3)
      const dropped = once(web as unknown as Emitter, 'roots')
      agent.dropOldRoot()
      await dropped
      await more(3)
    }
    stop.abort()
    await stream
    assert.ok(dials >= 18, `${dials} dials`)
    assert.notEqual(agent.ca.root.fingerprint256, old)
    assert.deepEqual(
      web.roots?.certificates.map((root) => root.fingerprint256),
      [agent.ca.root.fingerprint256],
    )
  })

  it('drops a root as soon as the mesh drops it', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const port = portOf(await api.listen({ port: 0, host: '127.0.0.1' }, greet))
    const web = join('web')
    await web.ready()
    const oldLeaf = agent.issueLeaf('api')
    const renewed = Promise.all([rotated(api), rotated(web)])
    agent.rotateCa()
    await renewed
    const dropped = once(web as unknown as Emitter, 'roots')
    agent.dropOldRoot()
    await dropped
    const { createServer } = await import('node:tls')
    const server = createServer({ cert: oldLeaf.certificatePem, key: oldLeaf.privateKeyPem })
    server.on('tlsClientError', () => undefined).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const address = `127.0.0.1:${(server.address() as { port: number }).port}`
    assert.equal((await rejection(web.dial({ address, service: 'api' }))).code, 'ERR_CONNECT_PEER_UNTRUSTED')
    assert.equal(await readAll(await web.dial({ address: `127.0.0.1:${port}`, service: 'api' })), 'hello web')
  })
})

describe('a leaf is refused, and the last good one kept, when', () => {
  const path = '/v1/agent/connect/ca/leaf/web'
  const bad: readonly { what: string; code: string; leaf: (agent: TestAgent) => object }[] = [
    {
      what: 'its key is another’s',
      code: 'ERR_CONNECT_LEAF_KEY',
      leaf: (agent) => ({
        CertPEM: agent.issueLeaf('web').certificatePem,
        PrivateKeyPEM: agent.issueLeaf('web').privateKeyPem,
      }),
    },
    {
      what: 'it names another service',
      code: 'ERR_CONNECT_LEAF_SERVICE',
      leaf: (agent) => pems(agent.issueLeaf('admin')),
    },
    {
      what: 'it names another trust domain',
      code: 'ERR_CONNECT_LEAF_SERVICE',
      leaf: (agent) => pems(agent.issueLeaf('web', { trustDomain: 'other.consul' })),
    },
    {
      what: 'it chains to no known root',
      code: 'ERR_CONNECT_LEAF_UNTRUSTED',
      leaf: (agent) => pems(TestCa.create({ trustDomain: agent.trustDomain }).issue({ service: 'web' })),
    },
    {
      what: 'it has expired',
      code: 'ERR_CONNECT_LEAF_EXPIRED',
      leaf: (agent) =>
        pems(
          agent.issueLeaf('web', {
            notBefore: new Date(Date.now() - 9e6),
            notAfter: new Date(Date.now() - 6e4),
          }),
        ),
    },
    {
      what: 'it is not valid yet',
      code: 'ERR_CONNECT_LEAF_MALFORMED',
      leaf: (agent) => pems(agent.issueLeaf('web', { notBefore: new Date(Date.now() + 9e6) })),
    },
    {
      what: 'it is a CA',
      code: 'ERR_CONNECT_LEAF_MALFORMED',
      leaf: (agent) => pems(agent.issueLeaf('web', { isCa: true })),
    },
    {
      what: 'it is of a kind that TLS refuses',
      code: 'ERR_CONNECT_LEAF_UNTRUSTED',
      leaf: (agent) => {
        // 512 bits: fine for a parser, too few for OpenSSL.
        const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 512 })
        const issued = agent.issueLeaf('web', { privateKey })
        return {
          CertPEM: issued.chainPem,
          PrivateKeyPEM: privateKey.export({ type: 'pkcs8', format: 'pem' }),
        }
      },
    },
    {
      what: 'it is no certificate',
      code: 'ERR_CONNECT_LEAF_MALFORMED',
      leaf: () => ({ CertPEM: 'x', PrivateKeyPEM: 'y' }),
    },
  ]
  for (const { what, code, leaf } of bad) {
    it(what, async (t) => {
      const { agent, join } = await startMesh(t)
      const web = join('web')
      await web.ready()
      const good = web.leaf
      await agent.waitForBlocked(path)
      const undo = agent.fault(path, {
        transform: (json) => ({ ...(json as object), ...leaf(agent) }),
      })
      const warned = warning(web)
      agent.renewLeaf('web')
      assert.equal((await warned).code, code)
      assert.equal(web.leaf, good)
      await offer(join('api'), greet)
      assert.equal(await readAll(await web.dial('api')), 'hello web')
      // It mends itself as soon as the agent is right again.
      const mended = rotated(web)
      undo()
      assert.notEqual((await mended).serialNumber, good?.serialNumber)
    })
  }
})

describe('roots are refused, and the last good ones kept, when', () => {
  const path = '/v1/agent/connect/ca/roots'
  const bad: readonly { what: string; bend: (json: { Roots: object[] }) => object }[] = [
    { what: 'there are none', bend: (json) => ({ ...json, Roots: [] }) },
    { what: 'the list is null', bend: (json) => ({ ...json, Roots: null }) },
    {
      what: 'one is no certificate',
      bend: (json) => ({ ...json, Roots: json.Roots.map((root) => ({ ...root, RootCert: 'x' })) }),
    },
    {
      what: 'one is no CA',
      bend: (json) => ({
        ...json,
        Roots: json.Roots.map((root) => ({ ...root, RootCert: TestCa.create().issue().certificatePem })),
      }),
    },
    { what: 'the trust domain is none', bend: (json) => ({ ...json, TrustDomain: 'Not A Domain' }) },
  ]
  for (const { what, bend } of bad) {
    it(what, async (t) => {
      const { agent, join } = await startMesh(t)
      const web = join('web')
      await web.ready()
      const good = web.roots
      await agent.waitForBlocked(path)
      agent.fault(path, { transform: (json) => bend(json as never) as never })
      const warned = warning(web)
      agent.rotateCa()
      assert.equal((await warned).code, 'ERR_CONNECT_ROOTS')
      assert.equal(web.roots, good)
    })
  }
})

describe('an agent that is away', () => {
  it('leaves the last good material in use until it expires, and then refuses by name', async (t) => {
    const agent = await TestAgent.start()
    const clock = new FakeClock(Date.now())
    const web = new TimedService(
      'web',
      { agent: { address: agent.address, env: {} }, authorize: () => ({ authorized: true, reason: 'test' }) },
      { clock, random: Math.random },
    )
    t.after(async () => {
      web.destroy()
      await web.close()
      await agent.close()
    })
    await web.ready()
    const port = portOf(await web.listen({ port: 0, host: '127.0.0.1' }, greet))
    const self = { address: `127.0.0.1:${port}`, service: 'web' }
    await agent.stop()
    assert.equal(await readAll(await web.dial(self)), 'hello web')
    const warned = new Promise<Error & { code?: string }>((resolve) => {
      web.on('warning', (error) => {
        if ((error as { code?: string }).code === 'ERR_CONNECT_LEAF_EXPIRED') resolve(error)
      })
    })
    await clock.advance(72 * 3_600_000)
    assert.match((await warned).message, /web: expired at/)
    const error = await rejection(web.dial(self, { timeoutMs: 300 }))
    assert.equal(error.code, 'ERR_CONNECT_LEAF_EXPIRED')
    assert.match(
      error.message,
      /web: expired at .*the agent has not issued a new one: .*no answer from the agent/,
    )
    assert.throws(() => web.tlsServerOptions(), { code: 'ERR_CONNECT_LEAF_EXPIRED' })
    // The listener does not offer an expired certificate either.
    const { connect } = await import('node:net')
    const socket = connect(port, '127.0.0.1')
    await once(socket.resume(), 'close')
  })

  it('is waited for, and work goes on by itself when it is back', async (t) => {
    const { agent, join } = await startMesh(t)
    await agent.stop()
    const web = join('web')
    const first = await warning(web)
    assert.equal(first.code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    const error = await rejection(web.ready({ timeoutMs: 100 }))
    assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
    assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    await agent.restart()
    await web.ready()
    assert.equal(web.leaf?.id.service, 'web')
  })
})

it('many services of one process share one client and one watch of the roots', async (t) => {
  const { agent, join, agentOptions } = await startMesh(t)
  const services = ['a', 'b', 'c', 'd'].map((name) => join(name))
  await Promise.all(services.map((each) => each.ready()))
  await agent.waitForBlocked('/v1/agent/connect/ca/roots')
  assert.equal(agent.requestCount('/v1/agent/connect/ca/roots'), 2)
  for (const each of services) assert.equal(each.roots, services[0]?.roots)
  // The last one to leave turns off the light; the next one turns it on again.
  await Promise.all(services.map((each) => each.close()))
  const again = service('e', { agent: agentOptions })
  await again.ready()
  await again.close()
})

function pems(issued: { chainPem: string; privateKeyPem: string }): object {
  return { CertPEM: issued.chainPem, PrivateKeyPEM: issued.privateKeyPem }
}

async function echo(socket: MeshSocket): Promise<void> {
  const heard = once(socket, 'data')
  socket.write('ping')
  assert.equal(String((await heard)[0]), 'ping')
}
