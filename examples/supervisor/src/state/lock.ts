import { randomUUID } from 'node:crypto'
import { linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { type ProcessId, identify, isRunning } from '../process/identity.js'

/** How often a lock is taken over that its owner left behind. */
const ATTEMPTS = 10

/**
 * Makes sure that one supervisor works in a folder: two would start everything twice. The lock names a process, so that
 * one whose owner was killed holds nobody up.
 * @returns how to give it back
 * @throws Error when another one runs
 */
export function takeLock(path: string): () => void {
  const own = identify(process.pid)
  if (own === undefined) throw new Error('this process is not in /proc')
  const candidate = `${path}.${randomUUID()}`
  writeFileSync(candidate, JSON.stringify(own), { mode: 0o600, flag: 'wx' })
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (tryLink(candidate, path))
        return () => {
          release(path, own)
        }
      const holder = readHolder(path)
      if (holder !== undefined && isRunning(holder)) {
        throw new Error(`another supervisor runs in this data_dir already, with pid ${holder.pid}`)
      }
      removeStale(path, holder)
    }
    throw new Error(`${path} cannot be taken: remove it if no supervisor runs`)
  } finally {
    unlinkSync(candidate)
  }
}

/** A link is made whole or not at all, and never over another. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** Undefined for one that is gone meanwhile, or is no lock of ours. */
function readHolder(path: string): ProcessId | undefined {
  try {
    const { pid, startedAt, bootId } = JSON.parse(readFileSync(path, 'utf8')) as Partial<ProcessId>
    if (typeof pid !== 'number' || typeof startedAt !== 'string' || typeof bootId !== 'string')
      return undefined
    return { pid, startedAt, bootId }
  } catch {
    return undefined
  }
}

/** Two that come at the same time must not take each other's new lock away for the old one. */
function removeStale(path: string, stale: ProcessId | undefined): void {
  const aside = `${path}.${randomUUID()}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const moved = readHolder(aside)
  if (moved !== undefined && moved.startedAt !== stale?.startedAt && isRunning(moved)) tryLink(aside, path)
  unlinkSync(aside)
}

function release(path: string, own: ProcessId): void {
  if (readHolder(path)?.pid === own.pid) unlinkSync(path)
}
