import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { type CheckDefinition, OWNER_KEY, type ServiceDefinition } from '../agent/endpoints/services.js'
import { OptionError } from '../base/errors.js'
import {
  DEFAULTS,
  describe,
  duration,
  expectDuration,
  expectDurationOrNone,
  expectKeys,
  expectName,
  expectObject,
  expectPort,
  expectSignal,
  expectString,
  expectStrings,
  expectTimeout,
  optional,
} from '../base/validate.js'

/** Options of `register`. */
export interface RegisterOptions {
  /** The port of the listener. */
  readonly port: number
  /** @default the address of the node */
  readonly address?: string | undefined
  /**
   * The ID of the instance, unique at the agent, which all pods of a node may share.
   * @default `<service>-<host>-<port>`, with `address` or the host name; for a proxy `<service>-proxy-<host>-<port>`
   */
  readonly id?: string | undefined
  /**
   * `native`: this process is an instance of the service. `proxy`: this process is a proxy (`Kind: connect-proxy`,
   * named `<service>-proxy`) of an instance outside the mesh.
   * @default native
   */
  readonly kind?: 'native' | 'proxy' | undefined
  /**
   * The ID of the instance of a proxy, at the same agent. The proxy is critical while this instance is critical or in
   * maintenance.
   */
  readonly destinationId?: string | undefined
  readonly tags?: readonly string[] | undefined
  readonly meta?: Readonly<Record<string, string>> | undefined
  /** @default 1 and 1 */
  readonly weights?: { readonly passing: number; readonly warning: number } | undefined
  /**
   * The health check. `ttlMs`: this process renews the check three times per period, and `setStatus` of the
   * registration changes its status. `tcp`: the agent connects to an address. `http`: the agent sends a GET and expects
   * a 2xx status. The instance is critical until the first `tcp` or `http` check. @default { ttlMs: 15000 }
   */
  readonly check?: TtlCheck | TcpCheck | HttpCheck | undefined
  /**
   * When the agent removes an instance whose check stays critical, such as after a crash, in milliseconds. Consul's
   * minimum is a minute; 0 is never. @default 600000
   */
  readonly deregisterAfterMs?: number | undefined
  /** Aborts the registration. */
  readonly signal?: AbortSignal | undefined
  /** How long to retry while the agent does not answer, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
}

export interface TtlCheck {
  readonly ttlMs: number
}

export interface TcpCheck {
  /** `host:port`, from the view of the agent. */
  readonly tcp: string
  /** @default 10000 */
  readonly intervalMs?: number | undefined
  /** @default 5000 */
  readonly timeoutMs?: number | undefined
}

export interface HttpCheck {
  /** The URL, from the view of the agent. */
  readonly http: string
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
  'timeoutMs',
]

/** @throws OptionError */
export function serviceDefinition(
  service: string,
  options: RegisterOptions,
  owner: string = randomBytes(8).toString('hex'),
): {
  definition: ServiceDefinition
  heartbeatMs: number
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  expectObject('options', options)
  expectKeys('options', options, KEYS)
  const port = expectPort('port', options.port)
  if (port === 0) throw new OptionError('port', 'the port of the listener', 'the number 0')
  const role = roleOf(service, options)
  const address = optional(expectString)('address', options.address)
  const id = optional(expectName)('id', options.id) ?? defaultId(role.Name, address ?? hostname(), port)
  const tags = optional(expectStrings)('tags', options.tags)
  const meta = optional(expectMeta)('meta', options.meta)
  const weights = optional(expectWeights)('weights', options.weights)
  const { check, heartbeatMs } = checkDefinition(`service:${id}:${owner}`, options)
  const definition: ServiceDefinition = {
    ID: id,
    Port: port,
    ...role,
    Check: check,
    Meta: { ...meta, [OWNER_KEY]: owner },
    ...aliasCheck(id, role.Proxy?.DestinationServiceID),
    ...(address !== undefined && { Address: address }),
    ...(tags !== undefined && { Tags: tags }),
    ...(weights !== undefined && { Weights: weights }),
  }
  return {
    definition,
    heartbeatMs,
    signal: optional(expectSignal)('signal', options.signal),
    timeoutMs: optional(expectTimeout)('timeoutMs', options.timeoutMs) ?? DEFAULTS.registerTimeoutMs,
  }
}

/** An id that no other process on the same agent has by default. */
function defaultId(name: string, host: string, port: number): string {
  return `${name}-${host.slice(0, 64).replace(/[^A-Za-z0-9.-]/g, '-')}-${port}`
}

/** A proxy is critical while the service that it stands for is: the check that the agent gives a `sidecar_service`. */
function aliasCheck(id: string, destination: string | undefined): Pick<ServiceDefinition, 'Checks'> {
  if (destination === undefined) return {}
  const Name = `alias of ${destination}`
  return { Checks: [{ CheckID: `service:${id}:alias`, Name, AliasService: destination }] }
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
  // Validate at run time: callers may not use TypeScript.
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

function checkDefinition(
  id: string,
  options: RegisterOptions,
): { check: CheckDefinition; heartbeatMs: number } {
  const input = expectObject('check', options.check ?? { ttlMs: DEFAULTS.checkTtlMs })
  const afterMs =
    optional(expectDurationOrNone)('deregisterAfterMs', options.deregisterAfterMs) ??
    DEFAULTS.deregisterAfterMs
  const common = {
    // Of this registration alone: a heartbeat cannot renew what another process has registered under the same id.
    CheckID: id,
    ...(afterMs > 0 && { DeregisterCriticalServiceAfter: `${afterMs}ms` }),
  }
  if (!('tcp' in input) && !('http' in input)) {
    expectKeys('check', input, ['ttlMs', 'tcp', 'http'])
    const ttlMs = expectDuration('check.ttlMs', input['ttlMs'])
    const ttl = { Name: 'process is alive', TTL: `${ttlMs}ms`, Status: 'passing' } as const
    return { check: { ...common, ...ttl }, heartbeatMs: ttlMs / 3 }
  }
  const kind = 'tcp' in input ? 'tcp' : 'http'
  expectKeys('check', input, [kind, 'intervalMs', 'timeoutMs'])
  const intervalMs = duration('check.intervalMs', input['intervalMs'], DEFAULTS.checkIntervalMs)
  const timeoutMs = duration('check.timeoutMs', input['timeoutMs'], DEFAULTS.checkTimeoutMs)
  const look =
    kind === 'tcp'
      ? { Name: 'Connect listener accepts', TCP: expectString('check.tcp', input['tcp']) }
      : { Name: 'HTTP endpoint answers', HTTP: expectUrl('check.http', input['http']) }
  const check = { ...common, ...look, Interval: `${intervalMs}ms`, Timeout: `${timeoutMs}ms` }
  return { check, heartbeatMs: intervalMs }
}

function expectUrl(option: string, value: unknown): string {
  const text = expectString(option, value)
  const isUrl = text.length <= 2048 && /^https?:/i.test(text) && URL.canParse(text)
  if (!isUrl)
    throw new OptionError(option, 'an http:// or https:// URL of at most 2048 characters', describe(value))
  return text
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
