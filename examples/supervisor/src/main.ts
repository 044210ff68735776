import 'consul-connect-proxy/heap'
import { OptionError } from 'consul-connect'
import { UsageError, parseFlags } from 'consul-connect-proxy/command-line'
import { check } from './commands/check.js'
import { logs } from './commands/logs.js'
import { isVerb, operate, status } from './commands/operate.js'
import { run } from './commands/run.js'
import { readConfiguration } from './configuration/configuration.js'
import { FLAGS, type FlagValues, helpText, versionText } from './flags.js'
import { printable } from 'consul-connect-proxy/printable'
import { expectDataDir, pathsOf } from './settings.js'

async function main(args: readonly string[]): Promise<void> {
  const { positionals, ...flags } = parseFlags(FLAGS, args, { allowPositionals: true })
  const [command = 'run', ...rest] = positionals
  if (flags.help === true || command === 'help') {
    process.stdout.write(helpText())
  } else if (flags.version === true || command === 'version') {
    process.stdout.write(versionText())
  } else if (command === 'check') {
    await check(flags, rest)
  } else if (command === 'run') {
    if (rest.length > 0) throw new UsageError(`unexpected argument: ${JSON.stringify(rest[0])} (see -help)`)
    await run(flags)
  } else if (command === 'status') {
    await status(await dataDirOf(flags), { json: flags.json === true })
  } else if (isVerb(command)) {
    await operate(command, await dataDirOf(flags), rest)
  } else if (command === 'logs') {
    const interrupted = new AbortController()
    process.once('SIGINT', () => {
      interrupted.abort()
    })
    const follow = flags.follow === true || flags.f === true
    await logs(await dataDirOf(flags), rest, { follow, signal: interrupted.signal })
  } else {
    throw new UsageError(`unknown command: ${JSON.stringify(command)} (see -help)`)
  }
}

async function dataDirOf(flags: FlagValues): Promise<string> {
  const paths = pathsOf(flags)
  const isGiven = flags['data-dir'] !== undefined || paths.length === 0
  return expectDataDir(flags, isGiven ? undefined : await readConfiguration(paths))
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  const isExpected =
    error instanceof Error && (error.constructor !== TypeError || error instanceof OptionError)
  process.stderr.write(
    `connect-supervisor: ${isExpected ? printable(error.message) : String((error as Error).stack)}\n`,
  )
  process.exit(1)
}
