import { ConsulApi } from './agent/consul-api.js'
import type { AgentOptions } from './agent/options.js'
import { type ProxyConfigOptions, ProxyConfigSource, type ProxySelector } from './proxy/config.js'
import { AgentRelay, type RelayOptions } from './proxy/relay.js'
import { Service } from './service/service.js'
import type { ServiceOptions } from './service/service-options.js'

/**
 * Joins the mesh as the service `name`. Returns at once: the certificate is fetched in the background, and `dial` and
 * `listen` wait for it.
 * @throws OptionError
 * @example
 * ```ts
 * const web = connect.service('web', { dialTimeoutMs: 5_000 })
 * web.on('warning', (error) => {
 *   console.warn(error.message)
 * })
 * await web.close()
 * ```
 */
export function service(name: string, options?: ServiceOptions): Service {
  return new Service(name, options)
}

/**
 * The live configuration of a proxy that is registered with the agent, for those who write a proxy. Returns at once; the
 * first one comes with `ready()` or the event `changed`.
 * @throws OptionError
 * @example
 * ```ts
 * const config = connect.proxyConfig({ proxyId: 'web-proxy' })
 * const { service, listener, upstreams } = await config.ready()
 * console.log(service, listener?.port, upstreams.length)
 * await config.close()
 * ```
 */
export function proxyConfig(selector: ProxySelector, options?: ProxyConfigOptions): ProxyConfigSource {
  return new ProxyConfigSource(selector, options)
}

/**
 * The HTTP API of a Consul agent, for programs that register services or make tokens for them.
 * @throws OptionError
 * @example
 * ```ts
 * await using consul = connect.consul()
 * const services = await consul.request({ path: '/v1/agent/services' })
 * console.log(services)
 * ```
 */
export function consul(options?: AgentOptions): ConsulApi {
  return new ConsulApi(options)
}

/**
 * Opens a unix socket through which other processes of this program use the agent as this one does: without a token of
 * their own, and with one query at the agent for what several of them watch. They can read what a member of the mesh
 * needs, and change nothing.
 * @throws OptionError, ConnectError (ERR_CONNECT_LISTEN)
 * @example
 * ```ts
 * await using relay = await connect.relayAgent({ path: `${process.cwd()}/relay.sock` })
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

export { closeOnSignals } from './service/close-on-signals.js'
export { Service } from './service/service.js'
export { ConsulApi } from './agent/consul-api.js'
export { SpiffeId } from './identity/spiffe.js'
export { ProxyConfigSource } from './proxy/config.js'
export { PROXY_CONFIG_KEYS, parseProxyConfig } from './proxy/settings.js'
export { peer } from './transport/verify-peer.js'
export { dialLocal } from './sockets/dial-local.js'
export { pump } from './sockets/pump.js'
export {
  AbortError,
  AgentError,
  ClosedError,
  ConnectError,
  DialError,
  DnsError,
  ERROR_CODES,
  HostError,
  IdentityError,
  OptionError,
  RedirectError,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
} from './base/errors.js'
export { DeniedError, RevokedError } from './authorize/authorizer.js'
export {
  allOf,
  anyOf,
  authorizeAny,
  authorizeIntentions,
  authorizeOneOf,
  authorizeService,
  authorizeTrustDomain,
} from './authorize/authorizers.js'

export type { AgentExchange, AgentRequest, Query } from './agent/client.js'
export type { AgentOptions, AgentTlsOptions, Environment } from './agent/options.js'
export type {
  AgentCallOptions,
  MaintenanceOptions,
  Registration,
  StatusOptions,
} from './service/registration.js'
export type { CheckStatus } from './agent/endpoints/services.js'
export type { Authorizer, AuthorizeRequest, Decision, DecisionBasis } from './authorize/authorizer.js'
export type { AllowedService } from './authorize/authorizers.js'
export type { Staleness } from './authorize/destination-intentions.js'
export type { DialAttempt, ErrorCode, NoInstancesReason } from './base/errors.js'
export type { ProxyConfigEvents, ProxyConfigOptions, ProxySelector } from './proxy/config.js'
export type { AgentRelay, RelayOptions } from './proxy/relay.js'
export type { ProxyConfig, ProxyListener, ProxyProblem, ProxyUpstream } from './proxy/settings.js'
export type { ReadyOptions } from './base/ready-options.js'
export type { HttpCheck, RegisterOptions, TcpCheck, TtlCheck } from './service/register-options.js'
export type { ServiceEvents } from './service/service-events.js'
export type { DecisionCount, ServiceStats, RejectionCount, RevocationCount } from './service/stats.js'
export type { Leaf } from './identity/leaf.js'
export type { Peer } from './identity/peer.js'
export type { Roots } from './identity/roots.js'
export type { ServiceId, SpiffeIdParts } from './identity/spiffe.js'
export type { ExpectedIdentity } from './identity/verify.js'
export type { AgentRequestMessage } from './agent/diagnostics.js'
export type { DecisionMessage, RevocationMessage } from './authorize/diagnostics.js'
export type { ChannelMessages } from './service/diagnostics.js'
export type { RotationMessage } from './identity/diagnostics.js'
export type { ResolutionMessage } from './resolve/diagnostics.js'
export type { DialMessage, HandshakeMessage } from './transport/diagnostics.js'
export type { Clock, Time } from './base/clock.js'
export type { CloseOptions } from './base/close-options.js'
export type { Endpoint, ResolveRequest, Resolver } from './resolve/resolver.js'
export type { AddressTarget, DnsTarget, QueryTarget, ServiceTarget, Upstream } from './resolve/upstream.js'
export type { Forward, ForwardEvents } from './adapters/forward.js'
export type { ForwardConnection } from './adapters/forward-connection.js'
export type { DispatcherOptions } from './http/dispatcher.js'
export type { HttpAgentOptions, MeshHttpAgent } from './http/agent.js'
export type { MeshStream } from './adapters/stream.js'
export type { ConnectionInjector, ServableServer } from './adapters/serve.js'
export type {
  DialOptions,
  ForwardOptions,
  ListenOptions,
  ResolveOptions,
  ServiceOptions,
} from './service/service-options.js'
export type { ConnectionHandler, Listener } from './transport/listen.js'
export type { ListenAddress } from './sockets/bind-server.js'
export type { DialLocalOptions, LocalAddress } from './sockets/dial-local.js'
export type { PumpOptions, PumpResult } from './sockets/pump.js'
export type { MeshSocket } from './transport/mesh-socket.js'
export type { TlsMaterial } from './transport/tls-context.js'
export type { TlsClientOptions, TlsServerOptions } from './transport/tls-options.js'
