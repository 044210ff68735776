import type { CheckDefinition, ServiceDefinition } from './agent/services.js'
import { OptionError } from './errors.js'
import {
  DEFAULTS,
  describe,
  duration,
  expectDuration,
  expectKeys,
  expectName,
  expectObject,
  expectPort,
  expectSignal,
  expectString,
  expectStrings,
  optional,
} from './options.js'

/** Options of `register`. */
export interface RegisterOptions {
  /** Where the listener is. */
  readonly port: number
  /** @default the node's address */
  readonly address?: string | undefined
  /** Unique on the agent. @default `<service>-<port>`; of a proxy `<service>-proxy-<port>` */
  readonly id?: string | undefined
  /**
   * What is registered. `native`: this process, as an instance of the service. `proxy`: this process as a proxy
   * (`Kind: connect-proxy`, with the name `<service>-proxy`) that stands for an instance that is not of the mesh itself.
   * @default native
   */
  readonly kind?: 'native' | 'proxy' | undefined
  /**
   * The id of the instance that a proxy represents, registered with the same agent. The proxy is then critical when that
   * instance is, or is in maintenance.
   */
  readonly destinationId?: string | undefined
  readonly tags?: readonly string[] | undefined
  readonly meta?: Readonly<Record<string, string>> | undefined
  /** @default 1 and 1 */
  readonly weights?: { readonly passing: number; readonly warning: number } | undefined
  /**
   * How the agent knows that we live. With `ttlMs` this process says so three times in each such period; with `tcp`
   * the agent connects there. @default { ttlMs: 15000 }
   */
  readonly check?: TtlCheck | TcpCheck | undefined
  /**
   * When the agent may forget an instance whose check stays critical, in milliseconds; Consul takes a minute at
   * least. @default never: only `close` removes it
   */
  readonly deregisterAfterMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}

export interface TtlCheck {
  readonly ttlMs: number
}

export interface TcpCheck {
  /** `host:port` as the agent sees it. */
  readonly tcp: string
  /** @default 10000 */
  readonly intervalMs?: number | undefined
  /** @default 5000 */
  readonly timeoutMs?: number | undefined
}

const KEYS = [
  'port',
  'address',
  'id',
  'kind',
  'destinationId',
  'tags',
  'meta',
  'weights',
  'check',
  'deregisterAfterMs',
  'signal',
]

/** @throws OptionError */
export function serviceDefinition(
  service: string,
  options: RegisterOptions,
): {
  definition: ServiceDefinition
  heartbeatMs: number
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  expectObject('options', options)
  expectKeys('options', options, KEYS)
  const port = expectPort('port', options.port)
  if (port === 0) throw new OptionError('port', 'the port that the listener got', 'the number 0')
  const role = roleOf(service, options)
  const id = optional(expectName)('id', options.id) ?? `${role.Name}-${port}`
  const address = optional(expectString)('address', options.address)
  const tags = optional(expectStrings)('tags', options.tags)
  const meta = optional(expectMeta)('meta', options.meta)
  const weights = optional(expectWeights)('weights', options.weights)
  const { check, heartbeatMs } = checkDefinition(id, options)
  const definition: ServiceDefinition = {
    ID: id,
    Port: port,
    ...role,
    Check: check,
    ...aliasCheck(id, options),
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

/** What is registered under which name. */
function roleOf(
  service: string,
  { kind, destinationId }: RegisterOptions,
): Pick<ServiceDefinition, 'Name' | 'Kind' | 'Proxy' | 'Connect'> {
  const instance = optional(expectName)('destinationId', destinationId)
  if (kind === undefined || kind === 'native') {
    if (instance === undefined) return { Name: service, Connect: { Native: true } }
    throw new OptionError('destinationId', 'none beside kind native', describe(instance))
  }
  // JavaScript may say anything.
  if ((kind as unknown) !== 'proxy') throw new OptionError('kind', 'native or proxy', describe(kind))
  return {
    Name: `${service}-proxy`,
    Kind: 'connect-proxy',
    Proxy: {
      DestinationServiceName: service,
      ...(instance !== undefined && { DestinationServiceID: instance }),
    },
  }
}

/** The check by which a `sidecar_service` follows the state of its service. */
function aliasCheck(id: string, { destinationId }: RegisterOptions): Pick<ServiceDefinition, 'Checks'> {
  if (destinationId === undefined) return {}
  const Name = `follows ${destinationId}`
  return { Checks: [{ CheckID: `service:${id}:alias`, Name, AliasService: destinationId }] }
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

function expectMeta(option: string, value: unknown): Readonly<Record<string, string>> {
  for (const [key, item] of Object.entries(expectObject(option, value))) {
    if (typeof item !== 'string') throw new OptionError(`${option}.${key}`, 'a string', describe(item))
  }
  return value as Readonly<Record<string, string>>
}

function expectWeights(option: string, value: unknown): { Passing: number; Warning: number } {
  const { passing, warning } = expectObject(option, value)
  expectKeys(option, value as object, ['passing', 'warning'])
  const weight = (name: string, given: unknown): number => {
    if (typeof given !== 'number' || !Number.isInteger(given) || given < 0 || given > 65535) {
      throw new OptionError(`${option}.${name}`, 'a whole number from 0 to 65535', describe(given))
    }
    return given
  }
  return { Passing: weight('passing', passing), Warning: weight('warning', warning) }
}
