import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitBound } from '../fixtures/bounds.js'

/** Bound on one block of commands. */
const BLOCK_MS = waitBound(60_000)
const POLL_MS = 50

/** A bash session that runs the commands of a guide block by block, as a reader does. */
export class Shell {
  readonly #child: ChildProcess
  #output = ''
  #blocks = 0

  /** @param prelude - commands before the first block */
  constructor(t: TestContext, cwd: string, env: Record<string, string | undefined>, prelude: string) {
    // A separate process group, so that programs in the background end with the test.
    this.#child = spawn('bash', ['--noprofile', '--norc'], { cwd, env, detached: true, stdio: 'pipe' })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()))
    }
    t.after(async () => {
      const ended = once(this.#child, 'exit')
      process.kill(-this.#child.pid!, 'SIGKILL')
      await ended
    })
    this.#child.stdin?.write(`${prelude}\n`)
  }

  /** Runs a block of commands. Every command must succeed, or run in the background. Then waits for the expected lines. */
  async run(commands: string, expected: readonly RegExp[]): Promise<void> {
    const begin = this.#output.length
    const mark = `--- end of block ${(this.#blocks += 1)}:`
    // Not in a subshell: later blocks use its variables and jobs.
    this.#child.stdin?.write(
      `trap 'FAILED=1' ERR; FAILED=0\n${commands}\ntrap - ERR; echo "${mark} $FAILED"\n`,
    )
    const output = (): string => this.#output.slice(begin)
    const deadline = Date.now() + BLOCK_MS
    const waitFor = async (condition: string, isMet: () => boolean): Promise<void> => {
      while (!isMet()) {
        if (Date.now() > deadline) throw new Error(`not printed: ${condition}\n${commands}\n---\n${output()}`)
        await sleep(POLL_MS)
      }
    }
    await waitFor('the end of the block', () => output().includes(mark))
    if (!output().includes(`${mark} 0`)) throw new Error(`a command failed\n${commands}\n---\n${output()}`)
    for (const line of expected) await waitFor(String(line), () => line.test(output()))
  }
}
