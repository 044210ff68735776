import { randomUUID } from 'node:crypto'
import { Acl, type DefaultPolicy } from './acl.js'
import { Catalog } from './catalog.js'
import { Changes } from './changes.js'
import { ConnectCa } from './connect-ca.js'
import { Intentions } from './intentions.js'
import type { AgentVersion, TestAgentOptions } from './options.js'
import { PreparedQueries } from './queries.js'

/** State of the agent. `restart({ forget: true })` replaces it. */
export interface State {
  version: AgentVersion
  datacenter: string
  /** What holds where no intention matches. */
  defaultPolicy: DefaultPolicy
  changes: Changes
  acl: Acl
  catalog: Catalog
  queries: PreparedQueries
  /** Whether to answer in random order where Consul does. */
  shuffle: boolean
  /** Undefined while Connect is off. */
  connect: ConnectCa | undefined
  intentions: Intentions
  /** The key-value store. */
  kv: Map<string, Buffer>
}

export function createState(options: TestAgentOptions): State {
  const datacenter = options.datacenter ?? 'dc1'
  const aclEnabled = options.acl?.enabled ?? false
  const aclDefault = options.acl?.defaultPolicy ?? 'allow'
  const changes = new Changes()
  const catalog = new Catalog(changes, {
    name: options.nodeName ?? 'embedded',
    id: randomUUID(),
    datacenter,
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
    queries: new PreparedQueries(changes),
    shuffle: options.shuffle ?? true,
    connect:
      options.connect === false
        ? undefined
        : new ConnectCa(changes, {
            datacenter,
            leafTtlMs: options.leafTtlMs ?? 72 * 3_600_000,
            ...(options.trustDomain === undefined ? {} : { trustDomain: options.trustDomain }),
          }),
    intentions: new Intentions(changes),
    kv: new Map(),
  }
}
