import { OptionError } from 'consul-connect'
import { PROXY_CONFIG_KEYS, parseProxyConfig } from 'consul-connect/proxy'
import { adminAddress } from 'consul-connect-proxy/command-line'
import { ConfigurationError, describe } from './error.js'
import {
  expectBoolean,
  expectCommand,
  expectList,
  expectObject,
  expectPort,
  expectString,
  MAX_WARNINGS,
  keysOf,
  take,
  unbracketed,
} from './keys.js'
import type { Json } from './parse.js'
import { snakeCase } from './spelling.js'

/** Settings of a managed proxy, from a definition or from `proxy_defaults`. */
export interface ManagedBlock {
  /** Program and arguments; undefined for the default command. */
  readonly command: readonly string[] | undefined
  /** Directory against which a relative program is resolved; undefined to reject it. */
  readonly folder: string | undefined
  /** Configuration of the proxy. Known keys are in snake_case; other keys keep their spelling. */
  readonly config: Json
  readonly upstreams: readonly Json[]
  readonly tcpCheckAddress: string | undefined
  readonly disableTcpCheck: boolean | undefined
  /** Fixed port; undefined to choose one from the range. */
  readonly bindPort: number | undefined
}

type Warn = (message: string) => void

/** Host names have at most 253 characters. */
const MAX_VALUE_LENGTH = 256

const SERVICE_KEYS = ['exec_mode', 'command', 'config', 'upstreams']
const DEFAULTS_KEYS = ['exec_mode', 'command', 'daemon_command', 'script_command', 'config']
/** Keys of `config` that `connect-proxy` or the supervisor reads. */
const KNOWN_KEYS = [...PROXY_CONFIG_KEYS, 'tcp_check_address', 'disable_tcp_check', 'admin_addr']

/**
 * Parses `connect { proxy { … } }` of a service definition.
 * @throws ConfigurationError
 */
export function readManaged(
  place: string,
  value: unknown,
  folder: string | undefined,
  warn: Warn,
): ManagedBlock {
  const block = keysOf(place, value, SERVICE_KEYS, warn)
  expectDaemon(place, block)
  return { ...readConfig(place, block), command: take(place, block, 'command', expectCommand), folder }
}

/**
 * Parses `connect { proxy_defaults { … } }` of the agent-level configuration.
 * @throws ConfigurationError
 */
export function readDefaults(
  place: string,
  value: unknown,
  folder: string | undefined,
  warn: Warn,
): ManagedBlock {
  const block = keysOf(place, value, DEFAULTS_KEYS, warn)
  expectDaemon(place, block)
  if (block['script_command'] !== undefined) {
    warn(`${place}: script_command has no effect: Consul never ran scripts as proxies`)
  }
  return { ...readConfig(place, block), command: defaultCommand(place, block), folder }
}

/** Consul's documentation names the key `command`, its code `daemon_command`. */
function defaultCommand(place: string, block: Json): readonly string[] | undefined {
  const command = take(place, block, 'command', expectCommand)
  const daemonCommand = take(place, block, 'daemon_command', expectCommand)
  if (command === undefined || daemonCommand === undefined) return command ?? daemonCommand
  throw new ConfigurationError(`${place}: command and daemon_command are aliases; remove one`)
}

/** Merges settings. Those of the service take precedence over the defaults. */
export function withDefaults(own: ManagedBlock, defaults: ManagedBlock): ManagedBlock {
  return {
    command: own.command ?? defaults.command,
    folder: own.command === undefined ? defaults.folder : own.folder,
    config: { ...defaults.config, ...own.config },
    upstreams: own.upstreams.length > 0 ? own.upstreams : defaults.upstreams,
    tcpCheckAddress: own.tcpCheckAddress ?? defaults.tcpCheckAddress,
    disableTcpCheck: own.disableTcpCheck ?? defaults.disableTcpCheck,
    bindPort: own.bindPort ?? defaults.bindPort,
  }
}

/**
 * Validates the configuration with the parser of `connect-proxy`. Not used for custom commands.
 * @throws ConfigurationError
 */
export function checkConfig(
  place: string,
  service: { readonly name: string; readonly port: number | undefined },
  managed: ManagedBlock,
  warn: Warn,
): void {
  const { upstreams } = managed
  const config = proxyConfigOf(managed)
  expectAdminAddress(place, managed)
  expectShortValues(place, config)
  for (const [i, upstream] of upstreams.entries()) expectShortValues(`${place}: upstreams[${i}]`, upstream)
  const local = setsLocalService(managed) ? {} : { local_service_port: service.port }
  try {
    const { warnings } = parseProxyConfig({ ...local, ...config, upstreams, service: service.name })
    for (const warning of warnings.slice(0, MAX_WARNINGS)) warn(`${place}: ${warning}`)
  } catch (cause) {
    if (!(cause instanceof OptionError)) throw cause
    throw new ConfigurationError(`${place}: ${cause.message}`, { cause })
  }
}

/** Returns the `Config` to register. `connect-proxy` takes its admin address as a flag instead. */
export function proxyConfigOf({ command, config }: ManagedBlock): Json {
  if (command !== undefined) return config
  const { admin_addr: _, ...rest } = config
  return rest
}

/** Admin address of `connect-proxy`; undefined for a custom command, which interprets the key itself. */
export function adminAddressOf({ command, config }: ManagedBlock): string | undefined {
  const address = config['admin_addr']
  return command === undefined && typeof address === 'string' && address !== '' ? address : undefined
}

/** Flags that open the admin address of `connect-proxy`. */
export function adminArgs(managed: ManagedBlock): readonly string[] {
  const address = adminAddressOf(managed)
  return address === undefined ? [] : ['-admin-addr', address]
}

function expectAdminAddress(place: string, managed: ManagedBlock): void {
  const value = managed.config['admin_addr']
  if (value === undefined || value === null || value === '') return
  const text = expectString(`${place}: config: admin_addr`, value)
  try {
    adminAddress(`${place}: config: admin_addr`, text.slice(0, MAX_VALUE_LENGTH))
  } catch (cause) {
    throw new ConfigurationError((cause as Error).message, { cause })
  }
}

/** Limits the length of the strings that `parseProxyConfig` parses: names, addresses, and paths. */
function expectShortValues(place: string, settings: Json): void {
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value !== 'string' || value.length <= MAX_VALUE_LENGTH) continue
    throw new ConfigurationError(
      `${place}: ${key}: expected at most ${MAX_VALUE_LENGTH} characters, got ${value.length}`,
    )
  }
}

/** Whether the configuration sets the address of the application. */
export function setsLocalService({ config }: ManagedBlock): boolean {
  return ['local_service_address', 'local_service_port', 'local_service_socket_path'].some(
    (key) => config[key] !== undefined,
  )
}

function expectDaemon(place: string, block: Json): void {
  const mode = block['exec_mode']
  if (mode === undefined || mode === '' || mode === 'daemon') return
  throw new ConfigurationError(
    `${place}: exec_mode: expected "daemon", the only supported mode, got ${describe(mode)}`,
  )
}

function readConfig(place: string, block: Json): Omit<ManagedBlock, 'command' | 'folder'> {
  const where = `${place}: config`
  const given = canonical(where, take(place, block, 'config', expectObject) ?? {})
  const { tcp_check_address: _, disable_tcp_check: __, upstreams: ___, ...config } = given
  const beside = take(place, block, 'upstreams', expectList) ?? []
  const inside = take(where, given, 'upstreams', expectList) ?? []
  const upstreams = beside.length > 0 ? beside : inside
  return {
    config: { ...config, ...bindAddress(given) },
    upstreams: upstreams.map((upstream, i) => expectObject(`${place}: upstreams[${i}]`, upstream)),
    tcpCheckAddress:
      given['tcp_check_address'] === '' ? undefined : take(where, given, 'tcp_check_address', expectString),
    disableTcpCheck: take(where, given, 'disable_tcp_check', expectBoolean),
    bindPort: given['bind_port'] === '' ? undefined : take(where, given, 'bind_port', expectPortOrDigits),
  }
}

/** Accepts a quoted port: HCL 1 files and templates often quote numbers, and Consul converted them. */
function expectPortOrDigits(place: string, value: unknown): number {
  const isDigits = typeof value === 'string' && /^\d{1,5}$/.test(value)
  return expectPort(place, isDigits ? Number(value) : value)
}

/** Converts known keys to snake_case. Keys of custom proxies keep their spelling. */
function canonical(place: string, config: Json): Json {
  const result = new Map<string, unknown>()
  for (const [key, value] of Object.entries(config)) {
    const snake = snakeCase(key)
    const name = KNOWN_KEYS.includes(snake) ? snake : key
    if (result.has(name)) throw new ConfigurationError(`${place}: ${name}: set twice, in two spellings`)
    result.set(name, value)
  }
  return Object.fromEntries(result)
}

function bindAddress({ bind_address: address }: Json): Json {
  return typeof address === 'string' ? { bind_address: unbracketed(address) } : {}
}
