import { connect } from 'node:net'
import { systemClock } from '../../base/clock.js'

export type CheckStatus = 'passing' | 'warning' | 'critical'

export interface CheckResult {
  Status: CheckStatus
  Output: string
}

/** A check as the catalog shows it. */
export interface Check extends CheckResult {
  readonly CheckID: string
  readonly Name: string
  readonly Notes: string
  /** Empty for a check of the node. */
  readonly ServiceID: string
  readonly Type: '' | 'ttl' | 'tcp' | 'http' | 'alias'
  CreateIndex: number
  ModifyIndex: number
}

/** How the agent determines the status of a check. */
export interface Probe {
  /** `host:port`, a URL, or the ID of the service that an alias check follows. Empty for a TTL check. */
  readonly target: string
  /** The TTL, or the time between two probes. */
  readonly intervalMs: number
  readonly timeoutMs: number
}

export function isCheckStatus(status: string): status is CheckStatus {
  return status === 'passing' || status === 'warning' || status === 'critical'
}

/** Runs one check: expires a TTL, or probes at the interval. */
export class CheckRunner {
  readonly #check: Check
  readonly #probe: Probe
  readonly #onResult: (result: CheckResult) => void
  #cancelTimer: (() => void) | undefined
  /** Aborts the current probe. The result of a probe is dropped after `stop`. */
  #running: AbortController | undefined

  constructor(check: Check, probe: Probe, onResult: (result: CheckResult) => void) {
    this.#check = check
    this.#probe = probe
    this.#onResult = onResult
  }

  start(): void {
    if (this.#check.Type === 'ttl') this.heartbeat()
    else if (this.#check.Type !== 'alias') void this.#run()
  }

  stop(): void {
    this.#cancelTimer?.()
    const running = this.#running
    this.#running = undefined
    running?.abort()
  }

  /** Restarts the TTL. */
  heartbeat(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = systemClock.after(this.#probe.intervalMs, () => {
      const { Output } = this.#check
      const last = Output === '' ? '' : ` (last output before timeout follows): ${Output}`
      this.#onResult({ Status: 'critical', Output: `TTL expired${last}` })
    })
  }

  async #run(): Promise<void> {
    const running = new AbortController()
    this.#running = running
    const cancelTimeout = systemClock.after(this.#probe.timeoutMs, () => {
      running.abort()
    })
    const result = await runProbe(this.#check.Type, this.#probe.target, running.signal)
    cancelTimeout()
    if (this.#running !== running) return
    this.#onResult(result)
    this.#cancelTimer = systemClock.after(this.#probe.intervalMs, () => void this.#run())
  }
}

/** Probes an HTTP or TCP target once. Every failure is a result, including an invalid target. */
async function runProbe(type: Check['Type'], target: string, signal: AbortSignal): Promise<CheckResult> {
  try {
    return await (type === 'tcp' ? probeTcp(target, signal) : probeHttp(target, signal))
  } catch (error) {
    return { Status: 'critical', Output: error instanceof Error ? error.message : String(error) }
  }
}

function probeTcp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const colon = target.lastIndexOf(':')
  const host = target.slice(0, colon).replace(/^\[|\]$/g, '')
  const port = Number(target.slice(colon + 1))
  return new Promise((resolve) => {
    const settle = (result: CheckResult): void => {
      socket.destroy()
      resolve(result)
    }
    const socket = connect({ host, port, signal })
    socket.once('connect', () => {
      settle({ Status: 'passing', Output: `TCP connect ${target}: Success` })
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const reason = error.code === 'ECONNREFUSED' ? 'connect: connection refused' : error.message
      settle({ Status: 'critical', Output: `dial tcp ${target}: ${reason}` })
    })
  })
}

async function probeHttp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const { status, statusText, body } = await fetch(target, { signal })
  await body?.cancel()
  const Status = status >= 200 && status < 300 ? 'passing' : status === 429 ? 'warning' : 'critical'
  return { Status, Output: `HTTP GET ${target}: ${status} ${statusText} Output: ` }
}
