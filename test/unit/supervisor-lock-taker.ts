// Tries to take locks at the same moment as others: `taker FOLDER ROUNDS`. Says `ready`, is told when to begin, tries one
// lock in each round, says which it got, and keeps them until its standard input ends.
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { takeLock } from '../../examples/supervisor/src/state/lock.js'

const [folder = '', rounds = '0'] = process.argv.slice(2)
const ROUND_MS = 40
/** A little apart, so that one comes while another takes over. */
const APART_MS = 0.3
const cell = new Int32Array(new SharedArrayBuffer(4))

/** Blocks, more exactly than a timer would, so that all are woken at nearly the same time. */
function waitUntil(time: number): void {
  const leftMs = time - performance.timeOrigin - performance.now()
  if (leftMs > 0) Atomics.wait(cell, 0, 0, leftMs)
}

function takeAll(begin: number): { won: number[]; unexpected: string[] } {
  const won: number[] = []
  const unexpected: string[] = []
  for (let round = 0; round < Number(rounds); round++) {
    waitUntil(begin + round * ROUND_MS + Math.random() * APART_MS)
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
