import './operator/heap.js'
import { OptionError } from 'consul-connect'
import { Daemon, type Engine, type OnListening } from './daemon.js'
import { UsageError } from './cli/command-line.js'
import { decide } from './cli/decide.js'
import { helpText, parseFlags, versionText } from './cli/flags.js'
import { DEFAULT_LEVEL, openLog } from './operator/log.js'
import { Proxy } from './proxy.js'
import { type Settings, readSettings } from './cli/settings.js'
import { openStandby } from './workers/standby.js'
import { Workers } from './workers/workers.js'

const args = process.argv.slice(2)
if (args[0] === 'decide') process.exit(await decideOrExplain(args.slice(1)))

/** @returns the exit code */
async function decideOrExplain(rest: readonly string[]): Promise<number> {
  try {
    return await decide(rest, process.env)
  } catch (error) {
    process.stderr.write(`connect-proxy decide: ${(error as Error).message}\n`)
    return 1
  }
}

/** Reads the settings. Prints a wrong flag or value without a stack trace and exits with 1. */
function readSettingsOrExit(): Settings {
  try {
    const flags = parseFlags(args)
    if (flags.version === true) {
      process.stdout.write(versionText())
      process.exit(0)
    }
    if (flags.help === true) {
      process.stdout.write(helpText())
      process.exit(0)
    }
    return readSettings(args, process.env)
  } catch (error) {
    if (!(error instanceof UsageError || error instanceof OptionError)) throw error
    process.stderr.write(`connect-proxy: ${error.message}\n`)
    process.exit(1)
  }
}

const settings = readSettingsOrExit()
const log = openLog({ ...settings.log, level: settings.log.level ?? DEFAULT_LEVEL })
const standby = openStandby(process.env)
const startEngine = (onListening: OnListening): Engine => {
  const { agent, connections, workers, registration } = settings
  if (workers === 1) return new Proxy({ agent, connections, log, onListening, standby })
  const registers = registration !== undefined
  const { json } = settings.log
  const { level } = log
  return new Workers({ json, level, count: workers, agent, connections, log, onListening, registers })
}
const daemon = new Daemon(settings, log, startEngine, standby)

/** Time for sending resets after a second signal. */
const CUT_MS = 1_000

let isShuttingDown = false
let exitCode = 0
const shutDown = (signal: NodeJS.Signals): void => {
  if (isShuttingDown) {
    log.warn(`${signal}: second signal; resetting open connections`)
    exitCode = 1
    // A process that just exits closes its TCP connections with a FIN, so that a truncated response would look complete.
    daemon.cut()
    setTimeout(() => process.exit(exitCode), CUT_MS)
    return
  }
  isShuttingDown = true
  log.info(`${signal}: draining open connections`)
  void daemon.close().then(() => {
    log.info('stopped')
    // Open handles of a library must not keep the process running.
    process.exit(exitCode)
  })
}
process.on('SIGTERM', shutDown)
process.on('SIGINT', shutDown)
process.on('SIGHUP', () => {
  try {
    daemon.reload(readSettings(args, process.env))
  } catch (error) {
    log.error(`reload failed; keeping the current configuration: ${(error as Error).message}`)
  }
})

try {
  await daemon.start()
} catch (error) {
  log.error((error as Error).message)
  process.exit(1)
}
