/** How to reach the Consul agent. What is not given here comes from Consul's client environment. */
export interface AgentOptions {
  /**
   * `host`, `host:port`, `http(s)://host[:port][/prefix]` or `unix:///path`.
   * @default CONSUL_HTTP_ADDR, or 127.0.0.1:8500
   */
  readonly address?: string | undefined
  /** `host:port` of the agent's DNS interface, for upstreams by DNS name. @default the host of `address`, port 8600 */
  readonly dnsAddress?: string | undefined
  /** An ACL token. @default CONSUL_HTTP_TOKEN */
  readonly token?: string | undefined
  /** A file with an ACL token, read again for every request. Excludes `token`. @default CONSUL_HTTP_TOKEN_FILE */
  readonly tokenFile?: string | undefined
  /** HTTP basic authentication, for a proxy in front of the agent. @default CONSUL_HTTP_AUTH */
  readonly auth?: { readonly username: string; readonly password: string } | undefined
  /** TLS towards the agent; has no effect on `http` addresses. */
  readonly tls?: AgentTlsOptions | undefined
  /** @default CONSUL_NAMESPACE */
  readonly namespace?: string | undefined
  /** @default CONSUL_PARTITION */
  readonly partition?: string | undefined
  /** The datacenter that services are looked up in. @default CONSUL_DATACENTER, or the agent's own */
  readonly datacenter?: string | undefined
  /** Bound on a request that does not block, in milliseconds. @default 10000 */
  readonly timeoutMs?: number | undefined
  /**
   * How many blocking queries may be open at a time, of all services of this process that use the agent. Each holds a
   * connection, of which an agent accepts 200 from one address by default (`limits.http_max_conns_per_client`), from all
   * programs together; 9 more are used for everything else. What cannot block is polled every 5 to 60 s. When the agent
   * accepts no more connections, the number is lowered for a while. @default 32
   */
  readonly maxBlockingQueries?: number | undefined
  /**
   * How long the agent may hold a blocking query, in milliseconds; at most 600000. A shorter bound of a proxy before the
   * agent is noticed and needs no setting. @default 300000
   */
  readonly waitMs?: number | undefined
  /**
   * The environment to take defaults from.
   * @default process.env
   */
  readonly env?: Environment | undefined
}

/** TLS towards the agent's HTTPS API. It has nothing to do with the mesh's own certificates. */
export interface AgentTlsOptions {
  /** PEM of the authorities to trust instead of the system's. @default the files of CONSUL_CACERT or CONSUL_CAPATH */
  readonly ca?: string | readonly string[] | undefined
  /** PEM of a client certificate. @default the file CONSUL_CLIENT_CERT */
  readonly cert?: string | undefined
  /** PEM of its private key. @default the file CONSUL_CLIENT_KEY */
  readonly key?: string | undefined
  /** The name to expect in the agent's certificate. @default CONSUL_TLS_SERVER_NAME, or the address's host */
  readonly serverName?: string | undefined
  /** `false` accepts any certificate of the agent: for development only. @default CONSUL_HTTP_SSL_VERIFY, or true */
  readonly verify?: boolean | undefined
}

/** Environment variables by name, as in `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>
