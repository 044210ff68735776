import { closeSync, constants, openSync, rmSync, writeSync } from 'node:fs'

/**
 * Writes the number of a process to a new file, in the place of an older one or of a link.
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

/** @throws the system's error */
export function removePidFile(path: string): void {
  rmSync(path, { force: true })
}
