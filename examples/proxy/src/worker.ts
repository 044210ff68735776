// Entry point of a worker process. The primary process controls it by messages; signals are ignored.
import './operator/heap.js'
import { type Log, openLog } from './operator/log.js'
import { Proxy } from './proxy.js'
import type { FromWorker, ToWorker } from './workers/worker-messages.js'

const STATUS_INTERVAL_MS = 250

let log: Log | undefined
let proxy: Proxy | undefined

// Terminals and service managers signal the whole process group; the primary process decides when a worker exits.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)

process.on('message', (message: ToWorker) => {
  if (message.type === 'start') {
    log = openLog(message.log)
    proxy = new Proxy({
      agent: { address: message.agent, env: {} },
      connections: message.connections,
      log,
      onListening: (_service, listener) => {
        send({ type: 'listening', listener })
      },
    })
    setInterval(sendStatus, STATUS_INTERVAL_MS).unref()
  } else if (message.type === 'config') {
    proxy?.apply(message.config)
    sendStatus()
  } else if (message.type === 'level') {
    log?.setLevel(message.level)
  } else if (message.type === 'metrics') {
    const { requestId } = message
    void proxy?.metricsAsJson().then((metrics) => {
      send({ type: 'metrics', requestId, metrics })
    })
  } else if (message.type === 'cut') {
    proxy?.cut()
  } else if (proxy === undefined) {
    process.exit(0)
  } else {
    void proxy.close().then(() => process.exit(0))
  }
})

send({ type: 'online' })

function sendStatus(): void {
  if (proxy !== undefined) send({ type: 'status', status: proxy.status() })
}

function send(message: FromWorker): void {
  // Send errors are ignored: without the primary process, cluster ends this worker.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}
