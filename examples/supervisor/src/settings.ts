import { isAbsolute, resolve } from 'node:path'
import type { Environment } from 'consul-connect'
import { UsageError, adminAddress, agentEnvironment, levelOf } from 'consul-connect-proxy/command-line'
import type { LogLevel } from 'consul-connect-proxy/log'
import type { Configuration } from './configuration/configuration.js'
import type { FlagValues } from './flags.js'
import { LOG_BOUNDS, type LogBounds } from './process/logs.js'

/** Settings that stay fixed for one run of the supervisor. */
export interface Settings {
  /** Environment variables, overridden by the flags that configure the agent connection. */
  readonly environment: Environment
  /** Undefined with -dev. */
  readonly dataDir: string | undefined
  readonly admin: { readonly host: string; readonly port: number } | undefined
  readonly api: { readonly host: string; readonly port: number } | undefined
  readonly logBounds: LogBounds
  readonly log: { readonly level: LogLevel; readonly json: boolean }
}

/** Values of `-config-file` and `-config-dir`. */
export function pathsOf(flags: FlagValues): readonly string[] {
  return [...(flags['config-file'] ?? []), ...(flags['config-dir'] ?? [])]
}

/**
 * Paths of the configuration, from the flags. A reload reads them again.
 * @throws UsageError when there are none
 */
export function configurationPaths(flags: FlagValues): readonly string[] {
  const paths = pathsOf(flags)
  if (paths.length > 0) return paths
  throw new UsageError('expected -config-file or -config-dir (see -help)')
}

/**
 * Combines flags, configuration, and environment.
 * @throws UsageError
 */
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
 * Data directory of a running supervisor, for the commands that connect to it.
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
      'data_dir: required, to find running proxies again after a restart; set it in the configuration or with -data-dir, or use -dev',
    )
  }
  // A relative path would depend on the working directory, so the next supervisor might not find its proxies.
  if (!isAbsolute(dataDir))
    throw new UsageError(`data_dir: expected an absolute path, got ${JSON.stringify(dataDir)}`)
  return dataDir
}

function count(flag: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback
  const number = Number(text)
  if (/^\d{1,15}$/.test(text)) return number
  throw new UsageError(`${flag}: expected a non-negative integer, got ${JSON.stringify(text)}`)
}
