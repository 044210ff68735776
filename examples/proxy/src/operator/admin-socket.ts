import { chmodSync, rmSync } from 'node:fs'
import { Admin, type Pages } from './admin.js'
import type { Log } from './log.js'

/** Environment variable with the path prefix of the Unix socket. The full path is `<prefix>.<pid>`. */
const VARIABLE = 'CONNECT_PROXY_ADMIN_SOCKET'

/** Serves the admin pages on a Unix socket to the supervisor that started this process. */
export class AdminSocket {
  readonly #admin: Admin
  readonly #log: Log
  #path: string | undefined

  constructor(pages: Pages, log: Log) {
    this.#admin = new Admin(pages)
    this.#log = log
  }

  get isOpen(): boolean {
    return this.#path !== undefined
  }

  /** Opens the socket if the environment sets a path. Logs errors: the proxy also works without this socket. */
  async open(): Promise<void> {
    const prefix = process.env[VARIABLE]
    if (prefix === undefined || prefix === '') return
    // The pid keeps paths apart during a restart, when two processes of a proxy run.
    const path = `${prefix}.${process.pid}`
    try {
      rmSync(path, { force: true })
      await this.#admin.open({ path })
      this.#path = path
      chmodSync(path, 0o600)
    } catch (error) {
      this.#log.warn(`admin socket: ${(error as Error).message}`)
    }
  }

  close(): void {
    if (this.#path === undefined) return
    this.#admin.close()
    rmSync(this.#path, { force: true })
  }
}
