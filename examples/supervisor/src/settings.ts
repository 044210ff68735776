import { isAbsolute, resolve } from 'node:path'
import type { Environment } from 'consul-connect'
import { UsageError, adminAddress, agentEnvironment, levelOf } from 'consul-connect-proxy/command-line'
import type { LogLevel } from 'consul-connect-proxy/log'
import type { Configuration } from './configuration/configuration.js'
import type { FlagValues } from './flags.js'
import { LOG_BOUNDS, type LogBounds } from './process/logs.js'

/** Everything that holds for one run of the supervisor. */
export interface Settings {
  /** The environment with what the flags say of the agent. */
  readonly environment: Environment
  /** Undefined with -dev. */
  readonly dataDir: string | undefined
  readonly admin: { readonly host: string; readonly port: number } | undefined
  readonly api: { readonly host: string; readonly port: number } | undefined
  readonly logBounds: LogBounds
  readonly log: { readonly level: LogLevel; readonly json: boolean }
}

/** What is read again when the configuration is. */
export function configurationPaths(flags: FlagValues): readonly string[] {
  const paths = [...(flags['config-file'] ?? []), ...(flags['config-dir'] ?? [])]
  if (paths.length > 0) return paths
  throw new UsageError('expected -config-file or -config-dir: see -help')
}

/** @throws UsageError */
export function readSettings(flags: FlagValues, configuration: Configuration, env: Environment): Settings {
  return {
    environment: agentEnvironment(flags, env),
    dataDir: dataDirOf(flags, configuration),
    admin: flags['admin-addr'] === undefined ? undefined : adminAddress('-admin-addr', flags['admin-addr']),
    api: flags['api-addr'] === undefined ? undefined : adminAddress('-api-addr', flags['api-addr']),
    logBounds: {
      maxBytes: count('-proxy-log-bytes', flags['proxy-log-bytes'], LOG_BOUNDS.maxBytes),
      kept: count('-proxy-log-files', flags['proxy-log-files'], LOG_BOUNDS.kept),
    },
    log: {
      level: levelOf(
        flags['log-level'] === undefined ? 'log_level' : '-log-level',
        flags['log-level'] ?? configuration.logLevel,
      ),
      json: flags['log-json'] ?? configuration.logJson ?? false,
    },
  }
}

/**
 * Where the state of a supervisor is, for the commands that look for one.
 * @throws UsageError
 */
export function expectDataDir(flags: FlagValues, configuration: Configuration | undefined): string {
  const dataDir = flags['data-dir'] ?? configuration?.dataDir
  if (dataDir !== undefined && dataDir !== '') return resolve(dataDir)
  throw new UsageError('expected -data-dir, or a configuration with data_dir')
}

function dataDirOf(flags: FlagValues, configuration: Configuration): string | undefined {
  const dataDir = flags['data-dir'] ?? configuration.dataDir
  if (dataDir === undefined && flags.dev === true) return undefined
  if (dataDir === undefined || dataDir === '') {
    throw new UsageError(
      'expected data_dir in the configuration, or -data-dir: what is started must be found again; -dev does without',
    )
  }
  // A folder that depends on where somebody stands would not be found again.
  if (!isAbsolute(dataDir))
    throw new UsageError(`data_dir: expected an absolute path, got ${JSON.stringify(dataDir)}`)
  return dataDir
}

function count(flag: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise
  const number = Number(text)
  if (/^\d{1,15}$/.test(text)) return number
  throw new UsageError(`${flag}: expected a whole number, got ${JSON.stringify(text)}`)
}
