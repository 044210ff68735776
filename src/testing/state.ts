import { randomUUID } from 'node:crypto'
import { Acl, type DefaultPolicy } from './acl.js'
import { Catalog } from './catalog.js'
import { Changes } from './changes.js'
import { ConnectCa } from './connect-ca.js'
import { Intentions } from './intentions.js'
import { KeyValues } from './kv.js'
import type { AgentVersion, TestAgentOptions } from './options.js'

/** Everything the agent knows. A restart that forgets begins with a new one. */
export interface State {
  version: AgentVersion
  datacenter: string
  /** What holds where no intention matches. */
  defaultPolicy: DefaultPolicy
  changes: Changes
  acl: Acl
  catalog: Catalog
  /** Undefined while Connect is off. */
  connect: ConnectCa | undefined
  intentions: Intentions
  kv: KeyValues
}

export function createState(options: TestAgentOptions): State {
  const datacenter = options.datacenter ?? 'dc1'
  const aclEnabled = options.acl?.enabled ?? false
  const aclDefault = options.acl?.defaultPolicy ?? 'allow'
  const changes = new Changes()
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
    catalog: new Catalog(changes, { name: options.nodeName ?? 'embedded', address: '127.0.0.1' }),
    connect:
      options.connect === false
        ? undefined
        : new ConnectCa(changes, {
            datacenter,
            leafTtlMs: options.leafTtlMs ?? 72 * 3_600_000,
            ...(options.trustDomain === undefined ? {} : { trustDomain: options.trustDomain }),
          }),
    intentions: new Intentions(changes),
    kv: new KeyValues(changes),
  }
}
