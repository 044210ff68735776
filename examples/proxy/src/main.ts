import './heap.js'
import { OptionError } from 'consul-connect'
import { Daemon, type Engine, type OnListening } from './daemon.js'
import { UsageError } from './command-line.js'
import { helpText, parseFlags, versionText } from './flags.js'
import { DEFAULT_LEVEL, openLog } from './log.js'
import { Proxy } from './proxy.js'
import { type Settings, readSettings } from './settings.js'
import { openStandby } from './standby.js'
import { Workers } from './workers.js'

const args = process.argv.slice(2)

/** Ends with a message and no stack, when a user has to mend something. */
function read(): Settings {
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

const settings = read()
const log = openLog({ ...settings.log, level: settings.log.level ?? DEFAULT_LEVEL })
const standby = openStandby(process.env)
const start = (onListening: OnListening): Engine => {
  const { agent, ecdhCurve, workers, registration } = settings
  if (workers === 1) return new Proxy({ agent, ecdhCurve, log, onListening, standby })
  const registers = registration !== undefined
  const { json } = settings.log
  const { level } = log
  return new Workers({ json, level, count: workers, agent, ecdhCurve, log, onListening, registers })
}
const daemon = new Daemon(settings, log, start, standby)

/** How long the connections that a second signal cuts may take, in milliseconds. */
const CUT_MS = 1_000

let isEnding = false
let exitCode = 0
const end = (signal: NodeJS.Signals): void => {
  if (isEnding) {
    log.warn(`${signal} for the second time: what is open is cut`)
    exitCode = 1
    // A process that just exits ends its plain connections in order: what is cut short would look complete.
    daemon.cut()
    setTimeout(() => process.exit(exitCode), CUT_MS)
    return
  }
  isEnding = true
  log.info(`${signal}: open connections are drained`)
  void daemon.close().then(() => {
    log.info('ended')
    // Whatever a library may have left open does not keep it alive.
    process.exit(exitCode)
  })
}
process.on('SIGTERM', end)
process.on('SIGINT', end)
process.on('SIGHUP', () => {
  try {
    daemon.reload(readSettings(args, process.env))
  } catch (error) {
    log.error(`the configuration stays as it is: ${(error as Error).message}`)
  }
})

try {
  await daemon.start()
} catch (error) {
  log.error((error as Error).message)
  process.exit(1)
}
