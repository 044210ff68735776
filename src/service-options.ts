import { type AgentOptions, type AgentSettings, agentSettings } from './agent/options.js'
import type { CheckDefinition, ServiceDefinition } from './agent/services.js'
import type { Authorizer } from './authorize/authorizer.js'
import { OptionError } from './errors.js'
import {
  DEFAULTS,
  describe,
  expectBoolean,
  expectDuration,
  expectFunction,
  expectKeys,
  expectObject,
  expectPort,
  expectSignal,
  expectString,
  optional,
} from './options.js'
import type { ListenAddress } from './transport/listen.js'

/** Options of `connect.service`. */
export interface ServiceOptions {
  /** How to reach the Consul agent. @default Consul's client environment */
  readonly agent?: AgentOptions
  /** Who may connect. @default the mesh's intentions, by the agent's word on every connection */
  readonly authorize?: Authorizer
  /** Bound on a whole `dial`, in milliseconds. @default 10000 */
  readonly dialTimeoutMs?: number
  /** Bound on an inbound handshake, and once more on its authorization, in milliseconds. @default 10000 */
  readonly handshakeTimeoutMs?: number
  /** How long `close` waits for open connections before it cuts them, in milliseconds. @default 10000 */
  readonly drainTimeoutMs?: number
}

export interface ServiceSettings {
  readonly agent: AgentSettings
  readonly authorize: Authorizer | undefined
  readonly dialTimeoutMs: number
  readonly handshakeTimeoutMs: number
  readonly drainTimeoutMs: number
}

/** Options of `ready`. */
export interface ReadyOptions {
  readonly signal?: AbortSignal
  /** How long to wait for the first certificate, in milliseconds. @default 10000 */
  readonly timeoutMs?: number
}

/** Options of `dial`. */
export interface DialOptions {
  readonly signal?: AbortSignal
  /** Bound on everything: our own readiness, resolving, and every instance tried. @default the service's dialTimeoutMs */
  readonly timeoutMs?: number
  /** Keep our side open when the peer ends its own, as in node:net. @default false */
  readonly allowHalfOpen?: boolean
}

/** Options of `listen` and `serve`. Either a port, or the path of a unix socket. */
export interface ListenOptions {
  /** 0 lets the system choose. */
  readonly port?: number
  /** @default every address of the machine: the listener is there to be reached */
  readonly host?: string
  /** A unix socket, in place of port and host. */
  readonly path?: string
  /** Bound on the wait for our first certificate, which comes before listening. */
  readonly signal?: AbortSignal
  /** @default the service's */
  readonly handshakeTimeoutMs?: number
  /** Keep our side open when the peer ends its own, as in node:net. @default false */
  readonly allowHalfOpen?: boolean
  /** ALPN names to offer. A client that offers only others is refused. @default none; for HTTP/2 servers its own */
  readonly alpnProtocols?: readonly string[]
}

/** Options of `register`. */
export interface RegisterOptions {
  /** Where the listener is. */
  readonly port: number
  /** @default the node's address */
  readonly address?: string
  /** Unique on the agent. @default `<service>-<port>` */
  readonly id?: string
  readonly tags?: readonly string[]
  readonly meta?: Readonly<Record<string, string>>
  /** @default 1 and 1 */
  readonly weights?: { readonly passing: number; readonly warning: number }
  /**
   * How the agent knows that we live. With `ttlMs` this process says so three times in each such period; with `tcp`
   * the agent connects there. @default { ttlMs: 15000 }
   */
  readonly check?: TtlCheck | TcpCheck
  /**
   * When the agent may forget an instance whose check stays critical, in milliseconds; Consul takes a minute at
   * least. @default never: only `close` removes it
   */
  readonly deregisterAfterMs?: number
  readonly signal?: AbortSignal
}

export interface TtlCheck {
  readonly ttlMs: number
}

export interface TcpCheck {
  /** `host:port` as the agent sees it. */
  readonly tcp: string
  /** @default 10000 */
  readonly intervalMs?: number
  /** @default 5000 */
  readonly timeoutMs?: number
}

/** Options of `close`. */
export interface CloseOptions {
  /** @default the service's */
  readonly drainTimeoutMs?: number
}

/** @throws OptionError */
export function serviceSettings(given: ServiceOptions = {}): ServiceSettings {
  const options = expectObject('options', given) as ServiceOptions
  expectKeys('options', options, [
    'agent',
    'authorize',
    'dialTimeoutMs',
    'handshakeTimeoutMs',
    'drainTimeoutMs',
  ])
  optional(expectFunction)('authorize', options.authorize)
  return {
    agent: agentSettings(options.agent),
    authorize: options.authorize,
    dialTimeoutMs: duration('dialTimeoutMs', options.dialTimeoutMs, DEFAULTS.dialTimeoutMs),
    handshakeTimeoutMs: duration(
      'handshakeTimeoutMs',
      options.handshakeTimeoutMs,
      DEFAULTS.handshakeTimeoutMs,
    ),
    drainTimeoutMs: duration('drainTimeoutMs', options.drainTimeoutMs, DEFAULTS.drainTimeoutMs),
  }
}

/** @throws OptionError */
export function readyBounds(given: ReadyOptions = {}): {
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  const { signal, timeoutMs } = expectObject('options', given) as ReadyOptions
  expectKeys('options', given, ['signal', 'timeoutMs'])
  return {
    signal: optional(expectSignal)('signal', signal),
    timeoutMs: duration('timeoutMs', timeoutMs, DEFAULTS.readyTimeoutMs),
  }
}

/** @throws OptionError */
export function dialBounds(
  given: DialOptions | undefined,
  dialTimeoutMs: number,
): { signal: AbortSignal | undefined; timeoutMs: number; allowHalfOpen: boolean } {
  const options = expectObject('options', given ?? {}) as DialOptions
  const { signal, timeoutMs, allowHalfOpen } = options
  expectKeys('options', options, ['signal', 'timeoutMs', 'allowHalfOpen'])
  return {
    signal: optional(expectSignal)('signal', signal),
    timeoutMs: duration('timeoutMs', timeoutMs, dialTimeoutMs),
    allowHalfOpen: optional(expectBoolean)('allowHalfOpen', allowHalfOpen) ?? false,
  }
}

/** @throws OptionError */
export function listenSettings(
  given: ListenOptions,
  handshakeTimeoutMs: number,
): {
  address: ListenAddress
  signal: AbortSignal | undefined
  handshakeTimeoutMs: number
  allowHalfOpen: boolean
  alpnProtocols: readonly string[] | undefined
} {
  const options = expectObject('options', given) as ListenOptions
  expectKeys('options', options, [
    'port',
    'host',
    'path',
    'signal',
    'handshakeTimeoutMs',
    'allowHalfOpen',
    'alpnProtocols',
  ])
  return {
    address: listenAddress(options),
    signal: optional(expectSignal)('signal', options.signal),
    handshakeTimeoutMs: duration('handshakeTimeoutMs', options.handshakeTimeoutMs, handshakeTimeoutMs),
    allowHalfOpen: optional(expectBoolean)('allowHalfOpen', options.allowHalfOpen) ?? false,
    alpnProtocols: optional(expectStrings)('alpnProtocols', options.alpnProtocols),
  }
}

function listenAddress({ port, host, path }: ListenOptions): ListenAddress {
  if (path !== undefined) {
    if (port !== undefined || host !== undefined)
      throw new OptionError('path', 'a path alone', 'a path beside a port or host')
    return { path: expectString('path', path) }
  }
  if (port === undefined) throw new OptionError('port', 'a port, or the path of a unix socket', 'neither')
  return { port: expectPort('port', port), host: optional(expectString)('host', host) }
}

/** @throws OptionError */
export function serviceDefinition(
  service: string,
  given: RegisterOptions,
): {
  definition: ServiceDefinition
  heartbeatMs: number
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  const options = expectObject('options', given) as unknown as RegisterOptions
  const known = ['port', 'address', 'id', 'tags', 'meta', 'weights', 'check', 'deregisterAfterMs', 'signal']
  expectKeys('options', options, known)
  const port = expectPort('port', options.port)
  if (port === 0) throw new OptionError('port', 'the port that the listener got', 'the number 0')
  const id = optional(expectString)('id', options.id) ?? `${service}-${port}`
  const address = optional(expectString)('address', options.address)
  const tags = optional(expectStrings)('tags', options.tags)
  const meta = optional(expectMeta)('meta', options.meta)
  const weights = optional(expectWeights)('weights', options.weights)
  const { check, heartbeatMs } = checkDefinition(id, options)
  const definition: ServiceDefinition = {
    ID: id,
    Name: service,
    Port: port,
    Connect: { Native: true },
    Check: check,
    ...(address !== undefined && { Address: address }),
    ...(tags !== undefined && { Tags: tags }),
    ...(meta !== undefined && { Meta: meta }),
    ...(weights !== undefined && { Weights: weights }),
  }
  return {
    definition,
    heartbeatMs,
    signal: optional(expectSignal)('signal', options.signal),
    timeoutMs: DEFAULTS.registerTimeoutMs,
  }
}

function checkDefinition(
  id: string,
  options: RegisterOptions,
): { check: CheckDefinition; heartbeatMs: number } {
  const given = expectObject('check', options.check ?? { ttlMs: DEFAULTS.checkTtlMs })
  const after = optional(expectDuration)('deregisterAfterMs', options.deregisterAfterMs)
  const common = {
    // The id that the agent itself gives to a service's only check.
    CheckID: `service:${id}`,
    ...(after !== undefined && { DeregisterCriticalServiceAfter: `${after}ms` }),
  }
  if ('tcp' in given) {
    expectKeys('check', given, ['tcp', 'intervalMs', 'timeoutMs'])
    const intervalMs = duration('check.intervalMs', given['intervalMs'], DEFAULTS.checkIntervalMs)
    const timeoutMs = duration('check.timeoutMs', given['timeoutMs'], DEFAULTS.checkTimeoutMs)
    const check: CheckDefinition = {
      ...common,
      Name: 'Connect listener accepts',
      TCP: expectString('check.tcp', given['tcp']),
      Interval: `${intervalMs}ms`,
      Timeout: `${timeoutMs}ms`,
    }
    return { check, heartbeatMs: intervalMs }
  }
  expectKeys('check', given, ['ttlMs'])
  const ttlMs = expectDuration('check.ttlMs', given['ttlMs'])
  return { check: { ...common, Name: 'process is alive', TTL: `${ttlMs}ms` }, heartbeatMs: ttlMs / 3 }
}

/** @throws OptionError */
export function drainTimeout(given: CloseOptions | undefined, drainTimeoutMs: number): number {
  const options = expectObject('options', given ?? {}) as CloseOptions
  expectKeys('options', options, ['drainTimeoutMs'])
  return duration('drainTimeoutMs', options.drainTimeoutMs, drainTimeoutMs)
}

function duration(option: string, value: unknown, otherwise: number): number {
  return optional(expectDuration)(option, value) ?? otherwise
}

function expectStrings(option: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw new OptionError(option, 'a list of strings', describe(value))
  return value.map((item, i) => expectString(`${option}[${i}]`, item))
}

function expectMeta(option: string, value: unknown): Readonly<Record<string, string>> {
  for (const [key, item] of Object.entries(expectObject(option, value))) {
    if (typeof item !== 'string') throw new OptionError(`${option}.${key}`, 'a string', describe(item))
  }
  return value as Readonly<Record<string, string>>
}

function expectWeights(option: string, value: unknown): { Passing: number; Warning: number } {
  const { passing, warning } = expectObject(option, value)
  const weight = (name: string, given: unknown): number => {
    if (typeof given !== 'number' || !Number.isInteger(given) || given < 0 || given > 65535) {
      throw new OptionError(`${option}.${name}`, 'a whole number from 0 to 65535', describe(given))
    }
    return given
  }
  return { Passing: weight('passing', passing), Warning: weight('warning', warning) }
}
