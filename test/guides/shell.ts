// A session in bash, as a reader has it in front of her: what it says is read block by block.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitBound } from '../fixtures/bounds.js'

const WAIT_MS = waitBound(30_000)
const POLL_MS = 50

export class Shell {
  readonly #child: ChildProcess
  #output = ''
  #blocks = 0

  /** @param prelude - commands before the first block */
  constructor(t: TestContext, cwd: string, env: Record<string, string | undefined>, prelude: string) {
    // A process group of its own, so that what was left in the background ends with it.
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

  /** Runs a block of commands, each of which must go well, until its last one is done or in the background. */
  async run(commands: string, expected: readonly RegExp[]): Promise<void> {
    const from = this.#output.length
    const mark = `--- end of block ${(this.#blocks += 1)}:`
    // Not in a subshell: what it sets and starts is there for the next block.
    this.#child.stdin?.write(
      `trap 'FAILED=1' ERR; FAILED=0\n${commands}\ntrap - ERR; echo "${mark} $FAILED"\n`,
    )
    const said = (): string => this.#output.slice(from)
    const deadline = Date.now() + WAIT_MS
    const waitFor = async (what: string, isThere: () => boolean): Promise<void> => {
      while (!isThere()) {
        if (Date.now() > deadline) throw new Error(`${what}, after\n${commands}\nwhich said\n${said()}`)
        await sleep(POLL_MS)
      }
    }
    await waitFor('no end', () => said().includes(mark))
    if (!said().includes(`${mark} 0`))
      throw new Error(`a command failed, of\n${commands}\nwhich said\n${said()}`)
    for (const line of expected) await waitFor(`no ${String(line)}`, () => line.test(said()))
  }
}
