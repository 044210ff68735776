export interface TestAgentDnsOptions {
  /** Port for UDP and TCP; 0 takes one that is free for both. @default 0 */
  port?: number
  /** Address to listen on. @default the `host` of the agent */
  host?: string
  /** @default 'consul' */
  domain?: string
  /** Life of the answers about services; a prepared query may have its own. DNS counts whole seconds. @default 0 */
  serviceTtlMs?: number
  /** Life of the answers about nodes. @default 0 */
  nodeTtlMs?: number
  /** Set the TC flag in an answer that is not complete. Consul leaves it off unless told. @default false */
  enableTruncate?: boolean
  /** How many answers to give over UDP to those without EDNS; never more than 8. @default 3 */
  udpAnswerLimit?: number
  /** Leave out services with warnings too. @default false: only critical ones are left out */
  onlyPassing?: boolean
  /** Add the nodes' metadata as TXT records. @default true */
  nodeMetaTxt?: boolean
  /** The token to look names up with. @default none: the anonymous one */
  token?: string
}

export type DnsSettings = Required<Omit<TestAgentDnsOptions, 'token'>> & { token: string | undefined }

export function dnsSettings(options: TestAgentDnsOptions, host: string): DnsSettings {
  return {
    port: options.port ?? 0,
    host: options.host ?? host,
    domain: (options.domain ?? 'consul').toLowerCase().replace(/\.$/, ''),
    serviceTtlMs: options.serviceTtlMs ?? 0,
    nodeTtlMs: options.nodeTtlMs ?? 0,
    enableTruncate: options.enableTruncate ?? false,
    udpAnswerLimit: options.udpAnswerLimit ?? 3,
    onlyPassing: options.onlyPassing ?? false,
    nodeMetaTxt: options.nodeMetaTxt ?? true,
    token: options.token,
  }
}
