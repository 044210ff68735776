import { isIP } from 'node:net'
import { dirname } from 'node:path'
import { type ServiceDefinition, applyDefaults, readDefinition } from './definition.js'
import { ConfigurationError, describe } from './error.js'
import { type ConfigurationFile, readFiles } from './files.js'
import {
  expectBoolean,
  expectList,
  expectObject,
  expectPort,
  expectString,
  keysOf,
  take,
  unbracketed,
} from './keys.js'
import { foldKey } from './spelling.js'
import { localAddressOf } from './listed-upstreams.js'
import { type ManagedBlock, adminAddressOf, readDefaults, withDefaults } from './managed.js'
import { printable } from 'consul-connect-proxy/printable'
import type { Json } from './parse.js'
import { TOP_LEVEL, unwrapBlocks } from './shape.js'
import { closestKey } from './typos.js'

/** The validated configuration of all files, with defaults applied. */
export interface Configuration {
  readonly services: readonly ServiceDefinition[]
  readonly defaults: ManagedBlock
  readonly ports: PortRange
  /** IP address on which proxies listen; undefined to use the bind address of the agent. */
  readonly bindAddress: string | undefined
  /** Whether `bind_addr` is a go-sockaddr template, which only the agent can evaluate. */
  readonly isBindTemplate: boolean
  readonly allowManagedRoot: boolean
  readonly allowManagedApiRegistration: boolean
  readonly dataDir: string | undefined
  readonly logLevel: string | undefined
  readonly logJson: boolean | undefined
  /** Settings that have no effect, and likely typos. */
  readonly warnings: readonly string[]
}

export interface PortRange {
  readonly min: number
  readonly max: number
}

/** Defaults of Consul 1.2 to 1.5. */
const DEFAULT_PORTS: PortRange = { min: 20_000, max: 20_255 }

const NO_BLOCK: ManagedBlock = {
  command: undefined,
  folder: undefined,
  config: {},
  upstreams: [],
  tcpCheckAddress: undefined,
  disableTcpCheck: undefined,
  bindPort: undefined,
}

/** Keys of `connect` that the supervisor reads. The agent reads the others. */
const PROXY_KEYS = ['allow_managed_root', 'allow_managed_api_registration']
const CONNECT_KEYS = ['proxy', 'proxy_defaults', 'enabled']
const PORT_KEYS = ['proxy_min_port', 'proxy_max_port']

/**
 * Reads and merges all files. Services accumulate; for other settings the last value wins.
 * @throws ConfigurationError
 */
export async function readConfiguration(paths: readonly string[]): Promise<Configuration> {
  return combine(await readFiles(paths))
}

/**
 * Merges parsed files into one configuration, and validates it.
 * @throws ConfigurationError
 */
export function combine(files: readonly ConfigurationFile[]): Configuration {
  const warnings: string[] = []
  const warn = (message: string): void => {
    warnings.push(printable(message))
  }
  const parts = files.map((file) => readPart(file, warn))
  const last = <K extends keyof Part>(key: K): Part[K] | undefined =>
    parts.map((part) => part[key]).findLast((value) => value !== undefined)
  const defaults = parts
    .map((part) => part.defaults ?? NO_BLOCK)
    .reduce((earlier, later) => withDefaults(later, earlier), NO_BLOCK)
  const services = parts
    .flatMap((part) => part.services)
    .map((service) => applyDefaults(service, defaults, warn))
  expectDistinct(services)
  warnSharedUpstreamAddresses(services, warn)
  return {
    services,
    defaults,
    ports: portRange(parts),
    bindAddress: isTemplate(last('bindAddress')) ? undefined : last('bindAddress'),
    isBindTemplate: isTemplate(last('bindAddress')),
    allowManagedRoot: last('allowManagedRoot') ?? false,
    allowManagedApiRegistration: last('allowManagedApiRegistration') ?? false,
    dataDir: last('dataDir'),
    logLevel: last('logLevel'),
    logJson: last('logJson'),
    warnings,
  }
}

/** Settings of one file. */
interface Part {
  readonly path: string
  readonly services: readonly ServiceDefinition[]
  readonly defaults: ManagedBlock | undefined
  readonly minPort: number | undefined
  readonly maxPort: number | undefined
  readonly bindAddress: string | undefined
  readonly allowManagedRoot: boolean | undefined
  readonly allowManagedApiRegistration: boolean | undefined
  readonly dataDir: string | undefined
  readonly logLevel: string | undefined
  readonly logJson: boolean | undefined
}

function readPart({ path, content }: ConfigurationFile, warn: (message: string) => void): Part {
  const file = keysOf(path, unwrapBlocks(path, content))
  warnTypos(path, content, TOP_LEVEL, warn)
  const context = { origin: path, folder: dirname(path), warn }
  const given = [...several(path, file, 'service'), ...several(path, file, 'services')]
  const connect = section(path, file, 'connect')
  warnTypos(`${path}: connect`, connect, CONNECT_KEYS, warn)
  const proxy = section(`${path}: connect`, connect, 'proxy', PROXY_KEYS, warn)
  const ports = section(path, file, 'ports')
  warnTypos(`${path}: ports`, ports, PORT_KEYS, warn)
  const defaults = connect['proxy_defaults']
  return {
    path,
    services: given.map((service) => readDefinition(service, context)),
    defaults:
      defaults === undefined
        ? undefined
        : readDefaults(`${path}: connect.proxy_defaults`, defaults, context.folder, warn),
    minPort: take(`${path}: ports`, ports, 'proxy_min_port', expectPort),
    maxPort: take(`${path}: ports`, ports, 'proxy_max_port', expectPort),
    bindAddress: take(path, file, 'bind_addr', expectAddress),
    allowManagedRoot: take(`${path}: connect.proxy`, proxy, 'allow_managed_root', expectBoolean),
    allowManagedApiRegistration: take(
      `${path}: connect.proxy`,
      proxy,
      'allow_managed_api_registration',
      expectBoolean,
    ),
    dataDir: take(path, file, 'data_dir', expectString),
    logLevel: take(path, file, 'log_level', expectString),
    logJson: take(path, file, 'log_json', expectBoolean),
  }
}

/** Warns of keys that look like typos of known keys. Other unknown keys may be meant for the agent. */
function warnTypos(
  place: string,
  given: Json,
  known: readonly string[],
  warn: (message: string) => void,
): void {
  const folded = known.map(foldKey)
  for (const key of Object.keys(given)) {
    const meant = folded.includes(foldKey(key)) ? undefined : closestKey(key, known)
    if (meant !== undefined) warn(`${place}: unknown key ${key}; did you mean ${meant}?`)
  }
}

function section(
  place: string,
  from: Json,
  key: string,
  known?: readonly string[],
  warn?: (message: string) => void,
): Json {
  const value = from[key]
  return value === undefined
    ? {}
    : keysOf(`${place}: ${key}`, expectObject(`${place}: ${key}`, value), known, warn)
}

function several(path: string, file: Json, key: string): readonly unknown[] {
  return file[key] === undefined ? [] : expectList(`${path}: ${key}`, file[key])
}

/** Checks for an IP address, or a template such as `{{ GetPrivateIP }}`. */
function expectAddress(place: string, value: unknown): string {
  const text = expectString(place, value)
  if (text.length <= MAX_ADDRESS_LENGTH) {
    const address = unbracketed(text)
    if (isTemplate(text) || isIP(address) !== 0) return address
  }
  throw new ConfigurationError(`${place}: expected an IP address, got ${describe(value)}`)
}

const MAX_ADDRESS_LENGTH = 1_024

/** Consul evaluates `bind_addr` as a go-sockaddr template. */
function isTemplate(address: string | undefined): boolean {
  return address?.includes('{{') === true
}

/** Merges the port range. Its two ends may be set in different files. */
function portRange(parts: readonly Part[]): PortRange {
  const ofMin = parts.findLast(({ minPort }) => minPort !== undefined)
  const ofMax = parts.findLast(({ maxPort }) => maxPort !== undefined)
  const min = ofMin?.minPort ?? DEFAULT_PORTS.min
  const max = ofMax?.maxPort ?? DEFAULT_PORTS.max
  if (min <= max) return { min, max }
  const files = [...new Set([ofMin?.path, ofMax?.path])].filter((path) => path !== undefined)
  throw new ConfigurationError(
    `${files.join(', ')}: ports: proxy_min_port ${min} is greater than proxy_max_port ${max}`,
  )
}

function expectDistinct(services: readonly ServiceDefinition[]): void {
  const byId = expectUnique(
    services,
    ({ id }) => id,
    (id, { origin }) => `duplicate service id ${id}, already used in ${origin}; set a distinct "id"`,
  )
  expectUnique(
    services,
    ({ managed }) => managed && adminAddressOf(managed),
    (address, { id, origin }) =>
      `connect.proxy: config: admin_addr: address ${address} is already used by ${id} in ${origin}; set a distinct address`,
  )
  expectUnique(
    services,
    ({ managed }) => managed?.bindPort,
    (port, { id, origin }) =>
      `connect.proxy: config: bind_port: port ${port} is already used by ${id} in ${origin}; set a distinct port`,
  )
  for (const { id, managed, origin } of services) {
    const clash = managed === undefined ? undefined : byId.get(`${id}-proxy`)
    if (clash !== undefined) {
      throw new ConfigurationError(
        `${clash.origin}: service ${clash.name}: id ${clash.id} conflicts with the managed proxy of ${id} in ${origin}; set another "id"`,
      )
    }
  }
}

/**
 * Checks that no two services have the same value, and returns the services by value.
 * @param problem - describes a conflict with an earlier service
 * @throws ConfigurationError
 */
function expectUnique<T extends string | number>(
  services: readonly ServiceDefinition[],
  value: (service: ServiceDefinition) => T | undefined,
  problem: (value: T, other: ServiceDefinition) => string,
): ReadonlyMap<T, ServiceDefinition> {
  const seen = new Map<T, ServiceDefinition>()
  for (const service of services) {
    const found = value(service)
    if (found === undefined) continue
    const other = seen.get(found)
    if (other !== undefined) {
      throw new ConfigurationError(`${service.origin}: service ${service.name}: ${problem(found, other)}`)
    }
    seen.set(found, service)
  }
  return seen
}

/**
 * Warns of upstreams with the same local address, on which only one of the proxies can listen. Only a warning,
 * because the other upstreams work.
 */
function warnSharedUpstreamAddresses(
  services: readonly ServiceDefinition[],
  warn: (message: string) => void,
): void {
  const seen = new Map<string, ServiceDefinition>()
  for (const service of services) {
    for (const [i, upstream] of (service.managed?.upstreams ?? []).entries()) {
      const address = localAddressOf(upstream)
      if (address === undefined) continue
      const before = seen.get(address)
      if (before !== undefined && before !== service) {
        warn(
          `${service.origin}: service ${service.name}: connect.proxy: upstreams[${i}]: local address ${address} is also used by the proxy of ${before.id} in ${before.origin}; give each upstream its own local_bind_port`,
        )
      }
      seen.set(address, service)
    }
  }
}
