import { once } from 'node:events'
import { connect } from 'node:net'
import { systemClock } from '../../base/clock.js'
import { duration, string, struct, type Reader } from '../http/decode.js'
import { HttpError, isZero } from '../http/http.js'

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
interface Probe {
  /** `host:port`, a URL, or the ID of the service that an alias check follows. Empty for a TTL check. */
  readonly target: string
  /** The TTL, or the time between two probes. */
  readonly intervalMs: number
  readonly timeoutMs: number
}

function isCheckStatus(status: string): status is CheckStatus {
  return status === 'passing' || status === 'warning' || status === 'critical'
}

/** A check as a request defines it. */
export interface CheckDefinition {
  readonly check: Check
  readonly probe: Probe
}

type Names = Pick<Check, 'CheckID' | 'Name' | 'ServiceID'>

const readSettings = struct(
  {
    ID: string,
    CheckID: string,
    Name: string,
    Notes: string,
    ServiceID: string,
    Status: string,
    TTL: duration,
    TCP: string,
    HTTP: string,
    AliasService: string,
    Interval: duration,
    Timeout: duration,
  },
  // The embedded agent does not deregister critical services.
  ['DeregisterCriticalServiceAfter', 'OutputMaxSize', 'ProxyGRPC', 'ProxyHTTP', 'Shell', 'Token'],
)

type Settings = ReturnType<typeof readSettings>

/**
 * Reads a check in the registration of a service. Returns a function that adds the names of the service, or undefined for
 * a check without a value, which Consul treats as no check.
 */
export const readServiceCheck: Reader<((defaults: Names) => CheckDefinition) | undefined> = (
  value,
  field,
) => {
  const settings = readSettings(value, field)
  if (Object.values(settings).every(isZero)) return undefined
  return ({ CheckID, Name, ServiceID }) =>
    define({
      ...settings,
      CheckID: settings.CheckID || settings.ID || CheckID,
      Name: settings.Name || Name,
      ServiceID,
    })
}

/** Reads the body of `PUT /v1/agent/check/register`. */
export const readCheck: Reader<CheckDefinition> = (value, field) => {
  const settings = readSettings(value, field)
  if (settings.Name === '') throw new HttpError(400, 'Missing check name')
  return define({ ...settings, CheckID: settings.CheckID || settings.ID || settings.Name })
}

function define(settings: Settings): CheckDefinition {
  const { CheckID, Name, Notes, ServiceID, TTL, TCP, HTTP, AliasService, Interval } = settings
  const target = TCP || HTTP || AliasService
  if (Interval > 0 && TTL > 0) throw invalid('Interval and TTL cannot both be specified')
  if ((TCP || HTTP) && Interval <= 0) throw invalid('Interval must be > 0 for Script, HTTP, or TCP checks')
  if (target === '' && TTL <= 0) throw invalid('TTL must be > 0 for TTL checks')
  const Status = settings.Status || 'critical'
  if (!isCheckStatus(Status)) throw new HttpError(400, `Invalid check status: '${Status}'`)
  const Type = TCP ? 'tcp' : HTTP ? 'http' : AliasService ? 'alias' : 'ttl'
  return {
    check: { CheckID, Name, Status, Notes, Output: '', ServiceID, Type, CreateIndex: 0, ModifyIndex: 0 },
    probe: {
      target,
      intervalMs: target === '' ? TTL : Interval,
      timeoutMs: settings.Timeout || 10_000,
    },
  }
}

function invalid(problem: string): HttpError {
  return new HttpError(400, `Invalid check: ${problem}`)
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
    const { code, message } = error as NodeJS.ErrnoException
    const reason = code === 'ECONNREFUSED' ? 'connect: connection refused' : message
    return { Status: 'critical', Output: type === 'tcp' ? `dial tcp ${target}: ${reason}` : message }
  }
}

async function probeTcp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const { hostname, port } = new URL(`tcp://${target}`)
  const socket = connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port), signal })
  try {
    await once(socket, 'connect')
    return { Status: 'passing', Output: `TCP connect ${target}: Success` }
  } finally {
    socket.destroy()
  }
}

async function probeHttp(target: string, signal: AbortSignal): Promise<CheckResult> {
  const { status, statusText, body } = await fetch(target, { signal })
  await body?.cancel()
  const Status = status >= 200 && status < 300 ? 'passing' : status === 429 ? 'warning' : 'critical'
  return { Status, Output: `HTTP GET ${target}: ${status} ${statusText} Output: ` }
}
