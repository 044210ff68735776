// A program of a guide, run against an agent.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TestAgent } from '../../src/testing/index.js'
import { waitBound } from '../fixtures/bounds.js'

const WAIT_MS = waitBound(60_000)
const POLL_MS = 50
const tsx = import.meta.resolve('tsx')

/** A program that ends by itself, or runs until it is stopped. */
export class Program {
  readonly #name: string
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>
  #output = ''
  #isStopped = false

  constructor(t: TestContext, folder: string, name: string, agent: TestAgent, more: NodeJS.ProcessEnv = {}) {
    this.#name = name
    const env = { PATH: process.env['PATH'], HOME: folder, CONSUL_HTTP_ADDR: agent.address, ...more }
    this.#child = spawn(process.execPath, ['--import', tsx, name], { cwd: folder, env, stdio: 'pipe' })
    this.#closed = once(this.#child, 'close')
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()))
    t.after(() => this.#child.kill('SIGKILL'))
  }

  async prints(line: RegExp): Promise<void> {
    const deadline = Date.now() + WAIT_MS
    while (!line.test(this.#output) && !this.#hasEnded && Date.now() < deadline) await sleep(POLL_MS)
    // Output may still be on its way when a process has ended.
    if (this.#hasEnded) await this.#closed
    assert.match(this.#output, line)
  }

  /** Waits for the end, which must be a good one; returns what the program has printed. */
  async ends(): Promise<string> {
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), WAIT_MS)
    await this.#closed
    clearTimeout(timer)
    const { exitCode, signalCode } = this.#child
    const isStopped = this.#isStopped && signalCode === 'SIGTERM'
    assert.ok(exitCode === 0 || isStopped, `${this.#name}: ${exitCode ?? signalCode}\n${this.#output}`)
    return this.#output
  }

  /** Sends SIGTERM to a program that has not ended by itself, and waits for its end. */
  async stop(): Promise<void> {
    if (!this.#hasEnded) this.#isStopped = this.#child.kill('SIGTERM')
    await this.ends()
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }
}
