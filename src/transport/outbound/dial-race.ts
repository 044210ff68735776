import { systemClock } from '../../base/clock.js'
import {
  ConnectError,
  type DialAttempt,
  type DialTarget,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../../base/errors.js'
import { formatHostPort } from '../../base/host-port.js'
import { log } from '../../base/log.js'
import type { Choice } from '../../resolve/balancing/balancer.js'
import type { Endpoint } from '../../resolve/resolver.js'
import { onceDestroyed } from '../../sockets/destruction.js'
import type { MeshSocket } from '../mesh-socket.js'

/** Attempts shorter than this are not held against the instance: the caller may have set a short deadline. */
const MIN_BLAMED_SILENCE_MS = 500

/** Error codes caused by this process or host, not by the instance that is dialed. */
const LOCAL_ERROR_CODES: ReadonlySet<string | undefined> = new Set([
  'EMFILE',
  'ENFILE',
  'ENOBUFS',
  'ENOMEM',
  'EADDRNOTAVAIL',
  'EACCES',
  'EPERM',
  // The peer supports none of the ALPN protocols that we offered.
  'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL',
])

/** A connection, and the endpoint that it leads to. */
export interface Dialed {
  readonly socket: MeshSocket
  readonly endpoint: Endpoint
}

interface Attempt {
  readonly choice: Choice
  readonly address: string
  readonly target: DialTarget
  readonly startedAt: number
  readonly controller: AbortController
  readonly cancelTimer: () => void
}

/** An attempt took longer than the connect timeout of the service, which counts as a failure of the instance. */
class AttemptTimeoutError extends Error {
  constructor(address: string, timeoutMs: number) {
    super(`connecting to ${address} took longer than the connect timeout of the service (${timeoutMs} ms)`)
  }
}

/**
 * Runs the connection attempts of one dial, possibly in parallel. The first attempt that completes its handshake wins;
 * all others are aborted.
 */
export class DialRace {
  /** Failed attempts, oldest first. Reported in the error of the dial. */
  readonly failures: DialAttempt[] = []
  readonly #pending = new Set<Attempt>()
  #winner: Dialed | undefined
  #winningAttempt: Attempt | undefined
  #isFinished = false
  #notify: () => void = () => undefined

  get winner(): Dialed | undefined {
    return this.#winner
  }

  /** `host:port` and the target of the winner. */
  get winnerPlace(): Pick<Attempt, 'address' | 'target'> | undefined {
    return this.#winningAttempt
  }

  /** The number of pending attempts. */
  get pending(): number {
    return this.#pending.size
  }

  /**
   * Starts an attempt.
   * @param timeoutMs - how long it may take. @default no limit of its own
   */
  start(choice: Choice, connect: (signal: AbortSignal) => Promise<MeshSocket>, timeoutMs?: number): void {
    const controller = new AbortController()
    const address = formatHostPort(choice.endpoint)
    const attempt: Attempt = {
      choice,
      address,
      target: targetOf(choice.endpoint),
      startedAt: performance.now(),
      controller,
      cancelTimer:
        timeoutMs === undefined
          ? () => undefined
          : systemClock.after(timeoutMs, () => {
              controller.abort(new AttemptTimeoutError(address, timeoutMs))
            }),
    }
    this.#pending.add(attempt)
    connect(attempt.controller.signal).then(
      (socket) => {
        this.#onConnected(attempt, socket)
      },
      (error: unknown) => {
        this.#onFailed(attempt, toError(error))
      },
    )
  }

  /**
   * Waits for the next success, failure, or `finish()`, or until `timeoutMs` have passed.
   * @returns whether the time passed
   */
  async nextChange(timeoutMs: number | undefined): Promise<boolean> {
    let cancelTimer: (() => void) | undefined
    const isLate = await new Promise<boolean>((resolve) => {
      this.#notify = () => {
        resolve(false)
      }
      if (timeoutMs !== undefined) {
        cancelTimer = systemClock.after(timeoutMs, () => {
          resolve(true)
        })
      }
    })
    cancelTimer?.()
    return isLate
  }

  /** Waits for a promise until the race is finished. @returns undefined if that is sooner */
  async untilFinished<T>(promise: Promise<T>): Promise<T | undefined> {
    const results: T[] = []
    const done = promise.then((value) => {
      results.push(value)
    })
    // A rejection after the end of the race must not end the process.
    done.catch(() => undefined)
    while (results.length === 0 && !this.#isFinished) await Promise.race([done, this.nextChange(undefined)])
    return results[0]
  }

  /**
   * Aborts all pending attempts.
   * @param reason - `won`: another attempt succeeded; `late`: the deadline of the dial passed, and each pending attempt
   *   counts as a failure; `aborted`: the signal of the caller fired
   * @param winnerStartedAt - when the winner was started, by `performance.now()`
   */
  finish(reason: 'won' | 'late' | 'aborted', winnerStartedAt: number = performance.now()): void {
    this.#isFinished = true
    for (const attempt of this.#pending) {
      attempt.cancelTimer()
      const elapsedMs = performance.now() - attempt.startedAt
      // A slow instance counts as failed if a later attempt overtook it or the deadline passed.
      const isSlow =
        elapsedMs >= MIN_BLAMED_SILENCE_MS && (reason === 'late' || attempt.startedAt < winnerStartedAt)
      if (isSlow && reason !== 'aborted') attempt.choice.failed()
      else attempt.choice.abandoned()
      const durationMs = Math.round(elapsedMs)
      const error = new TimeoutError(`connecting to ${attempt.address}`, durationMs)
      if (reason === 'late') this.#record(attempt, error, durationMs)
      attempt.controller.abort(error)
    }
    this.#pending.clear()
    this.#notify()
  }

  #onConnected(attempt: Attempt, socket: MeshSocket): void {
    attempt.cancelTimer()
    if (!this.#pending.delete(attempt) || this.#isFinished) {
      socket.destroy()
      return
    }
    log.dial('%s: connected to %s', attempt.address, socket.peer.spiffeId)
    onceDestroyed(socket, attempt.choice.connected())
    this.#winner = { socket, endpoint: attempt.choice.endpoint }
    this.#winningAttempt = attempt
    this.finish('won', attempt.startedAt)
  }

  #onFailed(attempt: Attempt, error: Error): void {
    attempt.cancelTimer()
    // finish() has already recorded aborted attempts.
    if (!this.#pending.delete(attempt)) return
    const durationMs = Math.round(performance.now() - attempt.startedAt)
    log.dial('%s: %s', attempt.address, messageOf(error))
    this.#record(attempt, error, durationMs)
    if (isInstanceFault(error)) attempt.choice.failed()
    else attempt.choice.abandoned()
    this.#notify()
  }

  #record({ address, target }: Attempt, error: Error, durationMs: number): void {
    this.failures.push({ address, target, error, durationMs })
  }
}

function targetOf({ identity, subset }: Endpoint): DialTarget {
  const { service, namespace, partition, datacenter } = identity
  return { service, subset, namespace, partition, datacenter }
}

/** Whether an error says something about the instance, so that the balancer should eject it. */
function isInstanceFault(error: Error): boolean {
  // Our own errors blame the peer only when they come from its certificate.
  if (error instanceof VerificationError || error instanceof SpiffeIdError) return true
  return !(error instanceof ConnectError) && !LOCAL_ERROR_CODES.has((error as NodeJS.ErrnoException).code)
}
