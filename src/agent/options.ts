/** How to reach the Consul agent. Missing options are read from the environment variables of Consul's clients. */
export interface AgentOptions {
  /**
   * `host`, `host:port`, `http(s)://host[:port][/prefix]` or `unix:///path`.
   * @default CONSUL_HTTP_ADDR, or 127.0.0.1:8500
   */
  readonly address?: string | undefined
  /** `host:port` of the DNS interface, for upstreams by DNS name. @default the host of `address`, port 8600 */
  readonly dnsAddress?: string | undefined
  /** An ACL token. @default CONSUL_HTTP_TOKEN */
  readonly token?: string | undefined
  /**
   * A file with an ACL token, read for every request. Cannot be combined with `token`. @default CONSUL_HTTP_TOKEN_FILE
   */
  readonly tokenFile?: string | undefined
  /** HTTP basic authentication, for a proxy in front of the agent. @default CONSUL_HTTP_AUTH */
  readonly auth?: { readonly username: string; readonly password: string } | undefined
  /** TLS options for `https` addresses; no effect on `http` addresses. */
  readonly tls?: AgentTlsOptions | undefined
  /** @default CONSUL_NAMESPACE */
  readonly namespace?: string | undefined
  /** @default CONSUL_PARTITION */
  readonly partition?: string | undefined
  /** The datacenter in which services are looked up. @default CONSUL_DATACENTER, or the datacenter of the agent */
  readonly datacenter?: string | undefined
  /**
   * The service name of the mesh gateways, for tokens that may not read the list of all gateways.
   * @default mesh-gateway
   */
  readonly meshGatewayService?: string | undefined
  /** Timeout of a request that does not block, in milliseconds. @default 10000 */
  readonly timeoutMs?: number | undefined
  /**
   * Upper bound on the blocking queries of all services of this process at this agent. Each holds a connection; up to 9
   * more connections are used for other requests. By default an agent accepts 200 connections from one address
   * (`limits.http_max_conns_per_client`). Watches above the bound poll every 5 to 60 s. When the agent rejects
   * connections, the bound is reduced temporarily. @default 32
   */
  readonly maxBlockingQueries?: number | undefined
  /**
   * How long the agent may hold a blocking query, in milliseconds; 1000 to 600000. A shorter timeout of a proxy in
   * front of the agent is detected and needs no setting. @default 300000
   */
  readonly waitMs?: number | undefined
  /**
   * The environment variables for defaults.
   * @default process.env
   */
  readonly env?: Environment | undefined
}

/** TLS options for the HTTPS API of the agent. They do not affect mesh connections. */
export interface AgentTlsOptions {
  /**
   * PEM of the trusted CAs, instead of the defaults of Node.js. @default the files of CONSUL_CACERT or CONSUL_CAPATH
   */
  readonly ca?: string | readonly string[] | undefined
  /** PEM of a client certificate. @default the file CONSUL_CLIENT_CERT */
  readonly cert?: string | undefined
  /** PEM of the private key of `cert`. @default the file CONSUL_CLIENT_KEY */
  readonly key?: string | undefined
  /** The expected name in the certificate of the agent. @default CONSUL_TLS_SERVER_NAME, or the host of the address */
  readonly serverName?: string | undefined
  /** `false` accepts any certificate of the agent; for development only. @default CONSUL_HTTP_SSL_VERIFY, or true */
  readonly verify?: boolean | undefined
}

/** Environment variables by name, as in `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>
