import { chmodSync, rmSync } from 'node:fs'
import { Admin, type Pages } from './admin.js'
import type { Log } from './log.js'

/** Names the unix socket on which a supervisor reads the pages of a proxy. The process id is appended. */
const VARIABLE = 'CONNECT_PROXY_ADMIN_SOCKET'

/** Serves the admin pages on a unix socket, for the supervisor that started this process. */
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

  /** Opens the socket where the environment names one. A failure costs the pages, not the proxy. */
  async open(): Promise<void> {
    const prefix = process.env[VARIABLE]
    if (prefix === undefined || prefix === '') return
    // During a restart two processes of one proxy may run.
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
