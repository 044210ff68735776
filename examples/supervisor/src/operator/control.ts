import { once } from 'node:events'
import { chmodSync, rmSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { dirname } from 'node:path'
import { LocalServer, type Reply } from 'consul-connect-proxy/local-server'

/** Actions of the control commands. */
export interface ControlActions {
  status(): object
  /** @returns whether the id is known */
  stop(id: string): Promise<boolean>
  start(id: string): boolean
  restart(id: string): boolean
}

/** Maximum length of a Unix socket path: `sun_path` of unix(7) without the terminating null byte. */
const MAX_PATH_BYTES = 107
const TIMEOUT_MS = 30_000

/** Serves the control commands on a Unix socket that only the supervisor's user and root can access. */
export class ControlServer {
  readonly #server: LocalServer
  readonly #path: string

  constructor(path: string, actions: ControlActions) {
    this.#path = path
    this.#server = new LocalServer(
      (received) => answer(received, actions),
      ({ message }) => ({ status: 500, body: { error: message } }),
    )
  }

  /** @throws Error when the path is too long, or the system's error */
  async open(): Promise<void> {
    if (Buffer.byteLength(this.#path) > MAX_PATH_BYTES) {
      throw new Error(
        `data_dir: path is too long for a Unix socket (${this.#path}, at most ${MAX_PATH_BYTES} bytes); use a shorter one`,
      )
    }
    // This process holds the lock, so the existing socket is stale.
    rmSync(this.#path, { force: true })
    await this.#server.open({ path: this.#path })
    // Defense in depth: the directory already excludes other users.
    chmodSync(this.#path, 0o600)
  }

  close(): void {
    this.#server.close()
    rmSync(this.#path, { force: true })
  }
}

async function answer({ method, url = '' }: IncomingMessage, actions: ControlActions): Promise<Reply> {
  if (method === 'GET' && url === '/status') return { status: 200, body: actions.status() }
  const [, verb, encoded] = /^\/(stop|start|restart)\/([^/?]+)$/.exec(url) ?? []
  if (method !== 'POST' || encoded === undefined) return { status: 404, body: { error: 'unknown command' } }
  const id = decodeURIComponent(encoded)
  const isKnown = await actions[verb as 'stop' | 'start' | 'restart'](id)
  if (isKnown) return { status: 200, body: {} }
  return { status: 404, body: { error: `unknown managed proxy: ${JSON.stringify(id)}` } }
}

/** No supervisor is listening on the control socket. */
export class NotRunningError extends Error {
  override readonly name = 'NotRunningError'
}

/**
 * Sends a request to the running supervisor.
 * @throws NotRunningError, or Error with the message of the supervisor
 */
export async function control(socketPath: string, method: 'GET' | 'POST', path: string): Promise<unknown> {
  const sent = request({ socketPath, method, path, signal: AbortSignal.timeout(TIMEOUT_MS) })
  sent.end()
  let response: IncomingMessage
  try {
    response = ((await once(sent, 'response')) as [IncomingMessage])[0]
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ECONNREFUSED') {
      throw new NotRunningError(`no supervisor is running with data_dir ${dirname(dirname(socketPath))}`, {
        cause,
      })
    }
    throw new Error(`cannot reach the supervisor at ${socketPath} (${code ?? 'timeout'})`, { cause })
  }
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  const body: unknown = JSON.parse(Buffer.concat(chunks).toString())
  if (response.statusCode === 200) return body
  throw new Error((body as { error?: string }).error ?? `the supervisor answered ${response.statusCode ?? 0}`)
}
