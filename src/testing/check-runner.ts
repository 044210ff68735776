import { get } from 'node:http'
import { connect } from 'node:net'
import type { Check, CheckStatus } from './checks.js'

export interface CheckResult {
  status: CheckStatus
  output: string
}

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
    else void this.#run()
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
    const { kind, target } = this.#check
    const result = await (kind === 'tcp' ? probeTcp(target, probe.signal) : probeHttp(target, probe.signal))
    clearTimeout(timeout)
    if (this.#probe !== probe) return
    this.#report(result)
    this.#timer = setTimeout(() => void this.#run(), this.#check.intervalMs)
  }
}

function probeTcp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const colon = target.lastIndexOf(':')
  const host = target.slice(0, colon).replace(/^\[|\]$/g, '')
  const port = Number(target.slice(colon + 1))
  return new Promise((resolve) => {
    const settle = (status: CheckStatus, output: string): void => {
      socket.destroy()
      resolve({ status, output })
    }
    const socket = connect({ host, port, signal })
    socket.once('connect', () => {
      settle('passing', `TCP connect ${target}: Success`)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const reason = error.code === 'ECONNREFUSED' ? 'connect: connection refused' : error.message
      settle('critical', `dial tcp ${target}: ${reason}`)
    })
  })
}

function probeHttp(target: string, signal: AbortSignal): Promise<CheckResult> {
  return new Promise((resolve) => {
    const request = get(target, { signal, agent: false }, (response) => {
      const code = response.statusCode ?? 0
      const output = `HTTP GET ${target}: ${code} ${response.statusMessage ?? ''} Output: `
      const status = code >= 200 && code < 300 ? 'passing' : code === 429 ? 'warning' : 'critical'
      response.destroy()
      resolve({ status, output })
    })
    request.once('error', (error) => {
      resolve({ status: 'critical', output: `Get ${JSON.stringify(target)}: ${error.message}` })
    })
  })
}
