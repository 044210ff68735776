// The parent's end of program.ts.
import { type ChildProcess, fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { TestContext } from 'node:test'
import type { Command, DialResult, Report } from './program.js'
import type { RealAgent } from './real-agent.js'
import { WAIT_MS } from './service-mesh.js'

type Order = Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never

/** One service of the mesh in a process of its own. */
export class Program {
  /** What it has told of its listener, in order. */
  readonly handled: string[] = []
  readonly denied: Extract<Report, { event: 'denied' }>[] = []
  readonly warnings: string[] = []
  readonly #child: ChildProcess
  readonly #answers = new EventEmitter()
  #calls = 0

  private constructor(child: ChildProcess) {
    this.#child = child
    child.on('message', (report: Report) => {
      if ('id' in report) this.#answers.emit(String(report.id), report)
      else if (report.event === 'handled') this.handled.push(report.peer)
      else if (report.event === 'denied') this.denied.push(report)
      else this.warnings.push(report.message)
      this.#answers.emit('told')
    })
  }

  static start(t: TestContext, consul: RealAgent, name: string): Program {
    const child = fork(fileURLToPath(new URL('program.ts', import.meta.url)), [name, consul.address], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    t.after(() => stop(child))
    return new Program(child)
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  async offer(): Promise<number> {
    return (await this.#call({ call: 'offer' })) as number
  }

  async dial(upstream: string, say = 'a word'): Promise<DialResult> {
    return (await this.#call({ call: 'dial', upstream, say })) as DialResult
  }

  /** Closes the service, and waits for the process to end by itself: nothing may be left that keeps it alive. */
  async close(): Promise<number | null> {
    const exited = once(this.#child, 'exit', { signal: AbortSignal.timeout(WAIT_MS) })
    await this.#call({ call: 'close' })
    return ((await exited) as [number | null])[0]
  }

  /** SIGKILL, as a crash. */
  kill(): Promise<void> {
    return stop(this.#child)
  }

  /** Resolves when what it has told makes `met` true. */
  async told(met: () => boolean): Promise<void> {
    const signal = AbortSignal.timeout(WAIT_MS)
    while (!met()) await once(this.#answers, 'told', { signal })
  }

  async #call(order: Order): Promise<unknown> {
    this.#calls += 1
    const id = this.#calls
    const answered = once(this.#answers, String(id), { signal: AbortSignal.timeout(WAIT_MS) })
    this.#child.send({ ...order, id })
    const [report] = (await answered) as [Extract<Report, { id: number }>]
    if ('error' in report) throw Object.assign(new Error(report.error.message), { code: report.error.code })
    return report.result
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
