import type { AgentClient } from '../agent/client.js'
import { fetchConnectInstances } from '../agent/health.js'
import { log } from '../log.js'
import type { Endpoint, Resolver } from './resolver.js'

/** A service of the mesh, by name. What is left out is the agent's own. */
export interface ServiceTarget {
  readonly service: string
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
}

/** Resolves a service to its passing instances that can be reached over Connect. */
export function healthResolver(agent: AgentClient, target: ServiceTarget): Resolver {
  const { service, ...where } = target
  return {
    name: service,
    async resolve({ signal }): Promise<Endpoint[]> {
      const { value: instances } = await fetchConnectInstances(agent, service, { ...where, signal })
      log.resolve('%s: %d instances', service, instances.length)
      // A service without a port (Consul writes 0) cannot be dialled.
      return instances
        .filter(({ port }) => port !== 0)
        .map((instance) => ({
          host: instance.address,
          port: instance.port,
          identity: {
            service: instance.service,
            datacenter: instance.datacenter,
            // Agents without namespaces answer without them.
            namespace: instance.namespace ?? target.namespace,
            partition: instance.partition ?? target.partition,
          },
        }))
    },
  }
}
