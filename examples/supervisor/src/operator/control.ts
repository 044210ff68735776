import { once } from 'node:events'
import { chmodSync, rmSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { dirname } from 'node:path'
import { LocalServer, type Reply } from 'consul-connect-proxy/local-server'

/** What an operator may ask of a running supervisor. */
export interface ControlActions {
  status(): object
  /** @returns whether there is such a proxy */
  stop(id: string): Promise<boolean>
  start(id: string): boolean
  restart(id: string): boolean
}

/** `sun_path` of unix(7), without its end. */
const MAX_PATH_BYTES = 107
const TIMEOUT_MS = 30_000

/** A unix socket for the commands of operators. Only the supervisor's user, and root, can reach it. */
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

  /** @throws Error, which says what to do */
  async open(): Promise<void> {
    if (Buffer.byteLength(this.#path) > MAX_PATH_BYTES) {
      throw new Error(
        `data_dir: expected a shorter path: a unix socket takes ${MAX_PATH_BYTES} bytes, and ${this.#path} has more`,
      )
    }
    // The lock is ours, so that nobody listens here any more.
    rmSync(this.#path, { force: true })
    await this.#server.open({ path: this.#path })
    // The folder is closed to others already.
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
  if (method !== 'POST' || encoded === undefined) return { status: 404, body: { error: 'no such command' } }
  const id = decodeURIComponent(encoded)
  const isKnown = await actions[verb as 'stop' | 'start' | 'restart'](id)
  if (isKnown) return { status: 200, body: {} }
  return { status: 404, body: { error: `there is no managed proxy ${JSON.stringify(id)}` } }
}

/** No supervisor runs there. */
export class NotRunningError extends Error {
  override readonly name = 'NotRunningError'
}

/**
 * Asks a running supervisor.
 * @throws NotRunningError, Error with its words
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
      throw new NotRunningError(`no supervisor runs with the data_dir ${dirname(dirname(socketPath))}`, {
        cause,
      })
    }
    throw new Error(`the supervisor at ${socketPath} cannot be reached (${code ?? 'timeout'})`, { cause })
  }
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  const body: unknown = JSON.parse(Buffer.concat(chunks).toString())
  if (response.statusCode === 200) return body
  throw new Error((body as { error?: string }).error ?? `the supervisor answered ${response.statusCode ?? 0}`)
}
