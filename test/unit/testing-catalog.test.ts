import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'

interface Entry {
  Node: { Node: string; Address: string; Datacenter: string; TaggedAddresses: Record<string, string> | null }
  Service: { ID: string; Address: string; Weights: object; TaggedAddresses?: Record<string, object> }
  Checks: { CheckID: string; Status: string }[]
}

async function start(t: TestContext, options: TestAgentOptions = {}): Promise<TestAgent> {
  const agent = await TestAgent.start(options)
  t.after(() => agent.close())
  return agent
}

async function entries(agent: TestAgent, path: string): Promise<Entry[]> {
  const response = await fetch(`${agent.url}/v1/health/${path}`)
  assert.equal(response.status, 200, await response.clone().text())
  return (await response.json()) as Entry[]
}

async function nodes(agent: TestAgent, path: string): Promise<string[]> {
  return (await entries(agent, path)).map(({ Node }) => Node.Node)
}

void describe('nodes of the catalog', () => {
  it('have services and checks, as they are registered', async (t) => {
    const agent = await start(t)
    agent.registerNode({
      Node: 'n1',
      Address: '::1',
      TaggedAddresses: { wan: '2001:db8::1' },
      Service: {
        ID: 'web1',
        Service: 'web',
        Address: 'fe80::1',
        Port: 80,
        Weights: { Passing: 5 },
        TaggedAddresses: { wan: { Address: '1.2.3.4', Port: 81 } },
      },
      Checks: [
        { Name: 'node', Status: 'passing' },
        { Name: 'service', ServiceID: 'web1', Status: 'warning' },
      ],
    })
    const [entry] = await entries(agent, 'service/web')
    assert.deepEqual(
      [entry?.Node.Address, entry?.Node.TaggedAddresses, entry?.Service.Address, entry?.Service.Weights],
      ['::1', { wan: '2001:db8::1' }, 'fe80::1', { Passing: 5, Warning: 0 }],
    )
    assert.deepEqual(entry?.Service.TaggedAddresses, { wan: { Address: '1.2.3.4', Port: 81 } })
    assert.deepEqual(
      entry.Checks.map(({ CheckID, Status }) => [CheckID, Status]),
      [
        ['node', 'passing'],
        ['service', 'warning'],
      ],
    )
    assert.deepEqual(await nodes(agent, 'service/web?passing'), [])
    agent.registerNode({
      Node: 'n1',
      Address: '',
      SkipNodeUpdate: true,
      Check: { Name: 'service', ServiceID: 'web1', Status: 'passing' },
    })
    assert.deepEqual(await nodes(agent, 'service/web?passing'), ['n1'])
  })

  it('and services of the same ID live side by side', async (t) => {
    const agent = await start(t)
    agent.registerService({ Name: 'web', Port: 1 })
    for (const node of ['z9', 'a1']) {
      agent.registerNode({ Node: node, Address: '10.0.0.1', Service: { Service: 'web', Port: 2 } })
    }
    assert.deepEqual(await nodes(agent, 'service/web'), ['a1', 'embedded', 'z9'])
    agent.deregisterNode({ Node: 'a1', ServiceID: 'web' })
    assert.deepEqual(await nodes(agent, 'service/web'), ['embedded', 'z9'])
    agent.deregisterNode({ Node: 'Z9' })
    assert.deepEqual(await nodes(agent, 'service/web'), ['embedded'])
    const services = (await (await fetch(`${agent.url}/v1/agent/services`)).json()) as object
    assert.deepEqual(Object.keys(services), ['web'])
  })

  const changes: Record<string, (agent: TestAgent) => void> = {
    'a service that comes': (agent) => {
      agent.registerNode({ Node: 'n2', Address: '10.0.0.2', Service: { Service: 'web' } })
    },
    'a service that goes': (agent) => {
      agent.deregisterNode({ Node: 'n1', ServiceID: 'web' })
    },
    'a node that goes': (agent) => {
      agent.deregisterNode({ Node: 'n1' })
    },
    'a node that moves': (agent) => {
      agent.registerNode({ Node: 'n1', Address: '10.0.0.9' })
    },
    'a check of the service': (agent) => {
      agent.registerNode({ Node: 'n1', Address: '10.0.0.1', Check: { Name: 'c', ServiceID: 'web' } })
    },
    'a check of the node': (agent) => {
      agent.registerNode({ Node: 'n1', Address: '10.0.0.1', Check: { Name: 'c' } })
    },
  }
  for (const [name, change] of Object.entries(changes)) {
    it(`wake a watch: ${name}`, async (t) => {
      const agent = await start(t)
      agent.registerNode({ Node: 'n1', Address: '10.0.0.1', Service: { Service: 'web' } })
      const path = `${agent.url}/v1/health/service/web`
      const index = (await fetch(path)).headers.get('x-consul-index') ?? ''
      const watch = fetch(`${path}?index=${index}&wait=1m`)
      await agent.waitForBlocked('/v1/health')
      agent.registerNode({ Node: 'n3', Address: '10.0.0.3', Service: { Service: 'other' } })
      change(agent)
      assert.notEqual((await watch).headers.get('x-consul-index'), index)
    })
  }

  it('throw what Consul would answer', async (t) => {
    const agent = await start(t)
    assert.throws(() => {
      agent.registerNode({ Node: '', Address: '10.0.0.1' })
    }, /^HttpError: Must provide node$/)
  })
})

void describe('near', () => {
  async function startLine(t: TestContext): Promise<TestAgent> {
    const agent = await start(t)
    for (const node of ['n1', 'n2', 'n3', 'n4']) {
      const Status = node === 'n3' ? 'critical' : 'passing'
      agent.registerNode({
        Node: node,
        Address: '10.0.0.1',
        Service: { Service: 'web' },
        Check: { Name: 'c', ServiceID: 'web', Status },
      })
    }
    agent.setNear(['embedded', 'n3', 'n4', 'n2'])
    return agent
  }

  const table: Record<string, string[]> = {
    'service/web': ['n1', 'n2', 'n3', 'n4'],
    'service/web?near=_agent': ['n3', 'n4', 'n2', 'n1'],
    'service/web?near=n2': ['n2', 'n4', 'n3', 'n1'],
    'service/web?near=n4': ['n4', 'n2', 'n3', 'n1'],
    // A node without a place, and one that nobody knows.
    'service/web?near=n1': ['n1', 'n2', 'n3', 'n4'],
    'service/web?near=nope': ['n1', 'n2', 'n3', 'n4'],
    // The last one takes the place of what is left out.
    'service/web?near=_agent&passing': ['n1', 'n4', 'n2'],
  }
  for (const [path, expected] of Object.entries(table)) {
    it(`${path} is ${expected.join()}`, async (t) => {
      assert.deepEqual(await nodes(await startLine(t), path), expected)
    })
  }

  it('forgets the old line with a new one', async (t) => {
    const agent = await startLine(t)
    agent.setNear(['n4', 'n1', 'embedded'])
    assert.deepEqual(await nodes(agent, 'service/web?near=_agent'), ['n1', 'n4', 'n2', 'n3'])
  })
})

void describe('several datacenters', () => {
  async function startTwo(t: TestContext): Promise<{ here: TestAgent; there: TestAgent }> {
    const here = await start(t)
    const there = await start(t, { datacenter: 'dc2', primary: here })
    there.registerService({ Name: 'far', Port: 80 })
    return { here, there }
  }

  async function failure(agent: TestAgent, path: string): Promise<[number, string]> {
    const response = await fetch(agent.url + path)
    return [response.status, await response.text()]
  }

  it('answer for each other', async (t) => {
    const { here, there } = await startTwo(t)
    const [entry] = await entries(here, 'service/far?dc=dc2')
    assert.equal(entry?.Node.Datacenter, 'dc2')
    assert.deepEqual(await entries(here, 'service/far'), [])
    assert.deepEqual(await entries(there, 'service/far?dc=dc1'), [])
    assert.deepEqual(await (await fetch(`${here.url}/v1/catalog/datacenters`)).json(), ['dc1', 'dc2'])
    assert.deepEqual(await (await fetch(`${there.url}/v1/catalog/datacenters`)).json(), ['dc2', 'dc1'])
    assert.deepEqual(await failure(here, '/v1/health/service/far?dc=dc3'), [500, 'No path to datacenter'])
  })

  it('are watched from afar', async (t) => {
    const { here, there } = await startTwo(t)
    const path = `${here.url}/v1/health/service/far?dc=dc2`
    const index = (await fetch(path)).headers.get('x-consul-index') ?? ''
    const watch = fetch(`${path}&index=${index}&wait=1m`)
    await here.waitForBlocked('/v1/health')
    there.deregisterService('far')
    assert.deepEqual(await (await watch).json(), [])
  })

  it('know all that the others know', async (t) => {
    const { here, there } = await startTwo(t)
    const third = await start(t, { datacenter: 'dc3' })
    third.registerService({ Name: 'third', Port: 80 })
    third.joinWan(there)
    assert.equal((await entries(here, 'service/third?dc=dc3')).length, 1)
    assert.equal((await entries(third, 'service/far?dc=dc2')).length, 1)
  })

  it('that are gone cannot be asked until they are back', async (t) => {
    const { here, there } = await startTwo(t)
    const { address } = there
    await there.stop()
    assert.deepEqual(await failure(here, '/v1/health/service/far?dc=dc2'), [
      500,
      `rpc error getting client: failed to get conn: dial tcp 127.0.0.1:0->${address}: connect: connection refused`,
    ])
    await there.restart()
    assert.equal((await entries(here, 'service/far?dc=dc2')).length, 1)
  })

  it('are one mesh: an intermediate CA under the same roots', async (t) => {
    const { here, there } = await startTwo(t)
    assert.equal(there.trustDomain, here.trustDomain)
    const before = await leafChain(there)
    assert.ok(isSignedBy(before, here.ca.root))
    assert.match(before[0]?.subjectAltName ?? '', /\/dc\/dc2\/svc\/far$/)
    there.rotateCa()
    assert.equal((await roots(there)).length, 2)
    assert.deepEqual(await roots(there), await roots(here))
    there.renewLeaf('far')
    assert.ok(isSignedBy(await leafChain(there), here.ca.root))
    here.dropOldRoot()
    assert.equal((await roots(there)).length, 1)
    assert.ok(isSignedBy(chain(there.issueLeaf('far').chainPem), here.ca.root))
  })

  it('and a rotation wakes those who watch the roots elsewhere', async (t) => {
    const { here, there } = await startTwo(t)
    const path = `${there.url}/v1/agent/connect/ca/roots`
    const index = (await fetch(path)).headers.get('x-consul-index') ?? ''
    const watch = fetch(`${path}?index=${index}`)
    await there.waitForBlocked('/v1/agent/connect/ca/roots')
    here.rotateCa()
    const { Roots } = (await (await watch).json()) as { Roots: object[] }
    assert.equal(Roots.length, 2)
  })
})

async function leafChain(agent: TestAgent): Promise<X509Certificate[]> {
  const response = await fetch(`${agent.url}/v1/agent/connect/ca/leaf/far`)
  return chain(((await response.json()) as { CertPEM: string }).CertPEM)
}

async function roots(agent: TestAgent): Promise<string[]> {
  const response = await fetch(`${agent.url}/v1/connect/ca/roots`)
  const { Roots } = (await response.json()) as { Roots: { RootCert: string }[] }
  return Roots.map(({ RootCert }) => RootCert)
}

function chain(pem: string): X509Certificate[] {
  return (pem.match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----\n/g) ?? []).map(
    (certificate) => new X509Certificate(certificate),
  )
}

/** Whether leaf, intermediate and root follow each other. */
function isSignedBy([leaf, intermediate]: X509Certificate[], root: X509Certificate): boolean {
  return (
    leaf !== undefined &&
    intermediate !== undefined &&
    leaf.verify(intermediate.publicKey) &&
    intermediate.verify(root.publicKey)
  )
}
