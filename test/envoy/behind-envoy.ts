import type { TestContext } from 'node:test'
import type { RealAgent } from '../consul/real-agent.js'
import { register } from '../consul/service-mesh.js'
import { freePorts } from '../fixtures/free-ports.js'
import { type Envoy, startSidecar } from './envoy.js'

export interface BehindEnvoy {
  readonly envoy: Envoy
  /** The local ports of its upstreams. */
  readonly ports: readonly number[]
}

/**
 * Registers a service with an Envoy in front of it, which Consul configures.
 * @param port - of the application @default 1, for a service that only has upstreams
 */
export async function behindEnvoy(
  t: TestContext,
  consul: RealAgent,
  name: string,
  { port = 1, upstreams = [] }: { port?: number; upstreams?: readonly string[] },
): Promise<BehindEnvoy> {
  const [sidecarPort = 0, ...ports] = await freePorts(upstreams.length + 1)
  const id = `${name}-1`
  await register(consul, {
    ID: id,
    Name: name,
    Port: port,
    Connect: {
      SidecarService: {
        Port: sidecarPort,
        Address: '127.0.0.1',
        // The default check of a sidecar is critical for 10 s.
        Checks: [{ Name: 'alias', AliasService: id }],
        Proxy: {
          Upstreams: upstreams.map((DestinationName, i) => ({ DestinationName, LocalBindPort: ports[i] })),
        },
      },
    },
  })
  return { envoy: await startSidecar(t, consul, id), ports }
}
