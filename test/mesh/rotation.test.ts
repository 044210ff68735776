import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, it } from 'node:test'
import { type Authorizer, service } from '../../src/index.js'
import { TestAgent, TestCa } from '../../src/testing/index.js'
import { ask, greet, nextEvent, offer, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'
import { clockedService } from './clocked-service.js'
import { startTlsServer, tlsOptions } from './tls-peer.js'

describe('rotation', () => {
  it('of a leaf applies to new connections at once and keeps open ones', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, (socket) => socket.pipe(socket))
    const before = await web.dial('api')
    const rotated = nextEvent(api, 'rotated')
    agent.renewLeaf('api')
    await rotated
    const after = await web.dial('api')
    assert.notEqual(after.peer.serialNumber, before.peer.serialNumber)
    assert.equal(after.peer.serialNumber, api.leaf?.serialNumber)
    for (const socket of [before, after]) assert.equal(await ask(socket, 'ping'), 'ping')
  })

  it('of the CA ends the trust in the old root as soon as the mesh withdraws it', async (t) => {
    const { agent, join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    await offer(api, greet)
    await web.ready()
    const oldLeaf = agent.issueLeaf('api')
    await beginNewCa(agent, [api, web])
    const { certificates } = await withdrawOldCa(agent, web)
    assert.deepEqual(
      certificates.map(({ fingerprint256 }) => fingerprint256),
      [agent.ca.root.fingerprint256],
    )
    const { address } = await startTlsServer(t, tlsOptions(oldLeaf, agent.ca))
    assert.equal((await rejection(web.dial({ address, service: 'api' }))).code, 'ERR_CONNECT_PEER_UNTRUSTED')
    assert.equal(await readAll(await web.dial('api')), 'hello web')
  })
})

describe('a leaf is rejected, and the last valid one kept, when', () => {
  const path = '/v1/agent/connect/ca/leaf/web'
  const bad: readonly (readonly [flaw: string, code: string, leaf: (agent: TestAgent) => object])[] = [
    [
      'its key belongs to another certificate',
      'ERR_CONNECT_LEAF_KEY',
      (agent) => ({
        CertPEM: agent.issueLeaf('web').certificatePem,
        PrivateKeyPEM: agent.issueLeaf('web').privateKeyPem,
      }),
    ],
    ['it names another service', 'ERR_CONNECT_LEAF_SERVICE', (agent) => pems(agent.issueLeaf('admin'))],
    [
      'it names another trust domain',
      'ERR_CONNECT_LEAF_SERVICE',
      (agent) => pems(agent.issueLeaf('web', { trustDomain: 'other.consul' })),
    ],
    [
      'it chains to no known root',
      'ERR_CONNECT_LEAF_UNTRUSTED',
      ({ trustDomain }) => pems(TestCa.create({ trustDomain }).issue({ service: 'web' })),
    ],
    [
      'it has expired',
      'ERR_CONNECT_LEAF_EXPIRED',
      (agent) => pems(agent.issueLeaf('web', { notBefore: after(-9e6), notAfter: after(-6e4) })),
    ],
    [
      'it is not valid yet',
      'ERR_CONNECT_LEAF_MALFORMED',
      (agent) => pems(agent.issueLeaf('web', { notBefore: after(9e6) })),
    ],
    ['it is a CA', 'ERR_CONNECT_LEAF_MALFORMED', (agent) => pems(agent.issueLeaf('web', { isCa: true }))],
    [
      'OpenSSL rejects its key',
      'ERR_CONNECT_LEAF_UNTRUSTED',
      (agent) => {
        // 512 bits: valid for parsers, too short for TLS.
        const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 512 })
        const privateKeyPem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
        return pems({ ...agent.issueLeaf('web', { privateKey }), privateKeyPem })
      },
    ],
    ['it is not a certificate', 'ERR_CONNECT_LEAF_MALFORMED', () => ({ CertPEM: 'x', PrivateKeyPEM: 'y' })],
  ]
  for (const [flaw, code, leaf] of bad) {
    it(flaw, async (t) => {
      const { agent, join } = await startMesh(t)
      const web = join('web')
      await web.ready()
      const good = web.leaf
      await agent.waitForBlocked(path)
      const clearFault = agent.fault(path, {
        transform: (json) => ({ ...(json as object), ...leaf(agent) }),
      })
      const warned = nextEvent(web, 'warning')
      agent.renewLeaf('web')
      assert.equal(((await warned)[0] as { code?: string }).code, code)
      assert.equal(web.leaf, good)
      await offer(join('api'), greet)
      assert.equal(await readAll(await web.dial('api')), 'hello web')
      // The next valid leaf is accepted without a restart.
      const rotated = nextEvent(web, 'rotated')
      clearFault()
      assert.notEqual((await rotated)[0].serialNumber, good?.serialNumber)
    })
  }
})

describe('roots are rejected, and the last valid ones kept, when', () => {
  const path = '/v1/agent/connect/ca/roots'
  const bad: readonly (readonly [flaw: string, transform: (json: { Roots: object[] }) => object])[] = [
    ['there are none', (json) => ({ ...json, Roots: [] })],
    ['the list is null', (json) => ({ ...json, Roots: null })],
    ['one is not a certificate', (json) => withRoots(json, 'x')],
    ['one is not a CA', (json) => withRoots(json, TestCa.create().issue().certificatePem)],
    ['the trust domain is invalid', (json) => ({ ...json, TrustDomain: 'Not A Domain' })],
  ]
  for (const [flaw, transform] of bad) {
    it(flaw, async (t) => {
      const { agent, join } = await startMesh(t)
      const web = join('web')
      await web.ready()
      const good = web.roots
      await agent.waitForBlocked(path)
      agent.fault(path, { transform: (json) => transform(json as never) as never })
      const warned = nextEvent(web, 'warning')
      agent.rotateCa()
      assert.equal(((await warned)[0] as { code?: string }).code, 'ERR_CONNECT_ROOTS')
      assert.equal(web.roots, good)
    })
  }
})

describe('without the agent', () => {
  it('a service uses its last certificate until it expires, and then reports the expiry', async (t) => {
    const agent = await TestAgent.start()
    const authorize: Authorizer = () => ({ authorized: true, reason: 'test' })
    const agentOptions = { address: agent.address, env: {} }
    const { service: web, clock } = clockedService(t, 'web', { agent: agentOptions, authorize })
    t.after(() => agent.close())
    const port = portOf(await web.listen({ port: 0, host: '127.0.0.1' }, greet))
    const self = { address: `127.0.0.1:${port}`, service: 'web' }
    await agent.stop()
    assert.equal(await readAll(await web.dial(self)), 'hello web')
    const warned = nextEvent(
      web,
      'warning',
      (error) => (error as { code?: string }).code === 'ERR_CONNECT_LEAF_EXPIRED',
    )
    // The timers of the first 71 hours would be thousands of retries, each with a connection.
    clock.set(clock.now() + 71 * 3_600_000)
    await clock.advance(2 * 3_600_000)
    assert.match((await warned)[0].message, /web: expired at/)
    const error = await rejection(web.dial(self, { timeoutMs: 300 }))
    assert.equal(error.code, 'ERR_CONNECT_LEAF_EXPIRED')
    assert.match(
      error.message,
      /web: expired at .*the agent has not issued a new one: .*no answer from the agent/,
    )
    assert.throws(() => web.tlsServerOptions(), { code: 'ERR_CONNECT_LEAF_EXPIRED' })
    // The listener does not offer the expired certificate either.
    const socket = connect(port, '127.0.0.1')
    await once(socket.resume(), 'close')
  })

  it('a service waits, and becomes ready when the agent returns', async (t) => {
    const { agent, join } = await startMesh(t)
    await agent.stop()
    const web = join('web')
    const [warning] = await nextEvent(web, 'warning')
    assert.equal((warning as { code?: string }).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    const error = await rejection(web.ready({ timeoutMs: 100 }))
    assert.equal(error.code, 'ERR_CONNECT_NOT_READY')
    assert.equal((error.cause as { code?: string }).code, 'ERR_CONNECT_AGENT_UNREACHABLE')
    await agent.restart()
    await web.ready()
    assert.equal(web.leaf?.id.service, 'web')
  })
})

it('the services of a process share one client and one watch of the roots', async (t) => {
  const { agent, join, agentOptions } = await startMesh(t)
  const services = ['a', 'b', 'c', 'd'].map((name) => join(name))
  await Promise.all(services.map((each) => each.ready()))
  await agent.waitForBlocked('/v1/agent/connect/ca/roots')
  assert.equal(agent.requestCount('/v1/agent/connect/ca/roots'), 2)
  for (const each of services) assert.equal(each.roots, services[0]?.roots)
  // The last service to close ends the shared watch, and the next one starts it again.
  await Promise.all(services.map((each) => each.close()))
  const next = service('e', { agent: agentOptions })
  await next.ready()
  await next.close()
})

/** A leaf as the agent returns it. */
function pems(issued: { chainPem: string; privateKeyPem: string }): object {
  return { CertPEM: issued.chainPem, PrivateKeyPEM: issued.privateKeyPem }
}

/** The answer with this text in place of each root certificate. */
function withRoots(json: { Roots: object[] }, RootCert: string): object {
  return { ...json, Roots: json.Roots.map((root) => ({ ...root, RootCert })) }
}

function after(ms: number): Date {
  return new Date(Date.now() + ms)
}
