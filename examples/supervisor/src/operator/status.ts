import type { ManagedProxy } from '../services/managed-proxy.js'
import { printable } from 'consul-connect-proxy/printable'
import { describeExit } from '../process/running.js'

export const PROXY_STATES = [
  'running',
  'waiting',
  'stopping',
  'stopped',
  'refused',
  'failing',
  'gone',
] as const
type ProxyState = (typeof PROXY_STATES)[number]

/** Status of one proxy, as `status -json` prints it. */
export interface ProxyStatus {
  readonly service: string
  readonly proxy: string
  /** 0 before a port is selected. */
  readonly port: number
  readonly pid: number | undefined
  readonly state: ProxyState
  readonly restarts: number
  readonly uptimeS: number | undefined
  /** Such as `exit code 1` or `SIGKILL`; undefined if the process has not exited yet. */
  readonly lastExit: string | undefined
  /** State of the ACL token: `none` if ACLs are disabled, `missing` until the agent has created the next one. */
  readonly token: 'none' | 'valid' | 'missing'
  /** Why the proxy is not running as configured. */
  readonly problem: string | undefined
}

export interface SupervisorStatus {
  /** `ok`, or why the agent is unreachable. */
  readonly agent: string
  /** Whether passes complete; false if the last one ended more than 60 s ago. */
  readonly isWorking: boolean
  /** Number of completed passes. */
  readonly passes: number
  readonly services: number
  readonly proxies: readonly ProxyStatus[]
}

export function proxyStatus(proxy: ManagedProxy, problem: string | undefined): ProxyStatus {
  const { runner } = proxy
  const { running, lastExit } = runner
  return {
    service: proxy.serviceId,
    proxy: proxy.id,
    port: proxy.port,
    pid: running?.id.pid,
    state: stateOf(proxy, problem),
    restarts: runner.restarts,
    uptimeS: running && Math.floor((performance.now() - running.since) / 1_000),
    lastExit: lastExit && describeExit(lastExit),
    token: proxy.tokenState,
    problem: problem ?? runner.problem?.message ?? tokenProblem(proxy),
  }
}

function tokenProblem({ tokenState }: ManagedProxy): string | undefined {
  return tokenState === 'missing' ? 'ACL token is unknown to the agent; creating another one' : undefined
}

/** Status of a proxy whose service another client deregistered. */
export function goneStatus(proxy: ManagedProxy): ProxyStatus {
  const problem = 'service was deregistered by another client; reload, or use start, to register it again'
  return { ...proxyStatus(proxy, problem), state: 'gone' }
}

function stateOf({ isStopped, runner }: ManagedProxy, problem: string | undefined): ProxyState {
  if (runner.state === 'running' || runner.state === 'stopping') return runner.state
  if (isStopped) return 'stopped'
  if (problem !== undefined) return 'refused'
  return runner.problem === undefined ? 'waiting' : 'failing'
}

const COLUMNS: readonly [string, (proxy: ProxyStatus) => string][] = [
  ['SERVICE', ({ service }) => service],
  ['PROXY', ({ proxy }) => proxy],
  ['PORT', ({ port }) => (port === 0 ? '-' : String(port))],
  ['PID', ({ pid }) => String(pid ?? '-')],
  ['STATE', ({ state }) => state],
  ['RESTARTS', ({ restarts }) => String(restarts)],
  ['UPTIME', ({ uptimeS }) => (uptimeS === undefined ? '-' : duration(uptimeS))],
  ['LAST EXIT', ({ lastExit }) => lastExit ?? '-'],
]

/** Formats the status as a table, followed by one line per problem. */
export function formatStatus({ agent, proxies }: SupervisorStatus): string {
  const rows = [
    COLUMNS.map(([title]) => title),
    ...proxies.map((proxy) => COLUMNS.map(([, cell]) => printable(cell(proxy)))),
  ]
  const widths = COLUMNS.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  )
  const problems = proxies.flatMap(({ proxy, problem }) =>
    problem === undefined ? [] : [`${proxy}: ${problem}`],
  )
  if (agent !== 'ok') problems.unshift(`agent: ${agent}`)
  return `${lines.join('\n')}\n${problems.length === 0 ? '' : `\n${problems.map(printable).join('\n')}\n`}`
}

function duration(seconds: number): string {
  const units: [number, string][] = [
    [86_400, 'd'],
    [3_600, 'h'],
    [60, 'm'],
  ]
  const [size, unit] = units.find(([each]) => seconds >= each) ?? [1, 's']
  return `${Math.floor(seconds / size)}${unit}`
}
