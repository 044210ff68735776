// Nodes that exist in the catalog only, with their network coordinates.
import type { TestContext } from 'node:test'
import type { Service } from '../../src/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import { Instance } from './fleet.js'
import type { RealAgent } from './real-agent.js'
import { agentJson, agentPut, until } from './service-mesh.js'

/** Starts an instance, and registers it on a node with this name and address. */
export async function onNode(
  t: TestContext,
  consul: RealAgent,
  service: Service,
  { node, host }: { node: string; host: string },
): Promise<Instance> {
  const [port = 0] = await freePorts(1, host)
  const name = `${service.name}-${node}`
  const instance = new Instance(service, name, host, port)
  t.after(() => {
    instance.end()
  })
  await instance.serve()
  const definition = { ID: name, Service: service.name, Port: port, Connect: { Native: true } }
  await agentPut(consul, '/v1/catalog/register', { Node: node, Address: host, Service: definition })
  return instance
}

/** Places nodes on a line by round-trip times in milliseconds. The servers write coordinates in batches. */
export async function setCoordinates(
  consul: RealAgent,
  nodes: Readonly<Record<string, number>>,
): Promise<void> {
  for (const [node, ms] of Object.entries(nodes)) {
    const Coord = { Vec: [ms / 1_000, 0, 0, 0, 0, 0, 0, 0], Error: 0.1, Adjustment: 0, Height: 1e-5 }
    await agentPut(consul, '/v1/coordinate/update', { Node: node, Segment: '', Coord })
  }
  await until('the coordinates are in the catalog', async () => {
    const known = await agentJson<{ Node: string; Coord: { Vec: number[] } }[]>(
      consul,
      '/v1/coordinate/nodes',
    )
    return Object.entries(nodes).every(([node, ms]) =>
      known.some(({ Node, Coord }) => Node === node && Coord.Vec[0] === ms / 1_000),
    )
  })
}
