// Takes locks at the same time as other processes: `taker FOLDER ROUNDS`. Writes `ready`, reads the start time, tries one
// lock in each round, writes the rounds that it won, and holds the locks until its standard input ends.
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { takeLock } from '../../examples/supervisor/src/state/lock.js'

const [folder = '', rounds = '0'] = process.argv.slice(2)
const ROUND_MS = 40
/** Spreads the attempts, so that some fall into the moment in which another process takes over a lock. */
const SPREAD_MS = 0.3
const cell = new Int32Array(new SharedArrayBuffer(4))

/** Blocks the thread, which is more precise than a timer. */
function waitUntil(time: number): void {
  const leftMs = time - performance.timeOrigin - performance.now()
  if (leftMs > 0) Atomics.wait(cell, 0, 0, leftMs)
}

function takeAll(startAt: number): { won: number[]; unexpected: string[] } {
  const won: number[] = []
  const unexpected: string[] = []
  for (let round = 0; round < Number(rounds); round++) {
    waitUntil(startAt + round * ROUND_MS + Math.random() * SPREAD_MS)
    try {
      takeLock(join(folder, `${round}.lock`))
      won.push(round)
    } catch (error) {
      const { message } = error as Error
      if (!message.startsWith('another supervisor already uses')) unexpected.push(`${round}: ${message}`)
    }
  }
  return { won, unexpected }
}

process.stdout.write('ready\n')
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(takeAll(Number(line)))}\n`)
}
