import { spawnSync } from 'node:child_process'
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'

/**
 * Locks a data directory, so that only one supervisor uses it. Takes a kernel lock, flock(2), which is released when
 * the process exits for any reason. Node.js has no such call, so `flock` of util-linux locks an inherited file
 * descriptor.
 * @returns a function that releases the lock
 * @throws Error when another supervisor holds the lock
 */
export function takeLock(path: string): () => void {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants
  const file = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
  try {
    const { status, signal, error } = spawnSync('flock', ['-n', '3'], {
      stdio: ['ignore', 'ignore', 'ignore', file],
    })
    if (error !== undefined) throw new Error(`flock cannot be run (${error.message}); install util-linux`)
    if (status !== 0 && status !== 1)
      throw new Error(`flock could not lock ${path} (${status ?? signal ?? ''})`)
    if (status === 1) throw new Error(`another supervisor already uses this data_dir${holder(path)}`)
    ftruncateSync(file)
    writeSync(file, `${process.pid}\n`)
  } catch (error) {
    closeSync(file)
    throw error
  }
  let isHeld = true
  return () => {
    if (isHeld) closeSync(file)
    isHeld = false
  }
}

/** Returns the pid in the lock file, for the error message. */
function holder(path: string): string {
  const pid = readFileSync(path, 'utf8').trim()
  return /^\d+$/.test(pid) ? ` (pid ${pid})` : ''
}
