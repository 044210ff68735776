import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { TestAgent } from '../../src/testing/index.js'

interface Leaf {
  CertPEM: string
  PrivateKeyPEM: string
  SerialNumber: string
}

interface Roots {
  ActiveRootID: string
  Roots: { ID: string; RootCert: string; Active: boolean; IntermediateCerts: string[] | null }[]
}

async function start(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return agent
}

async function getRoots(agent: TestAgent): Promise<Roots> {
  return (await (await fetch(`${agent.url}/v1/connect/ca/roots`)).json()) as Roots
}

async function getLeaf(
  agent: TestAgent,
  service: string,
  index = '',
): Promise<{ leaf: Leaf; index: string }> {
  const response = await fetch(`${agent.url}/v1/agent/connect/ca/leaf/${service}?index=${index}`)
  return { leaf: (await response.json()) as Leaf, index: response.headers.get('x-consul-index') ?? '' }
}

/** Makes a mutual handshake: both sides present `leaf` and trust `ca`. Returns the error code, or undefined. */
async function handshake(t: TestContext, leaf: Leaf, ca: string): Promise<string | undefined> {
  const options = { cert: leaf.CertPEM, key: leaf.PrivateKeyPEM, ca, minVersion: 'TLSv1.3' } as const
  const server = createServer({ ...options, requestCert: true, rejectUnauthorized: true }, (socket) =>
    socket.end('ok'),
  )
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  const socket: TLSSocket = connect({ ...options, port, checkServerIdentity: () => undefined })
  try {
    const [data] = (await once(socket, 'data')) as [Buffer]
    assert.equal(data.toString(), 'ok')
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  } finally {
    socket.destroy()
  }
}

void describe('a rotation', () => {
  it('keeps leaves valid under both roots by the cross-signed root', async (t) => {
    const agent = await start(t)
    const before = await getLeaf(agent, 'web')
    const watch = getLeaf(agent, 'web', before.index)
    await agent.waitForBlocked('/v1/agent/connect/ca/leaf/web')
    const oldRoot = agent.ca.rootPem
    agent.rotateCa()
    const after = await watch
    const newRoot = agent.ca.rootPem
    assert.notEqual(newRoot, oldRoot)

    assert.equal(await handshake(t, before.leaf, oldRoot), undefined)
    assert.equal(await handshake(t, after.leaf, newRoot), undefined)
    assert.equal(await handshake(t, after.leaf, oldRoot), undefined)
    assert.ok(await handshake(t, before.leaf, newRoot))
    assert.equal(after.leaf.CertPEM.match(/BEGIN/g)?.length, 2)
    assert.notEqual(after.leaf.SerialNumber, before.leaf.SerialNumber)
  })

  it('lists both roots until the old one is dropped', async (t) => {
    const agent = await start(t)
    const [old] = (await getRoots(agent)).Roots
    agent.rotateCa()
    const during = await getRoots(agent)
    assert.equal(during.Roots.length, 2)
    const active = during.Roots.find(({ Active }) => Active)
    assert.equal(active?.ID, during.ActiveRootID)
    assert.equal(active.IntermediateCerts?.length, 1)
    assert.deepEqual(
      during.Roots.filter(({ Active }) => !Active).map(({ ID }) => ID),
      [old?.ID],
    )
    agent.dropOldRoot()
    const end = await getRoots(agent)
    assert.deepEqual(
      end.Roots.map(({ ID }) => ID),
      [active.ID],
    )
  })

  it('without a cross-signed root, makes new leaves invalid under the old root', async (t) => {
    const agent = await start(t)
    const oldRoot = agent.ca.rootPem
    agent.rotateCa({ crossSign: false })
    const { leaf } = await getLeaf(agent, 'web')
    assert.equal(leaf.CertPEM.match(/BEGIN/g)?.length, 1)
    assert.equal(await handshake(t, leaf, agent.ca.rootPem), undefined)
    assert.ok(await handshake(t, leaf, oldRoot))
  })

  it('renews only watched leaves', async (t) => {
    const agent = await start(t)
    const before = await getLeaf(agent, 'web')
    agent.rotateCa()
    assert.deepEqual((await getLeaf(agent, 'web')).leaf, before.leaf)
    const watched = await getLeaf(agent, 'web', before.index)
    assert.notEqual(watched.leaf.CertPEM, before.leaf.CertPEM)
  })
})

void it('issues leaves with another lifetime', async (t) => {
  const agent = await start(t)
  agent.setLeafTtl(5000)
  const response = await fetch(`${agent.url}/v1/agent/connect/ca/leaf/web`)
  const { ValidAfter, ValidBefore } = (await response.json()) as { ValidAfter: string; ValidBefore: string }
  // Certificates count whole seconds.
  assert.ok(Math.abs(Date.parse(ValidBefore) - Date.parse(ValidAfter) - 5000) <= 1000)
})

void it('issues an invalid leaf from the CA of the mesh', async (t) => {
  const agent = await start(t)
  const { chainPem, privateKeyPem } = agent.issueLeaf('web', { isCa: true })
  const leaf = { CertPEM: chainPem, PrivateKeyPEM: privateKeyPem, SerialNumber: '' }
  assert.equal(await handshake(t, leaf, agent.ca.rootPem), undefined)
})
