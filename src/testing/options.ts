/** What applies where no rule matches. */
export type DefaultPolicy = 'allow' | 'deny'

export interface TestAgentTls {
  /** Private key in PEM. */
  key: string
  /** Certificate in PEM. */
  cert: string
  /** CA certificates for client certificates, in PEM. */
  ca?: string
  /** Require a client certificate. @default false */
  requestCert?: boolean
}

export interface TestAgentOptions {
  /** Port to listen on; 0 selects a free port. @default 0 */
  port?: number
  /** Address to listen on. @default '127.0.0.1' */
  host?: string
  /** Path of a Unix socket to listen on in place of a port. @default none */
  socketPath?: string
  /** Key and certificate for HTTPS. @default none: HTTP */
  tls?: TestAgentTls
  /** Also serve DNS over UDP; the port 0, which is the default, selects a free port. @default none */
  dns?: { port?: number }
  /** @default 'dc1' */
  datacenter?: string
  /**
   * Answer prepared queries and DNS in random order, as Consul does. False answers in the order of service IDs.
   * @default true
   */
  shuffle?: boolean
  /** Trust domain of the mesh. @default a random `<uuid>.consul` */
  trustDomain?: string
  /** Lifetime of a leaf in milliseconds; certificates count whole seconds. @default 259_200_000 (72 h) */
  leafTtlMs?: number
  /** What applies where no intention matches. @default the default policy of the ACLs if they are enabled, else 'allow' */
  defaultPolicy?: DefaultPolicy
  /** @default disabled: every request is allowed, with any token */
  acl?: {
    enabled: boolean
    /** What applies where no rule of a token matches. @default 'allow' */
    defaultPolicy?: DefaultPolicy
    /** Secret of the first management token. @default a random secret; see `TestAgent.managementToken` */
    managementToken?: string
  }
  /**
   * The version whose answers the agent gives. From 1.15 on, `intentions/match` returns its index and can be watched, and
   * every answer has the default policy in `X-Consul-Default-ACL-Policy`.
   * @default '1.8'
   */
  version?: '1.8' | '1.15'
  /** Whether Connect is enabled. @default true */
  connect?: boolean
}
