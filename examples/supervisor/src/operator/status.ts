import type { ManagedProxy } from '../managed-proxy.js'
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

/** One proxy, as an operator sees it. */
export interface ProxyStatus {
  readonly service: string
  readonly proxy: string
  /** 0 before it has one. */
  readonly port: number
  readonly pid: number | undefined
  readonly state: ProxyState
  readonly restarts: number
  readonly uptimeS: number | undefined
  /** Such as `exit code 1` or `SIGKILL`. */
  readonly lastExit: string | undefined
  /** State of the ACL token: `none` where ACLs are off, `missing` until the agent has made the next one. */
  readonly token: 'none' | 'valid' | 'missing'
  /** Why it is not as it should be. */
  readonly problem: string | undefined
}

export interface SupervisorStatus {
  /** `ok`, or what is wrong with it. */
  readonly agent: string
  /** Whether it looks after everything, and does not hang. */
  readonly isWorking: boolean
  /** How often everything has been looked at. */
  readonly passes: number
  readonly services: number
  readonly proxies: readonly ProxyStatus[]
}

export function proxyStatus(proxy: ManagedProxy, problem: string | undefined): ProxyStatus {
  const { keeper } = proxy
  const { running, lastExit } = keeper
  return {
    service: proxy.serviceId,
    proxy: proxy.id,
    port: proxy.port,
    pid: running?.id.pid,
    state: stateOf(proxy, problem),
    restarts: keeper.restarts,
    uptimeS: running && Math.floor((performance.now() - running.since) / 1_000),
    lastExit: lastExit && describeExit(lastExit),
    token: proxy.tokenState,
    problem: problem ?? keeper.problem?.message ?? tokenProblem(proxy),
  }
}

function tokenProblem({ tokenState }: ManagedProxy): string | undefined {
  return tokenState === 'missing' ? 'its ACL token is not known to the agent; another one is made' : undefined
}

/** Of one whose service somebody else has deregistered. */
export function goneStatus(proxy: ManagedProxy): ProxyStatus {
  const problem = 'its service was deregistered by somebody else; a reload, or start, registers it again'
  return { ...proxyStatus(proxy, problem), state: 'gone' }
}

function stateOf({ isStopped, keeper }: ManagedProxy, problem: string | undefined): ProxyState {
  if (keeper.state === 'running' || keeper.state === 'stopping') return keeper.state
  if (isStopped) return 'stopped'
  if (problem !== undefined) return 'refused'
  return keeper.problem === undefined ? 'waiting' : 'failing'
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

/** A table, and under it what is wrong. */
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
