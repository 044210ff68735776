import { randomUUID } from 'node:crypto'
import { Acl } from './acl.js'
import { Catalog } from './catalog.js'
import { Chains } from './chains.js'
import { Changes } from './changes.js'
import { ConnectCa } from '../pki/connect-ca.js'
import { Intentions } from './intentions.js'
import type { DefaultPolicy, TestAgentOptions } from '../options.js'
import { PreparedQueries } from './queries.js'

const LEAF_TTL_MS = 72 * 3_600_000

/** The state of the agent. `restart({ forget: true })` replaces it. */
export class State {
  readonly version: NonNullable<TestAgentOptions['version']>
  readonly datacenter: string
  /** What applies where no intention matches. */
  readonly defaultPolicy: DefaultPolicy
  /** Whether to answer in random order where Consul does. */
  readonly shuffle: boolean
  readonly changes: Changes = new Changes()
  readonly acl: Acl
  readonly catalog: Catalog
  readonly chains: Chains
  readonly queries: PreparedQueries = new PreparedQueries(this.changes)
  readonly intentions: Intentions = new Intentions(this.changes)
  /** Undefined if Connect is disabled. */
  readonly connect: ConnectCa | undefined
  /** The key-value store. */
  readonly kv: Map<string, Buffer> = new Map()

  constructor(options: TestAgentOptions) {
    const { datacenter = 'dc1', leafTtlMs = LEAF_TTL_MS, trustDomain } = options
    const { enabled = false, defaultPolicy = 'allow', managementToken = randomUUID() } = options.acl ?? {}
    this.version = options.version ?? '1.8'
    this.datacenter = datacenter
    this.defaultPolicy = options.defaultPolicy ?? (enabled ? defaultPolicy : 'allow')
    this.shuffle = options.shuffle ?? true
    this.acl = new Acl(this.changes, { enabled, defaultPolicy, managementToken })
    this.catalog = new Catalog(this.changes, datacenter)
    if (options.connect !== false)
      this.connect = new ConnectCa(this.changes, { datacenter, leafTtlMs, trustDomain })
    this.chains = new Chains(this.changes, { datacenter, trustDomain: this.connect?.trustDomain ?? '' })
  }
}
