import { createHash } from 'node:crypto'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import type { Environment } from 'consul-connect'

/** Command and environment of a proxy. A change restarts the proxy, except for `logArgs`. */
export interface Launch {
  readonly proxyId: string
  /** Absolute path of the program. */
  readonly path: string
  readonly args: readonly string[]
  /**
   * Arguments for the log level and format. Not part of the fingerprint, so that a change does not restart the proxy.
   */
  readonly logArgs: readonly string[]
  readonly directory: string
  readonly env: Environment
  /** Whether the program can start while its predecessor holds the listening addresses. `connect-proxy` can. */
  readonly canStandBy: boolean
}

/** Tells `connect-proxy` on which file descriptor to report that it is ready to take over. */
export const STANDBY_VARIABLE = 'CONNECT_PROXY_STANDBY_FD'

/** Identifies a process that was started but whose pid was not saved yet. */
export const LAUNCH_VARIABLE = 'CONNECT_SUPERVISOR_LAUNCH'

/** Id of the proxy. Also identifies orphans. */
export const PROXY_ID_VARIABLE = 'CONNECT_PROXY_ID'
/** Tells `connect-proxy` where to serve its admin pages to the supervisor. */
export const ADMIN_SOCKET_VARIABLE = 'CONNECT_PROXY_ADMIN_SOCKET'

/**
 * Variables that are not passed to proxies: those that differ with each start of the supervisor, which would restart
 * every proxy, and the supervisor's credentials, which grant more than a proxy needs.
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

/** Builds the environment of a proxy: the supervisor's environment, plus the proxy's id and token. */
export function proxyEnvironment(base: Environment, proxyId: string, token: string | undefined): Environment {
  const passed = Object.entries(base).filter(
    ([name, value]) => value !== undefined && !NOT_PASSED_ON.has(name),
  )
  return {
    ...Object.fromEntries(passed.sort(([a], [b]) => (a < b ? -1 : 1))),
    // Consul's code used the CONNECT_ names, its documentation the CONSUL_ names.
    [PROXY_ID_VARIABLE]: proxyId,
    CONSUL_PROXY_ID: proxyId,
    ...(token !== undefined && { CONNECT_PROXY_TOKEN: token, CONSUL_PROXY_TOKEN: token }),
  }
}

/** Identifies a launch. A hash, because the environment holds a token. */
export function fingerprint({ proxyId, path, args, directory, env }: Launch): string {
  const all = JSON.stringify([proxyId, path, args, directory, Object.entries(env)])
  return createHash('sha256').update(all).digest('base64url')
}

/**
 * Resolves a program to an absolute path. A path with a slash is relative to `folder`; a bare name is searched in the
 * PATH.
 * @throws Error that describes the problem
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
    throw new Error(`command: ${program} is not in the PATH`)
  }
  if (folder !== undefined) return expectProgram(resolve(folder, program))
  throw new Error(`command: expected an absolute path, got ${program}`)
}

function expectProgram(path: string): string {
  const problem = problemOf(path)
  if (problem === undefined) return path
  throw new Error(`command: ${path} ${problem}`)
}

function problemOf(path: string): string | undefined {
  try {
    if (!statSync(path).isFile()) return 'is not a file'
    accessSync(path, constants.X_OK)
    return undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return 'does not exist'
    return code === 'EACCES' ? 'is not executable by this user' : `cannot be inspected (${code ?? 'unknown'})`
  }
}
