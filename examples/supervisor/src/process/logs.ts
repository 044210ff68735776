import {
  closeSync,
  constants,
  copyFileSync,
  fstatSync,
  ftruncateSync,
  openSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { join } from 'node:path'

/** How much of a proxy's output is kept. */
export interface LogBounds {
  /** A file is put aside when it is larger. */
  readonly maxBytes: number
  /** How many older ones there are besides. */
  readonly kept: number
}

export const LOG_BOUNDS: LogBounds = { maxBytes: 10 * 1024 * 1024, kept: 3 }

export type Stream = 'stdout' | 'stderr'
export const STREAMS: readonly Stream[] = ['stdout', 'stderr']

export function logPath(folder: string, name: string, stream: Stream): string {
  return join(folder, `${name}-${stream}.log`)
}

/**
 * Opens both files of a proxy, to write at their ends. They are for the supervisor's user alone.
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
 * Puts a file aside that has grown too large, and older ones further. A proxy has it open and writes to it by itself, so
 * that it is copied and emptied: what is written between the two, for a moment, is lost.
 * @returns whether it was too large
 * @throws the system's error
 */
export function rotate(path: string, { maxBytes, kept }: LogBounds): boolean {
  const { O_WRONLY, O_NOFOLLOW } = constants
  let file: number
  try {
    file = openSync(path, O_WRONLY | O_NOFOLLOW)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
  try {
    if (fstatSync(file).size <= maxBytes) return false
    if (kept > 0) keep(path, kept)
    ftruncateSync(file)
    return true
  } finally {
    closeSync(file)
  }
}

/** On a disk that is full it cannot be kept, and emptying it is what helps; older ones stay. */
function keep(path: string, kept: number): void {
  const copy = `${path}.copy`
  try {
    copyFileSync(path, copy)
  } catch (error) {
    rmSync(copy, { force: true })
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return
    throw error
  }
  for (let number = kept - 1; number >= 1; number--) moveIfThere(`${path}.${number}`, `${path}.${number + 1}`)
  renameSync(copy, `${path}.1`)
}

function moveIfThere(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
