import type { Environment } from 'consul-connect'
import { elapsed } from '../time.js'
import {
  type ProcessId,
  findAllByEnvironment,
  sharesUserAndNetwork,
  killSession,
  sessionOf,
  signalProcess,
} from './identity.js'
import { LAUNCH_VARIABLE, PROXY_ID_VARIABLE } from './launch.js'

const AGENT_VARIABLE = 'CONSUL_HTTP_ADDR'
const POLL_MS = 50
/** How long a process may take to exit after SIGKILL. */
const KILL_MS = 5_000

/**
 * Finds processes that an earlier supervisor started for a proxy and that are in no state file, because the data
 * directory was deleted or a supervisor with -dev was killed. Such processes follow the registration of the proxy and
 * occupy its port.
 * @param env - environment of the proxy; a process with another agent address belongs to another registration
 * @param own - process to leave out
 */
export function findOrphans(
  proxyId: string,
  env: Environment,
  own: ProcessId | undefined,
): readonly ProcessId[] {
  return findAllByEnvironment(
    (variables) =>
      variables.has(LAUNCH_VARIABLE) &&
      variables.get(PROXY_ID_VARIABLE) === proxyId &&
      (variables.get(AGENT_VARIABLE) ?? '') === (env[AGENT_VARIABLE] ?? ''),
  ).filter((id) => id.pid !== own?.pid && sharesUserAndNetwork(id))
}

/**
 * Stops processes and their sessions with SIGINT, and after `drainMs` with SIGKILL.
 * @returns whether all have exited; false when `signal` was aborted first, or SIGKILL had no effect
 */
export async function endOrphans(
  orphans: readonly ProcessId[],
  drainMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const deadline = performance.now() + drainMs
  for (const orphan of orphans) signalProcess(orphan, 'SIGINT')
  while (orphans.some((orphan) => sessionOf(orphan).length > 0)) {
    if (performance.now() > deadline + KILL_MS) return false
    if (performance.now() > deadline) for (const orphan of orphans) killSession(orphan)
    if (!(await elapsed(POLL_MS, signal))) return false
  }
  return true
}
