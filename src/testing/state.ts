import { randomUUID } from 'node:crypto'
import { Acl, type DefaultPolicy } from './acl.js'
import { Catalog } from './catalog.js'
import { Changes } from './changes.js'
import { ConnectCa } from './connect-ca.js'
import { Coordinates } from './coordinates.js'
import type { Federation } from './federation.js'
import { Intentions } from './intentions.js'
import { KeyValues } from './kv.js'
import { LocalServices } from './local.js'
import type { AgentVersion, StandaloneOptions } from './options.js'
import { PreparedQueries } from './queries.js'

/** Everything the agent knows. A restart that forgets begins with a new one. */
export interface State {
  version: AgentVersion
  datacenter: string
  /** What holds where no intention matches. */
  defaultPolicy: DefaultPolicy
  changes: Changes
  acl: Acl
  catalog: Catalog
  local: LocalServices
  queries: PreparedQueries
  coordinates: Coordinates
  federation: Federation<State>
  /** Whether to answer in random order where Consul does. */
  shuffle: boolean
  /** Undefined while Connect is off. */
  connect: ConnectCa | undefined
  intentions: Intentions
  kv: KeyValues
}

export function createState(
  options: StandaloneOptions,
  surroundings: { federation: Federation<State>; primaryCa: ConnectCa | undefined },
): State {
  const datacenter = options.datacenter ?? 'dc1'
  const aclEnabled = options.acl?.enabled ?? false
  const aclDefault = options.acl?.defaultPolicy ?? 'allow'
  const changes = new Changes()
  const address = '127.0.0.1'
  const catalog = new Catalog(changes, {
    name: options.nodeName ?? 'embedded',
    id: randomUUID(),
    address,
    taggedAddresses: { lan: address, lan_ipv4: address, wan: address, wan_ipv4: address },
    meta: { 'consul-network-segment': '' },
  })
  return {
    version: options.version ?? '1.8',
    datacenter,
    defaultPolicy: options.defaultPolicy ?? (aclEnabled ? aclDefault : 'allow'),
    changes,
    acl: new Acl(changes, {
      enabled: aclEnabled,
      defaultPolicy: aclDefault,
      managementToken: options.acl?.managementToken ?? randomUUID(),
    }),
    catalog,
    local: new LocalServices(catalog),
    queries: new PreparedQueries(changes),
    coordinates: new Coordinates(changes),
    federation: surroundings.federation,
    shuffle: options.shuffle ?? true,
    connect:
      options.connect === false
        ? undefined
        : new ConnectCa(changes, {
            datacenter,
            leafTtlMs: options.leafTtlMs ?? 72 * 3_600_000,
            primary: surroundings.primaryCa,
            ...(options.trustDomain === undefined ? {} : { trustDomain: options.trustDomain }),
          }),
    intentions: new Intentions(changes),
    kv: new KeyValues(changes),
  }
}
