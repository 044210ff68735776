import { spawnSync } from 'node:child_process'
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'

/**
 * Makes sure that one supervisor works in a folder: two would start everything twice. It is a lock of the kernel, flock(2),
 * which ends with the process that holds it, however that ends. Node.js has no call for it; `flock` of util-linux takes it
 * for a file that we have opened, and it is ours afterwards.
 * @returns how to give it back
 * @throws Error when another one runs
 */
export function takeLock(path: string): () => void {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants
  const file = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
  try {
    const { status, signal, error } = spawnSync('flock', ['-n', '3'], {
      stdio: ['ignore', 'ignore', 'ignore', file],
    })
    if (error !== undefined) throw new Error(`expected flock of util-linux in the PATH (${error.message})`)
    if (status !== 0 && status !== 1)
      throw new Error(`flock could not lock ${path} (${status ?? signal ?? ''})`)
    if (status === 1) throw new Error(`another supervisor runs in this data_dir already${holder(path)}`)
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

/** For the message alone. */
function holder(path: string): string {
  const pid = readFileSync(path, 'utf8').trim()
  return /^\d+$/.test(pid) ? `, with pid ${pid}` : ''
}
