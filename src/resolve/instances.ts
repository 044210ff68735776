import type { AgentClient } from '../agent/client.js'
import {
  type ConnectInstance,
  type HealthQuery,
  countInstances,
  fetchConnectInstances,
} from '../agent/endpoints/health.js'
import { type NoInstancesReason, withCause } from '../base/errors.js'
import { nameHint } from './name-hint.js'
import type { Endpoint } from './resolver.js'

/** How instances are selected and converted to endpoints. */
export interface Selection {
  /**
   * The service in the spelling of its identity. Agents ignore case in lookups, but identities and ACLs do not: a
   * service `API` must not be accepted for `api`.
   */
  readonly service: string
  /** Required tags, ignoring case. The Connect health endpoint of agents does not filter by tags. */
  readonly tags?: readonly string[] | undefined
  /** Our own datacenter. */
  readonly own: string
  /** Whether to exclude instances with warnings. */
  readonly onlyPassing: boolean
  /** Where the service is. @default what each instance says of itself */
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
  /** @default that of the identity */
  readonly serverName?: string | undefined
  readonly subset?: string | undefined
  readonly priority?: number | undefined
}

/** Returns the endpoints of the instances that can be dialed. */
export function toEndpoints(
  instances: readonly ConnectInstance[],
  selection: Selection,
): readonly Endpoint[] {
  const { service, own, tags, onlyPassing } = selection
  return instances
    .filter((instance) => isOf(service, instance) && instance.defect === undefined)
    .filter((instance) => hasTags(instance.tags, tags))
    .filter((instance) => isAlive(instance, onlyPassing))
    .map((instance) => ({
      ...addressFrom(own, instance),
      identity: {
        service,
        datacenter: selection.datacenter ?? instance.datacenter,
        namespace: selection.namespace ?? instance.namespace,
        partition: selection.partition ?? instance.partition,
      },
      weight: weightOf(instance),
      ...(instance.mux && { mux: true }),
      ...detailsOf(selection),
    }))
}

/** Returns the endpoints of mesh gateways that pass connections on to the selected service. */
export function toGatewayEndpoints(
  gateways: readonly ConnectInstance[],
  selection: Selection,
): readonly Endpoint[] {
  const { service, own, datacenter, namespace, partition } = selection
  return gateways
    .filter((gateway) => gateway.defect === undefined && isAlive(gateway, false))
    .map((gateway) => ({
      ...addressFrom(own, gateway),
      identity: { service, datacenter, namespace, partition },
      ...detailsOf(selection),
    }))
}

/** The parts of a selection that each endpoint repeats. */
function detailsOf({
  serverName,
  subset,
  priority,
}: Pick<Selection, 'serverName' | 'subset' | 'priority'>): Pick<
  Endpoint,
  'serverName' | 'subset' | 'priority'
> {
  return {
    ...(serverName !== undefined && { serverName }),
    ...(subset !== undefined && { subset }),
    ...(priority !== undefined && { priority }),
  }
}

/** Returns the address of an instance as seen from our datacenter. */
function addressFrom(own: string, instance: ConnectInstance): Pick<Endpoint, 'host' | 'port'> {
  // Agents translate addresses only with `translate_wan_addrs`.
  const isElsewhere = instance.datacenter !== undefined && instance.datacenter !== own
  const { address, port } = isElsewhere ? instance.wan : instance
  return { host: address, port }
}

/** Whether an instance can present the certificate of a service. */
function isOf(service: string, instance: ConnectInstance): boolean {
  return instance.service === undefined || instance.service === service
}

function hasTags(tags: readonly string[], wanted: readonly string[] = []): boolean {
  const known = tags.map((tag) => tag.toLowerCase())
  return wanted.every((tag) => known.includes(tag.toLowerCase()))
}

/** Whether Consul counts an instance as healthy. One without a weight for its status gets no connections. */
function isAlive(instance: ConnectInstance, onlyPassing: boolean): boolean {
  const { status } = instance
  return status === 'passing' || (status === 'warning' && !onlyPassing && instance.weights.warning > 0)
}

/** Consul passes at most this weight to Envoy. */
const MAX_WEIGHT = 128

function weightOf({ status, weights }: ConnectInstance): number {
  return Math.min(MAX_WEIGHT, status === 'warning' ? weights.warning : weights.passing)
}

/** Why there is no instance. */
export interface Emptiness {
  readonly reason: NoInstancesReason
  readonly message: string
}

/** Explains why none of the instances can be dialed. */
export function noneAlive(
  known: readonly ConnectInstance[],
  service: string,
  tags: readonly string[] = [],
): Emptiness {
  const own = known.filter((instance) => isOf(service, instance))
  if (own.length === 0) {
    const names = [...new Set(known.map((instance) => instance.service))].slice(0, SHOWN)
    const shown = names.map((name) => JSON.stringify(name)).join(' or ')
    // Agents ignore case in lookups; identities do not.
    const isSpelling = names.every((name) => name?.toLowerCase() === service.toLowerCase())
    const problem = `service ${JSON.stringify(service)} not found`
    const message = isSpelling
      ? `${problem}; service names are case-sensitive: use ${shown}`
      : `${problem}; the agent returned instances of ${shown}`
    return { reason: 'unknown', message }
  }
  const tagged = own.filter((instance) => hasTags(instance.tags, tags))
  if (tagged.length === 0) {
    const message = `none of its ${own.length} instances has ${tags.map((tag) => `the tag ${tag}`).join(' and ')}`
    return { reason: 'no-match', message }
  }
  const states = tagged.map(({ id, status, defect }) => `${id} ${defect ?? `is ${status}`}`)
  const more = states.length > SHOWN ? ` and ${states.length - SHOWN} more` : ''
  const message = `none of its instances is passing: ${states.slice(0, SHOWN).join(', ')}${more}`
  return { reason: 'not-passing', message }
}

const SHOWN = 5

/** Asks the agent why there are no instances. */
export async function whyUnknown(
  agent: AgentClient,
  wanted: HealthQuery,
  signal: AbortSignal,
): Promise<Emptiness> {
  const { service, filter } = wanted
  const where = wanted.datacenter === undefined ? '' : ` in ${wanted.datacenter}`
  if (filter !== undefined) {
    const { length } = (await fetchConnectInstances(agent, { ...wanted, filter: undefined }, { signal }))
      .value
    if (length > 0)
      return { reason: 'no-match', message: `none of its ${length} instances passes the filter` }
  }
  const registered = await countInstances(agent, service, wanted, signal)
  if (registered > 0) {
    const message = `none of its ${registered} instances${where} accepts mesh connections; register it with connect { native = true }, or with a sidecar proxy`
    return { reason: 'not-connect', message }
  }
  const cause = `it is not registered, or the token lacks service:read on ${JSON.stringify(service)}`
  return { reason: 'unknown', message: `service not found${where}; ${nameHint(service) ?? cause}` }
}

/** There are no instances, but the reason could not be determined. */
export function unexplained(cause: unknown): Emptiness {
  return { reason: 'empty', message: `no instances; the reason could not be determined${withCause(cause)}` }
}
