// One of several processes that share the listeners. It acts on what the first process says, and on no signal.
import './heap.js'
import { type Log, openLog } from './log.js'
import type { FromWorker, ToWorker } from './messages.js'
import { Proxy } from './proxy.js'

/** How often the first process hears how things stand. */
const STATUS_MS = 250

let log: Log | undefined
let proxy: Proxy | undefined

// A terminal and a service manager signal the whole group.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)

process.on('message', (message: ToWorker) => {
  if (message.type === 'start') {
    log = openLog(message.log)
    proxy = new Proxy({
      agent: { address: message.agent, env: {} },
      ecdhCurve: message.ecdhCurve,
      log,
      onListening: (_service, listener) => {
        tell({ type: 'listening', listener })
      },
    })
    setInterval(report, STATUS_MS).unref()
  } else if (message.type === 'config') {
    proxy?.apply(message.config)
    report()
  } else if (message.type === 'level') {
    log?.setLevel(message.level)
  } else if (message.type === 'metrics') {
    const { question } = message
    void proxy?.metricsAsJson().then((metrics) => {
      tell({ type: 'metrics', question, metrics })
    })
  } else if (message.type === 'cut') {
    proxy?.cut()
  } else if (proxy === undefined) {
    process.exit(0)
  } else {
    void proxy.close().then(() => process.exit(0))
  }
})

tell({ type: 'hello' })

function report(): void {
  if (proxy !== undefined) tell({ type: 'status', status: proxy.status() })
}

function tell(message: FromWorker): void {
  // The first process may be gone, and this one is about to be.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}
