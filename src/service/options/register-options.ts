import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { type CheckDefinition, OWNER_KEY, type ServiceDefinition } from '../../agent/endpoints/services.js'
import { OptionError } from '../../base/errors.js'
import {
  DEFAULTS,
  describe,
  expectDuration,
  expectDurationOrNone,
  expectName,
  expectObject,
  expectPort,
  expectSignal,
  expectString,
  expectStrings,
  expectTimeout,
  optional,
  readOptions,
  withDefault,
} from '../../base/options/validate.js'

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

/** @throws OptionError */
export function serviceDefinition(
  service: string,
  given: RegisterOptions,
  owner: string = randomBytes(8).toString('hex'),
): {
  definition: ServiceDefinition
  heartbeatMs: number
  signal: AbortSignal | undefined
  timeoutMs: number
} {
  const { port, address, tags, meta, weights, ...options } = readOptions(given, {
    port: expectPort,
    address: optional(expectString),
    id: optional(expectName),
    kind: withDefault(expectKind, 'native'),
    destinationId: optional(expectName),
    tags: optional(expectStrings),
    meta: optional(expectMeta),
    weights: optional(expectWeights),
    check: withDefault(expectObject, { ttlMs: DEFAULTS.checkTtlMs }),
    deregisterAfterMs: withDefault<number>(expectDurationOrNone, DEFAULTS.deregisterAfterMs),
    signal: optional(expectSignal),
    timeoutMs: withDefault<number>(expectTimeout, DEFAULTS.registerTimeoutMs),
  })
  if (port === 0) throw new OptionError('port', 'the port of the listener', 'the number 0')
  const role = roleOf(service, options.kind, options.destinationId)
  const id = options.id ?? defaultId(role.Name, address ?? hostname(), port)
  const { check, heartbeatMs } = checkDefinition(
    `service:${id}:${owner}`,
    options.check,
    options.deregisterAfterMs,
  )
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
  const { signal, timeoutMs } = options
  return { definition, heartbeatMs, signal, timeoutMs }
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

/** Returns the properties that differ between a native instance and a proxy. */
function roleOf(
  service: string,
  kind: 'native' | 'proxy',
  destinationId: string | undefined,
): Pick<ServiceDefinition, 'Name' | 'Kind' | 'Proxy' | 'Connect'> {
  if (kind === 'native') {
    if (destinationId === undefined) return { Name: service, Connect: { Native: true } }
    throw new OptionError('destinationId', 'none beside kind native', describe(destinationId))
  }
  return {
    Name: `${service}-proxy`,
    Kind: 'connect-proxy',
    Proxy: {
      DestinationServiceName: service,
      ...(destinationId !== undefined && { DestinationServiceID: destinationId }),
    },
  }
}

function expectKind(option: string, value: unknown): 'native' | 'proxy' {
  if (value === 'native' || value === 'proxy') return value
  throw new OptionError(option, 'native or proxy', describe(value))
}

const POLL_CHECKS = {
  intervalMs: withDefault<number>(expectDuration, DEFAULTS.checkIntervalMs),
  timeoutMs: withDefault<number>(expectDuration, DEFAULTS.checkTimeoutMs),
}

/** @param id - unique to this registration, so that a heartbeat cannot renew the check of another process */
function checkDefinition(
  id: string,
  given: object,
  deregisterAfterMs: number,
): { check: CheckDefinition; heartbeatMs: number } {
  const common = {
    CheckID: id,
    ...(deregisterAfterMs > 0 && { DeregisterCriticalServiceAfter: `${deregisterAfterMs}ms` }),
  }
  if (!('tcp' in given) && !('http' in given)) {
    const { ttlMs } = readOptions(given, { ttlMs: expectDuration }, 'check')
    const ttl = { Name: 'process is alive', TTL: `${ttlMs}ms`, Status: 'passing' } as const
    return { check: { ...common, ...ttl }, heartbeatMs: ttlMs / 3 }
  }
  const { intervalMs, timeoutMs, ...target } =
    'tcp' in given
      ? readOptions(given, { tcp: expectString, ...POLL_CHECKS }, 'check')
      : readOptions(given, { http: expectUrl, ...POLL_CHECKS }, 'check')
  const probe =
    'tcp' in target
      ? { Name: 'Connect listener accepts', TCP: target.tcp }
      : { Name: 'HTTP endpoint answers', HTTP: target.http }
  const check = { ...common, ...probe, Interval: `${intervalMs}ms`, Timeout: `${timeoutMs}ms` }
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
  const { passing, warning } = readOptions(value, { passing: expectWeight, warning: expectWeight }, option)
  return { Passing: passing, Warning: warning }
}

function expectWeight(option: string, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65535) return value
  throw new OptionError(option, 'a whole number from 0 to 65535', describe(value))
}
