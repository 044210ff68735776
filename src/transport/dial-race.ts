import { systemClock } from '../base/clock.js'
import {
  ConnectError,
  type DialAttempt,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../base/errors.js'
import { formatHostPort } from '../base/host-port.js'
import { log } from '../base/log.js'
import type { Choice } from '../resolve/balancer.js'
import { onceDestroyed } from '../sockets/open-sockets.js'
import type { MeshSocket } from './mesh-socket.js'

/** An instance that was silent for less has proved nothing: it may only have been the caller who was in a hurry. */
const SHORTEST_SILENCE_MS = 500

/** What is said of us and not of the instance. */
const OWN_FAULTS: ReadonlySet<string | undefined> = new Set([
  'EMFILE',
  'ENFILE',
  'ENOBUFS',
  'ENOMEM',
  'EADDRNOTAVAIL',
  'EACCES',
  'EPERM',
  // It speaks other protocols than those that we offered.
  'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL',
])

interface Attempt {
  readonly choice: Choice
  readonly address: string
  readonly startedAt: number
  readonly stop: AbortController
}

/** The tries of one dial, which may run side by side. The first that proves itself wins, and ends the others. */
export class DialRace {
  /** Those that failed, in the order in which they did. */
  readonly attempts: DialAttempt[] = []
  readonly #underWay = new Set<Attempt>()
  #winner: MeshSocket | undefined
  #winnerAddress: string | undefined
  #hasEnded = false
  #wake: () => void = () => undefined

  get winner(): MeshSocket | undefined {
    return this.#winner
  }

  /** `host:port` of the winner. */
  get winnerAddress(): string | undefined {
    return this.#winnerAddress
  }

  get underWay(): number {
    return this.#underWay.size
  }

  begin(choice: Choice, open: (signal: AbortSignal) => Promise<MeshSocket>): void {
    const one = {
      choice,
      address: formatHostPort(choice.endpoint),
      startedAt: performance.now(),
      stop: new AbortController(),
    }
    this.#underWay.add(one)
    open(one.stop.signal).then(
      (socket) => {
        this.#succeeded(one, socket)
      },
      (error: unknown) => {
        this.#failed(one, toError(error))
      },
    )
  }

  /** Resolves when something has come of one of them, when all are ended, or after `ms`. */
  async news(ms: number | undefined): Promise<void> {
    let cancel: (() => void) | undefined
    await new Promise<void>((resolve) => {
      this.#wake = resolve
      if (ms !== undefined) cancel = systemClock.after(ms, resolve)
    })
    cancel?.()
  }

  /** Ends those that are under way; when the time is over, each is an attempt that was too slow. */
  end(why: 'won' | 'late' | 'aborted', since: number = performance.now()): void {
    this.#hasEnded = true
    for (const one of this.#underWay) {
      const silentMs = performance.now() - one.startedAt
      // One that was overtaken by a later one, or by the deadline, might as well not be there.
      const isSilent = silentMs >= SHORTEST_SILENCE_MS && (why === 'late' || one.startedAt < since)
      if (isSilent && why !== 'aborted') one.choice.failed()
      else one.choice.abandoned()
      const durationMs = Math.round(silentMs)
      const error = new TimeoutError(`connecting to ${one.address}`, durationMs)
      if (why === 'late') this.attempts.push({ address: one.address, error, durationMs })
      one.stop.abort(error)
    }
    this.#underWay.clear()
    this.#wake()
  }

  #succeeded(one: Attempt, socket: MeshSocket): void {
    if (!this.#underWay.delete(one) || this.#hasEnded) {
      socket.destroy()
      return
    }
    log.dial('%s: connected to %s', one.address, socket.peer.spiffeId)
    onceDestroyed(socket, one.choice.connected())
    this.#winner = socket
    this.#winnerAddress = one.address
    this.end('won', one.startedAt)
  }

  #failed(one: Attempt, error: Error): void {
    // Of one that was ended all has been said.
    if (!this.#underWay.delete(one)) return
    const durationMs = Math.round(performance.now() - one.startedAt)
    log.dial('%s: %s', one.address, messageOf(error))
    this.attempts.push({ address: one.address, error, durationMs })
    if (isItsFault(error)) one.choice.failed()
    else one.choice.abandoned()
    this.#wake()
  }
}

function isItsFault(error: Error): boolean {
  // Of our own errors only those say something of the peer that come from its certificate.
  if (error instanceof VerificationError || error instanceof SpiffeIdError) return true
  return !(error instanceof ConnectError) && !OWN_FAULTS.has((error as NodeJS.ErrnoException).code)
}
