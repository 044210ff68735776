import { UsageError } from 'consul-connect-proxy/command-line'
import { printable } from 'consul-connect-proxy/printable'
import { readConfiguration } from '../configuration/configuration.js'
import { type FlagValues } from '../flags.js'
import { findProgram } from '../process/launch.js'
import { pathsOf, readSettings } from '../settings.js'

/**
 * Validates configuration files and prints errors and warnings. Starts nothing.
 * @throws ConfigurationError, UsageError
 */
export async function check(flags: FlagValues, files: readonly string[]): Promise<void> {
  const paths = [...pathsOf(flags), ...files]
  if (paths.length === 0) throw new UsageError('check: expected files or directories')
  const configuration = await readConfiguration(paths)
  // A single file need not set data_dir.
  readSettings({ ...flags, dev: true }, configuration, process.env)
  const problems: string[] = []
  for (const { name, managed, origin } of configuration.services) {
    if (managed?.command === undefined) continue
    try {
      findProgram(managed.command[0] ?? '', managed.folder, process.env['PATH'])
    } catch (error) {
      problems.push(`${origin}: service ${name}: ${(error as Error).message}`)
    }
  }
  for (const warning of configuration.warnings) process.stderr.write(`warning: ${warning}\n`)
  for (const problem of problems) process.stderr.write(`${printable(problem)}\n`)
  const managed = configuration.services.filter((service) => service.managed !== undefined)
  if (problems.length > 0) {
    process.exitCode = 1
    return
  }
  process.stdout.write(
    `configuration is valid: ${configuration.services.length} services, ${managed.length} with a managed proxy\n`,
  )
}
