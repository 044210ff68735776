import { UsageError } from 'consul-connect-proxy/command-line'
import { NotRunningError, control } from '../operator/control.js'
import { type ProxyStatus, type SupervisorStatus, formatStatus } from '../operator/status.js'
import { printable } from 'consul-connect-proxy/printable'
import { isRunning } from '../process/identity.js'
import { stateFolder } from '../state/folder.js'
import type { SavedProxy } from '../state/snapshot.js'
import { StateFile } from '../state/store.js'

/**
 * Prints the state of all proxies. Without a running supervisor, prints the saved state and sets the exit code 3.
 * @throws Error
 */
export async function status(dataDir: string, { json }: { readonly json: boolean }): Promise<void> {
  const folder = stateFolder(dataDir)
  try {
    const answer = (await control(folder.controlSocket, 'GET', '/status')) as SupervisorStatus
    process.stdout.write(json ? formatJson({ isRunning: true, ...answer }) : formatStatus(answer))
  } catch (error) {
    if (!(error instanceof NotRunningError)) throw error
    const { proxies } = await new StateFile(folder.snapshot).load()
    const left = { agent: 'ok', isWorking: false, passes: 0, services: 0, proxies: proxies.map(savedStatus) }
    process.stdout.write(
      json
        ? formatJson({ isRunning: false, ...left, agent: 'unknown' })
        : `${error.message}; last saved state:\n\n${formatStatus(left)}`,
    )
    process.exitCode = 3
  }
}

function formatJson(value: object): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}

/** Text that each command prints on success. */
const VERBS = {
  stop: 'is stopped',
  start: 'is being started',
  restart: 'is being restarted',
} as const

type Verb = keyof typeof VERBS

export function isVerb(command: string): command is Verb {
  return Object.hasOwn(VERBS, command)
}

/**
 * Runs `stop`, `start`, or `restart`.
 * @throws Error with the message of the supervisor
 */
export async function operate(verb: Verb, dataDir: string, ids: readonly string[]): Promise<void> {
  const [id, ...others] = ids
  if (id === undefined || others.length > 0) throw new UsageError(`${verb}: expected the id of one proxy`)
  await control(stateFolder(dataDir).controlSocket, 'POST', `/${verb}/${encodeURIComponent(id)}`)
  process.stdout.write(`${printable(id)} ${VERBS[verb]}\n`)
}

function savedStatus({ proxyId, serviceId, port, process, isStopped }: SavedProxy): ProxyStatus {
  const isAlive = process?.id !== undefined && isRunning(process.id)
  return {
    service: serviceId,
    proxy: proxyId,
    port,
    pid: isAlive ? process.id.pid : undefined,
    state: isAlive ? 'running' : isStopped ? 'stopped' : 'waiting',
    restarts: 0,
    uptimeS: undefined,
    lastExit: undefined,
    token: 'none',
    problem: isAlive ? 'running without a supervisor' : undefined,
  }
}
