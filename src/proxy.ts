// The entry `consul-connect/proxy`: what a program needs that stands in the mesh for another program.
import { type ProxyConfigOptions, ProxyConfigSource, type ProxySelector } from './proxy/config.js'
import { MUX_KEY, MUX_VERSION } from './agent/endpoints/services.js'
import { AgentRelay, type RelayOptions } from './proxy/relay.js'

/**
 * The live configuration of a proxy that is registered with the agent, for those who write a proxy. Returns at once; the
 * first one comes with `ready()` or the event `changed`.
 * @throws OptionError
 * @example
 * ```ts
 * const config = proxyConfig({ proxyId: 'web-proxy' })
 * const { service, listener, upstreams } = await config.ready()
 * console.log(service, listener?.port, upstreams.length)
 * await config.close()
 * ```
 */
export function proxyConfig(selector: ProxySelector, options?: ProxyConfigOptions): ProxyConfigSource {
  return new ProxyConfigSource(selector, options)
}

/**
 * Opens a unix socket through which other processes of this program use the agent as this one does: without a token of
 * their own, and with one query at the agent for what several of them watch. They can read what a member of the mesh
 * needs, and change nothing.
 * @throws OptionError, ConnectError (ERR_CONNECT_LISTEN)
 * @example
 * ```ts
 * await using relay = await relayAgent({ path: `${process.cwd()}/relay.sock` })
 * const worker = connect.service('web', { agent: { address: `unix://${process.cwd()}/relay.sock` } })
 * await worker.ready()
 * await worker.close()
 * ```
 */
export async function relayAgent(options: RelayOptions): Promise<AgentRelay> {
  const relay = new AgentRelay(options)
  await relay.open()
  return relay
}

/**
 * The metadata with which an instance announces that it takes many connections over one, for a proxy that registers
 * itself and listens in another process. `register` adds it for a listener of its own service.
 */
export const MUX_META: Readonly<Record<string, string>> = Object.freeze({ [MUX_KEY]: MUX_VERSION })

export { ProxyConfigSource } from './proxy/config.js'
export { PROXY_CONFIG_KEYS, parseProxyConfig } from './proxy/settings.js'
export { dialLocal } from './sockets/dial-local.js'
export { pump } from './sockets/pump.js'

export type { ProxyConfigEvents, ProxyConfigOptions, ProxySelector } from './proxy/config.js'
export type { AgentRelay, RelayOptions } from './proxy/relay.js'
export type { ProxyConfig, ProxyListener, ProxyProblem, ProxyUpstream } from './proxy/settings.js'
export type { DialLocalOptions, LocalAddress } from './sockets/dial-local.js'
export type { PumpOptions, PumpResult } from './sockets/pump.js'
