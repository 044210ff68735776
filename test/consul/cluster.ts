// Several Consul agents in one cluster or in several datacenters, each agent on its own loopback address.
import type { TestContext } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import { type AgentPorts, type RealAgent, type RealAgentOptions, startConsul } from './real-agent.js'
import { agentJson, until } from './service-mesh.js'

/** The address of a machine; the first is 127.0.0.2. */
function machine(i: number): string {
  return `127.0.0.${i + 2}`
}

/** A member of a cluster. */
export interface Member extends RealAgent {
  readonly name: string
  readonly host: string
}

export interface Cluster {
  readonly servers: readonly Member[]
  readonly clients: readonly Member[]
  /** The leader on which all these members agree; undefined without one. */
  leader(among?: readonly Member[]): Promise<Member | undefined>
}

/** Starts three servers and two client agents, and waits until each of them knows all members. */
export async function startCluster(t: TestContext): Promise<Cluster> {
  const names = ['server-1', 'server-2', 'server-3', 'client-1', 'client-2']
  const hosts = names.map((_, i) => machine(i))
  const ports = await Promise.all(hosts.map(portsOn))
  const join = ports.slice(0, 3).map(({ serf }, i) => `${hosts[i]}:${serf}`)
  const start = async (i: number, server: boolean): Promise<Member> => {
    const [name = '', host = ''] = [names[i], hosts[i]]
    const agent = await startConsul(t, {
      host,
      ports: ports[i]!,
      extraConfig: {
        node_name: name,
        server,
        bootstrap_expect: server ? 3 : 0,
        retry_join: join,
        retry_interval: '1s',
        gossip_lan: GOSSIP,
      },
    })
    return { ...agent, name, host }
  }
  const all = await Promise.all(names.map((_, i) => start(i, i < 3)))
  const [servers, clients] = [all.slice(0, 3), all.slice(3)]
  const leader = async (among: readonly Member[] = servers): Promise<Member | undefined> => {
    const seen = await Promise.all(among.map((member) => agentJson<string>(member, '/v1/status/leader')))
    if (new Set(seen).size !== 1) return undefined
    return servers.find((_, i) => seen[0] === `${hosts[i]}:${ports[i]?.server}`)
  }
  await until('each agent knows all members', async () => {
    const views = await Promise.all(
      all.map((member) => agentJson<{ Node: string }[]>(member, '/v1/catalog/nodes')),
    )
    return views.every((nodes) => nodes.length === all.length) && (await leader()) !== undefined
  })
  return { servers, clients, leader }
}

/** As in the development mode of Consul: the cluster detects a killed agent within seconds. */
const GOSSIP = {
  gossip_interval: '100ms',
  probe_interval: '100ms',
  probe_timeout: '100ms',
  suspicion_mult: 3,
}

/** Starts two datacenters with one server each, joined over the WAN, with DNS. The primary, dc1, has the root CA. */
export async function startDatacenters(
  t: TestContext,
  options: Pick<RealAgentOptions, 'grpc'> = {},
): Promise<{ dc1: Member; dc2: Member }> {
  const names = ['dc1', 'dc2']
  const hosts = names.map((_, i) => machine(5 + i))
  const ports = await Promise.all(hosts.map(portsOn))
  const join = ports.map(({ wan }, i) => `${hosts[i]}:${wan}`)
  const start = async (i: number): Promise<Member> => {
    const [name = '', host = ''] = [names[i], hosts[i]]
    const agent = await startConsul(t, {
      host,
      ports: ports[i]!,
      dns: true,
      ...options,
      extraConfig: {
        node_name: `server-${name}`,
        datacenter: name,
        primary_datacenter: 'dc1',
        retry_join_wan: join,
        retry_interval_wan: '1s',
        gossip_wan: GOSSIP,
      },
    })
    return { ...agent, name, host }
  }
  const [dc1, dc2] = await Promise.all([start(0), start(1)])
  await until('the datacenters reach each other', async () => {
    const views = await Promise.all([
      agentJson<unknown[]>(dc1, '/v1/catalog/nodes?dc=dc2'),
      agentJson<unknown[]>(dc2, '/v1/catalog/nodes?dc=dc1'),
    ])
    return views.every((nodes) => nodes.length > 0)
  })
  return { dc1, dc2 }
}

async function portsOn(host: string): Promise<Omit<AgentPorts, 'dns' | 'grpc'>> {
  const [http = 0, server = 0, serf = 0, wan = 0] = await freePorts(4, host)
  return { http, server, serf, wan }
}
