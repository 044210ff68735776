import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'

export type CheckStatus = 'passing' | 'warning' | 'critical'

interface HttpProbe {
  method: string
  headers: Record<string, string[]>
  body: string
  /** Accept any certificate. */
  tlsSkipVerify: boolean
}

export interface CheckDefinition {
  id: string
  name: string
  notes: string
  /** Empty for a check of the node itself. */
  serviceId: string
  initialStatus: CheckStatus
  kind: 'ttl' | 'tcp' | 'http' | 'alias'
  /** `host:port`, the URL, or the ID of the service that an alias check follows; empty for a TTL check. */
  target: string
  request: HttpProbe
  /** The TTL, or the time between two probes. */
  intervalMs: number
  timeoutMs: number
  /** Deregister the service after it was critical for this time; 0 never. */
  deregisterAfterMs: number
}

export interface CheckResult {
  status: CheckStatus
  output: string
}

/** A check that the agent runs. */
export interface Check extends CheckDefinition, CheckResult {
  createIndex: number
  modifyIndex: number
}

/** A check as the catalog shows it. */
export interface CatalogCheck extends Pick<
  Check,
  'id' | 'name' | 'notes' | 'output' | 'serviceId' | 'status'
> {
  kind: string
  createIndex: number
  modifyIndex: number
}

export function isCheckStatus(status: string): status is CheckStatus {
  return status === 'passing' || status === 'warning' || status === 'critical'
}

/**
 * Runs one check: expires a TTL, or probes at the interval. Deregisters the service if it stays critical for longer than
 * the check allows.
 */
export class CheckRunner {
  readonly #check: Check
  readonly #report: (result: CheckResult) => void
  readonly #deregister: () => void
  #timer: NodeJS.Timeout | undefined
  #reaper: NodeJS.Timeout | undefined
  #probe: AbortController | undefined

  constructor(check: Check, on: { report: (result: CheckResult) => void; deregister: () => void }) {
    this.#check = check
    this.#report = on.report
    this.#deregister = on.deregister
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
    // The result of an aborted probe is not reported.
    this.#probe = undefined
    probe?.abort()
  }

  /** Restarts the time of a TTL check. */
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
      this.#reaper ??= setTimeout(this.#deregister, deregisterAfterMs)
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

/** Probes once. Every failure is a result, including an invalid target. */
async function runProbe(check: CheckDefinition, signal: AbortSignal): Promise<CheckResult> {
  try {
    return await (check.kind === 'tcp' ? probeTcp(check, signal) : probeHttp(check, signal))
  } catch (error) {
    return { status: 'critical', output: error instanceof Error ? error.message : String(error) }
  }
}

function probeTcp({ target }: CheckDefinition, signal: AbortSignal): Promise<CheckResult> {
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

function probeHttp({ target, request: how }: CheckDefinition, signal: AbortSignal): Promise<CheckResult> {
  const method = how.method || 'GET'
  const options = { method, headers: how.headers, signal, agent: false }
  return new Promise((resolve) => {
    const request = target.startsWith('https:')
      ? httpsRequest(target, { ...options, rejectUnauthorized: !how.tlsSkipVerify })
      : httpRequest(target, options)
    request.once('response', (response) => {
      const code = response.statusCode ?? 0
      const output = `HTTP ${method} ${target}: ${code} ${response.statusMessage ?? ''} Output: `
      const status = code >= 200 && code < 300 ? 'passing' : code === 429 ? 'warning' : 'critical'
      response.destroy()
      resolve({ status, output })
    })
    request.once('error', (error) => {
      resolve({ status: 'critical', output: `Get ${JSON.stringify(target)}: ${error.message}` })
    })
    request.end(how.body)
  })
}
