import { OptionError, parseProxyConfig } from 'consul-connect'
import { ConfigurationError, describe } from './error.js'
import {
  expectBoolean,
  expectCommand,
  expectList,
  expectObject,
  expectPort,
  expectString,
  keysOf,
  take,
} from './keys.js'
import type { Json } from './parse.js'

/** What a definition, or the defaults of all, say about a managed proxy. */
export interface ManagedBlock {
  /** Program and arguments; undefined for the default. */
  readonly command: readonly string[] | undefined
  /** Against what a relative program is taken; undefined where none may be. */
  readonly folder: string | undefined
  /** For the proxy, with the keys as they were written. */
  readonly config: Json
  readonly upstreams: readonly Json[]
  readonly tcpCheckAddress: string | undefined
  readonly disableTcpCheck: boolean | undefined
  /** A port that it must have; undefined for one of the range. */
  readonly bindPort: number | undefined
}

type Warn = (message: string) => void

const SERVICE_KEYS = ['exec_mode', 'command', 'config', 'upstreams']
const DEFAULTS_KEYS = ['exec_mode', 'daemon_command', 'script_command', 'config']
/** Those of `config` that are for whoever starts the proxy, and not for the proxy. */
const OWN_KEYS = ['tcp_check_address', 'disable_tcp_check']

/**
 * Reads `connect { proxy { … } }` of a service definition.
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
 * Reads `connect { proxy_defaults { … } }` of the agent's configuration.
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
  return { ...readConfig(place, block), command: take(place, block, 'daemon_command', expectCommand), folder }
}

/** A service's own words come before the defaults of all. */
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
 * What our own proxy would say to this configuration. That of another command is its own affair.
 * @throws ConfigurationError
 */
export function checkConfig(
  place: string,
  service: string,
  { config, upstreams }: ManagedBlock,
  warn: Warn,
): void {
  try {
    const { warnings } = parseProxyConfig({ ...config, upstreams, service })
    for (const warning of warnings) warn(`${place}: ${warning}`)
  } catch (cause) {
    if (!(cause instanceof OptionError)) throw cause
    throw new ConfigurationError(`${place}: ${cause.message}`, { cause })
  }
}

function expectDaemon(place: string, block: Json): void {
  const mode = block['exec_mode']
  if (mode === undefined || mode === '' || mode === 'daemon') return
  throw new ConfigurationError(
    `${place}: exec_mode: expected "daemon", the only mode there is, got ${describe(mode)}`,
  )
}

function readConfig(place: string, block: Json): Omit<ManagedBlock, 'command' | 'folder'> {
  const where = `${place}: config`
  const given = take(place, block, 'config', expectObject) ?? {}
  const own = keysOf(where, given)
  const inside = take(where, own, 'upstreams', expectList)
  const upstreams = take(place, block, 'upstreams', expectList) ?? inside ?? []
  const taken = [...OWN_KEYS, 'upstreams']
  const config = Object.entries(given).filter(
    ([key]) => !taken.includes(Object.keys(keysOf('', { [key]: 0 }))[0] ?? ''),
  )
  return {
    config: Object.fromEntries(config),
    upstreams: upstreams.map((upstream, i) => expectObject(`${place}: upstreams[${i}]`, upstream)),
    tcpCheckAddress: take(where, own, 'tcp_check_address', expectString),
    disableTcpCheck: take(where, own, 'disable_tcp_check', expectBoolean),
    bindPort: take(where, own, 'bind_port', expectPort),
  }
}
