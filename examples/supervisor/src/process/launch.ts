import { createHash } from 'node:crypto'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import type { Environment } from 'consul-connect'

/** How a proxy is started. A change of any of it is a restart. */
export interface Launch {
  readonly proxyId: string
  /** An absolute path. */
  readonly path: string
  readonly args: readonly string[]
  /** Further arguments, with which it is started and for which it is not: how much it logs. */
  readonly logArgs: readonly string[]
  readonly directory: string
  readonly env: Environment
  /** Whether the program can start while its predecessor still has the addresses. Our own proxy can. */
  readonly canStandBy: boolean
}

/** Tells our own proxy on which descriptor to report that it is ready to take over. */
export const STANDBY_VARIABLE = 'CONNECT_PROXY_STANDBY_FD'

/** By which a process is found that was started, and not yet written down. */
export const LAUNCH_VARIABLE = 'CONNECT_SUPERVISOR_LAUNCH'

/** By which a proxy, and an orphan, is known. */
export const PROXY_ID_VARIABLE = 'CONNECT_PROXY_ID'
/** Tells our own proxy where to serve its admin pages to the supervisor. */
export const ADMIN_SOCKET_VARIABLE = 'CONNECT_PROXY_ADMIN_SOCKET'

/**
 * Variables that belong to one start of the supervisor, which would restart every proxy at the next one, and the
 * supervisor's own credentials, which have wider rights than a proxy needs.
 */
const NOT_PASSED_ON = new Set([
  'CONSUL_HTTP_AUTH',
  'CONSUL_HTTP_TOKEN',
  'CONSUL_HTTP_TOKEN_FILE',
  'CONSUL_PROXY_ID',
  'CONSUL_PROXY_TOKEN',
  ADMIN_SOCKET_VARIABLE,
  PROXY_ID_VARIABLE,
  'CONNECT_PROXY_TOKEN',
  'CONNECT_SIDECAR_FOR',
  LAUNCH_VARIABLE,
  STANDBY_VARIABLE,
  'CREDENTIALS_DIRECTORY',
  'INVOCATION_ID',
  'JOURNAL_STREAM',
  'LISTEN_FDNAMES',
  'LISTEN_FDS',
  'LISTEN_PID',
  'MAINPID',
  'MANAGERPID',
  'MEMORY_PRESSURE_WATCH',
  'MEMORY_PRESSURE_WRITE',
  'NOTIFY_SOCKET',
  'OLDPWD',
  'PWD',
  'SHLVL',
  'SYSTEMD_EXEC_PID',
  'SSH_AUTH_SOCK',
  'SSH_CLIENT',
  'SSH_CONNECTION',
  'SSH_TTY',
  'STY',
  'TMUX',
  'TMUX_PANE',
  'WATCHDOG_PID',
  'WATCHDOG_USEC',
  'XDG_SESSION_ID',
  '_',
])

/** The environment of a proxy: the supervisor's, how to reach the agent, and who the proxy is. */
export function proxyEnvironment(base: Environment, proxyId: string, token: string | undefined): Environment {
  const passed = Object.entries(base).filter(
    ([name, value]) => value !== undefined && !NOT_PASSED_ON.has(name),
  )
  return {
    ...Object.fromEntries(passed.sort(([a], [b]) => (a < b ? -1 : 1))),
    // Consul's code had the first pair of names, its documentation the second.
    [PROXY_ID_VARIABLE]: proxyId,
    CONSUL_PROXY_ID: proxyId,
    ...(token !== undefined && { CONNECT_PROXY_TOKEN: token, CONSUL_PROXY_TOKEN: token }),
  }
}

/** Two launches with the same one are the same. It tells nothing about what they hold. */
export function fingerprint({ proxyId, path, args, directory, env }: Launch): string {
  const all = JSON.stringify([proxyId, path, args, directory, Object.entries(env)])
  return createHash('sha256').update(all).digest('base64url')
}

/**
 * The absolute path of a program. One with a slash is taken against `folder`; a bare name is looked for in the PATH.
 * @throws Error, which says what was expected
 */
export function findProgram(program: string, folder: string | undefined, path = ''): string {
  if (isAbsolute(program)) return expectProgram(program)
  if (!program.includes('/')) {
    const found = path
      .split(delimiter)
      .filter((each) => isAbsolute(each))
      .map((each) => join(each, program))
      .find((candidate) => problemOf(candidate) === undefined)
    if (found !== undefined) return found
    throw new Error(`command: expected an executable file, and ${program} is in no folder of the PATH`)
  }
  if (folder !== undefined) return expectProgram(resolve(folder, program))
  throw new Error(`command: expected an absolute path, got ${program}`)
}

function expectProgram(path: string): string {
  const problem = problemOf(path)
  if (problem === undefined) return path
  throw new Error(`command: expected an executable file, and ${path} ${problem}`)
}

function problemOf(path: string): string | undefined {
  try {
    if (!statSync(path).isFile()) return 'is no file'
    accessSync(path, constants.X_OK)
    return undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return 'is not there'
    return code === 'EACCES'
      ? 'is not executable for this user'
      : `cannot be looked at (${code ?? 'unknown'})`
  }
}
