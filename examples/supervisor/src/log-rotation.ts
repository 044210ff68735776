import { type LogBounds, STREAMS, logPath, rotate } from './process/logs.js'
import { fileName } from './state/folder.js'

/** Rotates the log files of proxies. */
export class LogRotation {
  readonly #folder: string
  readonly #bounds: LogBounds
  readonly #warn: (message: string) => void

  constructor(folder: string, bounds: LogBounds, warn: (message: string) => void) {
    this.#folder = folder
    this.#bounds = bounds
    this.#warn = warn
  }

  rotate(proxyIds: readonly string[]): void {
    for (const id of proxyIds) {
      for (const stream of STREAMS) {
        try {
          rotate(logPath(this.#folder, fileName(id), stream), this.#bounds)
        } catch (error) {
          this.#warn(`${id}: cannot rotate its log: ${(error as Error).message}`)
        }
      }
    }
  }
}
