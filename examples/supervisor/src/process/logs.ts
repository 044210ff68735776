import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

/** Limits on the log files of a proxy. */
export interface LogBounds {
  /** Size at which a file is rotated. */
  readonly maxBytes: number
  /** Number of rotated files to keep. */
  readonly kept: number
}

export const LOG_BOUNDS: LogBounds = { maxBytes: 10 * 1024 * 1024, kept: 3 }

export type Stream = 'stdout' | 'stderr'
export const STREAMS: readonly Stream[] = ['stdout', 'stderr']

export function logPath(folder: string, name: string, stream: Stream): string {
  return join(folder, `${name}-${stream}.log`)
}

/**
 * Opens both log files of a proxy for appending, readable by the supervisor's user only.
 * @throws the system's error
 */
export function openLogs(folder: string, name: string): [number, number] {
  const stdout = open(logPath(folder, name, 'stdout'))
  try {
    return [stdout, open(logPath(folder, name, 'stderr'))]
  } catch (error) {
    closeSync(stdout)
    throw error
  }
}

function open(path: string): number {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants
  return openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600)
}

/**
 * Rotates a file that exceeds the limit. The proxy holds the file open, so the file is copied and truncated: output
 * written between the two steps is lost.
 * @returns whether the file was rotated
 * @throws the system's error
 */
export function rotate(path: string, { maxBytes, kept }: LogBounds): boolean {
  const { O_RDWR, O_NOFOLLOW } = constants
  let file: number
  try {
    file = openSync(path, O_RDWR | O_NOFOLLOW)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
  try {
    if (fstatSync(file).size <= maxBytes) return false
    if (kept > 0) keep(file, path, kept)
    ftruncateSync(file)
    return true
  } finally {
    closeSync(file)
  }
}

/**
 * Copies the file to `.1` and shifts the older copies. On a full disk it skips the copy, because truncating the file
 * is what frees space.
 */
function keep(file: number, path: string, kept: number): void {
  const copy = `${path}.copy`
  try {
    copyTo(file, copy)
  } catch (error) {
    rmSync(copy, { force: true })
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return
    throw error
  }
  for (let number = kept - 1; number >= 1; number--) moveIfThere(`${path}.${number}`, `${path}.${number + 1}`)
  renameSync(copy, `${path}.1`)
}

const COPY_BYTES = 1024 * 1024

/** Copies an open file to a new file. Replaces an existing path, which may be a link or an incomplete copy. */
function copyTo(file: number, path: string): void {
  rmSync(path, { force: true })
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
  const copy = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    const buffer = Buffer.allocUnsafe(COPY_BYTES)
    // Copy only the initial size: a proxy may write faster than this loop copies.
    for (let position = 0, { size } = fstatSync(file); position < size;) {
      const length = readSync(file, buffer, 0, Math.min(buffer.length, size - position), position)
      if (length === 0) break
      for (let written = 0; written < length;) written += writeSync(copy, buffer, written, length - written)
      position += length
    }
  } finally {
    closeSync(copy)
  }
}

function moveIfThere(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
