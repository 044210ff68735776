import { closeSync, constants, openSync, rmSync, writeSync } from 'node:fs'

/**
 * Writes a pid to a new file. Replaces an existing file or link.
 * @throws the system's error
 */
export function writePidFile(path: string, pid: number): void {
  removePidFile(path)
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
  const file = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    writeSync(file, `${pid}\n`)
  } finally {
    closeSync(file)
  }
}

/**
 * Removes a pid file if it exists.
 * @throws the system's error
 */
export function removePidFile(path: string): void {
  rmSync(path, { force: true })
}
