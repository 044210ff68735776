// Nodes that the catalog is told of, each with an address of its own, and where in the world they are.
import type { TestContext } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import type { Service } from '../../src/index.js'
import { Instance } from './fleet.js'

import { type RealAgent } from './real-agent.js'
import { agentJson, until } from './service-mesh.js'

/** Puts an instance on a node of the catalog that is called `node`; the node's address is the instance's. */
export async function onNode(
  t: TestContext,
  consul: RealAgent,
  service: Service,
  { node, host, ...more }: { node: string; host: string; Tags?: string[] },
): Promise<Instance> {
  const [port = 0] = await freePorts(1, host)
  const name = `${service.name}-${node}`
  const instance = new Instance(service, name, host, port)
  t.after(() => {
    instance.end()
  })
  await instance.live()
  const definition = { ID: name, Service: service.name, Port: port, Connect: { Native: true }, ...more }
  await agentJson(consul, '/v1/catalog/register', {
    method: 'PUT',
    body: JSON.stringify({ Node: node, Address: host, Service: definition }),
  })
  return instance
}

/** Says how far along a line each node is, as a round trip in milliseconds. The servers write it down in batches. */
export async function place(consul: RealAgent, nodes: Readonly<Record<string, number>>): Promise<void> {
  for (const [node, ms] of Object.entries(nodes)) {
    const Coord = { Vec: [ms / 1_000, 0, 0, 0, 0, 0, 0, 0], Error: 0.1, Adjustment: 0, Height: 1e-5 }
    await agentJson(consul, '/v1/coordinate/update', {
      method: 'PUT',
      body: JSON.stringify({ Node: node, Segment: '', Coord }),
    })
  }
  await until('the coordinates are known', async () => {
    const known = await agentJson<{ Node: string; Coord: { Vec: number[] } }[]>(
      consul,
      '/v1/coordinate/nodes',
    )
    return Object.entries(nodes).every(([node, ms]) =>
      known.some(({ Node, Coord }) => Node === node && Coord.Vec[0] === ms / 1_000),
    )
  })
}
