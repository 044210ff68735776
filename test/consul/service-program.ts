// The parent process of program.ts.
import { type ChildProcess, fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { stopChild } from './child-process.js'
import type { Command, DialResult, Report } from './program.js'
import type { RealAgent } from './real-agent.js'
import { WAIT_MS } from './service-mesh.js'

type Call = Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never

/** A service in a separate process. */
export class Program {
  /** The SPIFFE IDs of the peers whose connections were handled, oldest first. */
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
      this.#answers.emit('report')
    })
  }

  static start(t: TestContext, consul: RealAgent, name: string): Program {
    const child = fork(fileURLToPath(new URL('program.ts', import.meta.url)), [name, consul.address], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    t.after(() => stopChild(child))
    return new Program(child)
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  async offer(): Promise<number> {
    return (await this.#call({ call: 'offer' })) as number
  }

  async dial(upstream: string, message = 'hello'): Promise<DialResult> {
    return (await this.#call({ call: 'dial', upstream, message })) as DialResult
  }

  /** Closes the service and waits until the process exits without a signal: no open resource may keep it alive. */
  async close(): Promise<number | null> {
    const exited = once(this.#child, 'exit', { signal: AbortSignal.timeout(WAIT_MS) })
    await this.#call({ call: 'close' })
    return ((await exited) as [number | null])[0]
  }

  /** Waits for reports until the condition is true. */
  async reported(condition: () => boolean): Promise<void> {
    const signal = AbortSignal.timeout(WAIT_MS)
    while (!condition()) await once(this.#answers, 'report', { signal })
  }

  async #call(call: Call): Promise<unknown> {
    this.#calls += 1
    const id = this.#calls
    const answered = once(this.#answers, String(id), { signal: AbortSignal.timeout(WAIT_MS) })
    this.#child.send({ ...call, id })
    const [report] = (await answered) as [Extract<Report, { id: number }>]
    if ('error' in report) throw Object.assign(new Error(report.error.message), { code: report.error.code })
    return report.result
  }
}
