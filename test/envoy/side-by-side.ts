// A client of this library and a client behind Envoy, which dial the same upstreams of one Consul agent.
import { once } from 'node:events'
import { connect } from 'node:net'
import type { TestContext } from 'node:test'
import type { Service, Upstream } from '../../src/index.js'
import { type RealAgent, startConsul } from '../consul/real-agent.js'
import { type Join, agentJson, agentPut, joiner, register, until } from '../consul/service-mesh.js'
import { freePorts } from '../fixtures/free-ports.js'
import { portOf, readAll } from '../fixtures/mesh.js'
import { startSidecar } from './envoy.js'

/** How often each client dials. */
const DIALS = 24

/** How often each instance answered, by its ID; `none` for a failed dial. */
export type Answers = Readonly<Record<string, number>>

export interface SideBySide {
  readonly consul: RealAgent
  readonly join: Join
  readonly web: Service
  /** The port at which Envoy passes connections on to `api`. */
  readonly upstreamPort: number
  /**
   * Starts a native instance that answers each connection with its ID, and registers it with a TTL check that passes.
   * @returns a function that ends its listener, but leaves it registered
   */
  readonly instance: (
    service: string,
    id: string,
    meta?: Record<string, string>,
  ) => Promise<() => Promise<void>>
  /** Writes a config entry. */
  readonly configure: (entry: { Kind: string; Name: string } & Record<string, unknown>) => Promise<void>
  /** Deletes all config entries of services. */
  readonly reset: () => Promise<void>
  /** Dials `api` with this library. */
  readonly ours: (upstream?: Upstream) => Promise<Answers>
  /** Dials `api` through Envoy. */
  readonly theirs: () => Promise<Answers>
}

/** Starts Consul, the client `web`, and an Envoy with the same identity whose only upstream is `api`. */
export async function startSideBySide(t: TestContext): Promise<SideBySide> {
  const consul = await startConsul(t, { grpc: true })
  const join = joiner(t, consul)
  const web = join('web')
  const [sidecarPort = 0, upstreamPort = 0] = await freePorts(2)
  const upstreams = [{ DestinationName: 'api', LocalBindPort: upstreamPort }]
  await register(consul, {
    ID: 'web-1',
    Name: 'web',
    Port: 1,
    Connect: { SidecarService: { Port: sidecarPort, Proxy: { Upstreams: upstreams } } },
  })
  await startSidecar(t, consul, 'web-1')
  return {
    consul,
    join,
    web,
    upstreamPort,
    instance: async (name, id, meta = {}) => {
      const service = join(name)
      const listener = await service.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end(id))
      await register(consul, {
        ID: id,
        Name: name,
        Port: portOf(listener),
        Address: '127.0.0.1',
        Meta: meta,
        Connect: { Native: true },
        Check: { CheckID: `check-${id}`, TTL: '1h', Status: 'passing' },
      })
      return () => listener.close()
    },
    configure: async (entry) => {
      await agentPut(consul, '/v1/config', entry)
    },
    reset: async () => {
      for (const kind of ['service-router', 'service-splitter', 'service-resolver', 'service-defaults']) {
        const entries = await agentJson<{ Name: string }[]>(consul, `/v1/config/${kind}`)
        for (const { Name } of entries) await consul.http(`/v1/config/${kind}/${Name}`, { method: 'DELETE' })
      }
    },
    ours: (upstream = 'api') => count(async () => readAll(await web.dial(upstream))),
    theirs: () =>
      count(async () => {
        const socket = connect(upstreamPort, '127.0.0.1')
        await once(socket, 'connect')
        return readAll(socket)
      }),
  }
}

async function count(dial: () => Promise<string>): Promise<Answers> {
  const answers: Record<string, number> = {}
  for (let i = 0; i < DIALS; i += 1) {
    // Envoy closes a connection for which it has no instance.
    const id = (await dial().catch(() => '')) || 'none'
    answers[id] = (answers[id] ?? 0) + 1
  }
  return answers
}

/** Waits until a client reaches exactly these instances. */
export async function untilReaches(ids: readonly string[], dial: () => Promise<Answers>): Promise<Answers> {
  return until(`dials reach ${ids.join(', ')}`, async () => {
    const answers = await dial()
    const reached = Object.keys(answers).sort()
    if (reached.join() !== [...ids].sort().join()) throw new Error(`reached ${JSON.stringify(answers)}`)
    return answers
  })
}
