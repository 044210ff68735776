import type { Check, CheckResult } from './checks.js'
import { probe as runProbe } from './probes.js'

/**
 * Keeps one check going: lets a TTL run out, or probes at its interval. Also ends a service that stays critical
 * for longer than it may.
 */
export class CheckRunner {
  readonly #check: Check
  readonly #report: (result: CheckResult) => void
  readonly #expire: () => void
  #timer: NodeJS.Timeout | undefined
  #reaper: NodeJS.Timeout | undefined
  #probe: AbortController | undefined

  constructor(check: Check, on: { report: (result: CheckResult) => void; deregister: () => void }) {
    this.#check = check
    this.#report = on.report
    this.#expire = on.deregister
  }

  start(): void {
    this.statusChanged()
    if (this.#check.kind === 'ttl') this.heartbeat()
    else if (this.#check.kind !== 'alias') void this.#run()
  }

  stop(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#reaper)
    this.#reaper = undefined
    const probe = this.#probe
    // Its result is nobody's business any more.
    this.#probe = undefined
    probe?.abort()
  }

  /** A TTL check was heard of: its time starts again. */
  heartbeat(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      const { output } = this.#check
      const last = output === '' ? '' : ` (last output before timeout follows): ${output}`
      this.#report({ status: 'critical', output: `TTL expired${last}` })
    }, this.#check.intervalMs)
  }

  statusChanged(): void {
    const { status, deregisterAfterMs } = this.#check
    if (status !== 'critical') {
      clearTimeout(this.#reaper)
      this.#reaper = undefined
    } else if (deregisterAfterMs > 0) {
      this.#reaper ??= setTimeout(this.#expire, deregisterAfterMs)
    }
  }

  async #run(): Promise<void> {
    const probe = new AbortController()
    this.#probe = probe
    const timeout = setTimeout(() => {
      probe.abort()
    }, this.#check.timeoutMs)
    const result = await runProbe(this.#check, probe.signal)
    clearTimeout(timeout)
    if (this.#probe !== probe) return
    this.#report(result)
    this.#timer = setTimeout(() => void this.#run(), this.#check.intervalMs)
  }
}
