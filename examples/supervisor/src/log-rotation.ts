import { type LogBounds, STREAMS, logPath, rotate } from './process/logs.js'
import { fileName } from './state/folder.js'

/** Rotates the log files of proxies. */
export class LogRotation {
  readonly #folder: string
  readonly #bounds: LogBounds
  readonly #complain: (message: string) => void

  constructor(folder: string, bounds: LogBounds, complain: (message: string) => void) {
    this.#folder = folder
    this.#bounds = bounds
    this.#complain = complain
  }

  rotate(proxyIds: readonly string[]): void {
    for (const id of proxyIds) {
      for (const stream of STREAMS) {
        try {
          rotate(logPath(this.#folder, fileName(id), stream), this.#bounds)
        } catch (error) {
          this.#complain(`${id}: cannot rotate its log: ${(error as Error).message}`)
        }
      }
    }
  }
}
