import { systemClock } from '../../base/clock.js'
import {
  ConnectError,
  type DialAttempt,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../../base/errors.js'
import { formatHostPort } from '../../base/host-port.js'
import { log } from '../../base/log.js'
import type { Choice } from '../../resolve/balancer.js'
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

interface Attempt {
  readonly choice: Choice
  readonly address: string
  readonly startedAt: number
  readonly controller: AbortController
}

/**
 * Runs the connection attempts of one dial, possibly in parallel. The first attempt that completes its handshake wins;
 * all others are aborted.
 */
export class DialRace {
  /** Failed attempts, oldest first. Reported in the error of the dial. */
  readonly failures: DialAttempt[] = []
  readonly #pending = new Set<Attempt>()
  #winner: MeshSocket | undefined
  #winnerAddress: string | undefined
  #isFinished = false
  #notify: () => void = () => undefined

  get winner(): MeshSocket | undefined {
    return this.#winner
  }

  /** `host:port` of the winner. */
  get winnerAddress(): string | undefined {
    return this.#winnerAddress
  }

  /** The number of pending attempts. */
  get pending(): number {
    return this.#pending.size
  }

  /** Starts an attempt. */
  start(choice: Choice, connect: (signal: AbortSignal) => Promise<MeshSocket>): void {
    const attempt = {
      choice,
      address: formatHostPort(choice.endpoint),
      startedAt: performance.now(),
      controller: new AbortController(),
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

  /** Resolves after the next success, failure, or `finish()`, or after `timeoutMs`. */
  async nextChange(timeoutMs: number | undefined): Promise<void> {
    let cancelTimer: (() => void) | undefined
    await new Promise<void>((resolve) => {
      this.#notify = resolve
      if (timeoutMs !== undefined) cancelTimer = systemClock.after(timeoutMs, resolve)
    })
    cancelTimer?.()
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
      const elapsedMs = performance.now() - attempt.startedAt
      // A slow instance counts as failed if a later attempt overtook it or the deadline passed.
      const isSlow =
        elapsedMs >= MIN_BLAMED_SILENCE_MS && (reason === 'late' || attempt.startedAt < winnerStartedAt)
      if (isSlow && reason !== 'aborted') attempt.choice.failed()
      else attempt.choice.abandoned()
      const durationMs = Math.round(elapsedMs)
      const error = new TimeoutError(`connecting to ${attempt.address}`, durationMs)
      if (reason === 'late') this.failures.push({ address: attempt.address, error, durationMs })
      attempt.controller.abort(error)
    }
    this.#pending.clear()
    this.#notify()
  }

  #onConnected(attempt: Attempt, socket: MeshSocket): void {
    if (!this.#pending.delete(attempt) || this.#isFinished) {
      socket.destroy()
      return
    }
    log.dial('%s: connected to %s', attempt.address, socket.peer.spiffeId)
    onceDestroyed(socket, attempt.choice.connected())
    this.#winner = socket
    this.#winnerAddress = attempt.address
    this.finish('won', attempt.startedAt)
  }

  #onFailed(attempt: Attempt, error: Error): void {
    // finish() has already recorded aborted attempts.
    if (!this.#pending.delete(attempt)) return
    const durationMs = Math.round(performance.now() - attempt.startedAt)
    log.dial('%s: %s', attempt.address, messageOf(error))
    this.failures.push({ address: attempt.address, error, durationMs })
    if (isInstanceFault(error)) attempt.choice.failed()
    else attempt.choice.abandoned()
    this.#notify()
  }
}

/** Whether an error says something about the instance, so that the balancer should eject it. */
function isInstanceFault(error: Error): boolean {
  // Our own errors blame the peer only when they come from its certificate.
  if (error instanceof VerificationError || error instanceof SpiffeIdError) return true
  return !(error instanceof ConnectError) && !LOCAL_ERROR_CODES.has((error as NodeJS.ErrnoException).code)
}
