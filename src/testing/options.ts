import type { DefaultPolicy } from './acl.js'

export interface TestAgentDnsOptions {
  /** Port for UDP and TCP; 0 selects a port that is free for both. @default 0 */
  port?: number
  /** Address to listen on. @default the `host` of the agent */
  host?: string
  /** TTL of service records in milliseconds; DNS counts whole seconds. Prepared queries may set their own. @default 0 */
  serviceTtlMs?: number
}

export interface TestAgentTls {
  key: string
  cert: string
  /** CA certificates for client certificates. */
  ca?: string
  /** Require a client certificate. @default false */
  requestCert?: boolean
}

export type AgentVersion = '1.8' | '1.15'

export interface TestAgentOptions {
  /** Port to listen on; 0 takes a free one. @default 0 */
  port?: number
  /** Address to listen on. @default '127.0.0.1' */
  host?: string
  /** Listen on a unix socket in place of a port. @default none */
  socketPath?: string
  /** Serve https with this key and certificate (PEM). @default none: plain http */
  tls?: TestAgentTls
  /** Serve DNS too, over UDP and TCP: `{}` takes a free port. @default none */
  dns?: TestAgentDnsOptions
  /** @default 'dc1' */
  datacenter?: string
  /** @default 'embedded' */
  nodeName?: string
  /**
   * Answer prepared queries and DNS in random order, as Consul does. False answers in the order of service IDs.
   *
   * @default true
   */
  shuffle?: boolean
  /** Trust domain of the mesh. @default a random `<uuid>.consul` */
  trustDomain?: string
  /** Life of a leaf in milliseconds; certificates count whole seconds. @default 259_200_000 (72 h) */
  leafTtlMs?: number
  /** What holds where no intention matches. @default the ACLs' default policy when they are on, else 'allow' */
  defaultPolicy?: DefaultPolicy
  /** @default off: every request may do everything, with any token */
  acl?: {
    enabled: boolean
    /** What a token may do where none of its rules speaks. @default 'allow' */
    defaultPolicy?: DefaultPolicy
    /** Secret of the first management token. @default a random one: see `TestAgent.managementToken` */
    managementToken?: string
  }
  /**
   * Whose answers to give where Consul's changed. From 1.15 on, `intentions/match` says its index and can be
   * watched, and each answer names the default policy in `X-Consul-Default-ACL-Policy`.
   *
   * @default '1.8'
   */
  version?: AgentVersion
  /** Whether Connect is enabled. @default true */
  connect?: boolean
}
