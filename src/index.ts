import { ConsulApi } from './agent/consul-api.js'
import type { AgentOptions } from './agent/options.js'
import { Service } from './service/service.js'
import type { ServiceOptions } from './service/options/service-options.js'

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

export { closeOnSignals } from './service/close-on-signals.js'
export { Service } from './service/service.js'
export { ConsulApi } from './agent/consul-api.js'
export { SpiffeId } from './identity/spiffe.js'
export { peer } from './transport/verify-peer.js'
export { requestDecision } from './adapters/requests/admit-request.js'
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
export { RequestDeniedError } from './authorize/requests/request-denied-error.js'
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
export type { Authorizer, AuthorizeRequest } from './authorize/authorizer.js'
export type { Decision, DecisionBasis } from './authorize/decision.js'
export type { RequestDecision } from './authorize/requests/request-policy.js'
export type { AllowedService } from './authorize/authorizers.js'
export type { Staleness } from './authorize/destination-intentions.js'
export type { DialAttempt, DialTarget, ErrorCode, NoInstancesReason } from './base/errors.js'
export type { ReadyOptions } from './base/options/ready-options.js'
export type { HttpCheck, RegisterOptions, TcpCheck, TtlCheck } from './service/options/register-options.js'
export type { ServiceEvents } from './service/service-events.js'
export type {
  AttemptCount,
  DecisionCount,
  ServiceStats,
  RejectionCount,
  RevocationCount,
} from './service/stats.js'
export type { SessionStats } from './transport/mux/session-counts.js'
export type { Leaf } from './identity/leaf.js'
export type { Peer } from './identity/peer.js'
export type { Roots } from './identity/roots.js'
export type { ServiceId, SpiffeIdParts } from './identity/spiffe.js'
export type { ExpectedIdentity } from './identity/verify.js'
export type { AgentRequestMessage } from './agent/diagnostics.js'
export type { DecisionMessage, RequestMessage, RevocationMessage } from './authorize/diagnostics.js'
export type { ChannelMessages } from './service/diagnostics.js'
export type { RotationMessage } from './identity/diagnostics.js'
export type { ResolutionMessage } from './resolve/diagnostics.js'
export type { DialMessage, HandshakeMessage } from './transport/diagnostics.js'
export type { Clock, Time } from './base/clock.js'
export type { CloseOptions } from './base/options/close-options.js'
export type { Endpoint, ResolveRequest, Resolver } from './resolve/resolver.js'
export type {
  AddressUpstream,
  DnsUpstream,
  QueryUpstream,
  ServiceUpstream,
  Upstream,
} from './resolve/upstream.js'
export type { Forward, ForwardEvents } from './adapters/forward.js'
export type { ForwardConnection } from './adapters/forward-connection.js'
export type { DispatcherOptions } from './http/dispatcher.js'
export type { HttpAgentOptions, MeshHttpAgent } from './http/agent.js'
export type { MeshStream } from './adapters/stream.js'
export type { ConnectionInjector, ServableServer } from './adapters/serve.js'
export type { DialOptions, ForwardOptions, ResolveOptions } from './service/options/dial-options.js'
export type {
  ListenOptions,
  SecureOptions,
  SecureServerOptions,
  ServeOptions,
} from './service/options/listen-options.js'
export type { RequestOptions } from './adapters/requests/gate-options.js'
export type {
  AuthorizeOptions,
  AuthorizeRequestOptions,
  AuthorizedRequest,
} from './service/options/authorize-options.js'
export type { ServiceOptions } from './service/options/service-options.js'
export type { ConnectionHandler } from './transport/inbound/admission.js'
export type { Listener } from './transport/inbound/listen.js'
export type { ListenAddress } from './sockets/bind-server.js'
export type { MeshSocket } from './transport/mesh-socket.js'
export type { TlsMaterial } from './transport/tls-context.js'
export type { TlsClientOptions, TlsServerOptions } from './transport/tls-options.js'
