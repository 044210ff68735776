import { type Dispatcher, errors } from 'undici'
import type { Time } from '../../base/clock.js'
import { ClosedError, TimeoutError, toError } from '../../base/errors.js'
import type { Routes } from '../../resolve/chain/routes.js'
import type { RequestChoice } from '../../resolve/balancing/balancer.js'
import type { Endpoint } from '../../resolve/resolver.js'
import { type RawHeaders, linesOf, valueOf } from '../header-lines.js'
import { Attempt, type AttemptedRequest } from './attempt.js'
import { type ClassicHandler, toUndici } from './classic-handler.js'
import { ReplayedBody, isStream } from './replayed-body.js'
import type { RequestLeg } from './request-leg.js'
import { type Failure, retriesFailure, retriesResponse, retryPauseMs } from './retry.js'
import { type Decision, changedHeaders } from './route-table.js'

/** Where a request goes. */
export interface Destination {
  readonly decision: Decision
  readonly leg: RequestLeg
  /** The routes by which the request was decided; undefined without routes. */
  readonly routes: Routes | undefined
}

/** What all requests of an origin need. */
export interface RequestContext {
  /** The name of the upstream, for messages. */
  readonly name: string
  readonly time: Time
  /** Sends a request to an instance. */
  readonly send: (
    leg: RequestLeg,
    endpoint: Endpoint,
    options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ) => void
  /** Decides a request again if the routes have changed; undefined if they have not. */
  readonly reroute: (request: RoutedRequest) => Promise<Destination> | undefined
  readonly onEnded: (request: RoutedRequest) => void
}

/** Upper bound on the reroutes of a request. */
const MAX_REROUTES = 3

/** Errors by which undici refuses a request. */
const REFUSED_BY_CLIENT =
  /^UND_ERR_(?:INVALID_ARG|NOT_SUPPORTED|CLOSED|DESTROYED|ABORTED|REQ_CONTENT_LENGTH_MISMATCH)$/

/** A request that follows a route: sent to an instance, within its time, and sent again as the route says. */
export class RoutedRequest implements AttemptedRequest {
  readonly options: Dispatcher.DispatchOptions
  readonly #context: RequestContext
  readonly #handler: ClassicHandler
  /** Undefined for a body that can be sent as often as needed. */
  readonly #body: ReplayedBody | undefined
  /** The instances of earlier attempts. */
  #tried: Set<object> | undefined
  readonly #cancels: (() => void)[] = []
  #destination: Destination
  #attempt: Attempt | undefined
  #retries = 0
  #reroutes = 0
  #isStarted = false
  /** Set after a failure that must not be retried. */
  #isFailing = false
  #isEnded = false
  #isTimeoutStarted = false
  #activeAt = 0

  constructor(
    context: RequestContext,
    options: Dispatcher.DispatchOptions,
    handler: ClassicHandler,
    destination: Destination,
  ) {
    this.options = options
    this.#context = context
    this.#handler = handler
    this.#destination = destination
    if (!isStream(options.body)) return
    const onSent = (): void => {
      this.#startTimeout()
    }
    this.#body = new ReplayedBody(options.body, onSent, destination.decision.rules.retry !== undefined)
  }

  get destination(): Destination {
    return this.#destination
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  start(): void {
    this.#enter()
    this.#startIdleTimeout()
    this.#followSignal()
    if (!this.#isEnded) this.#try()
  }

  /** Ends the request with an error, unless it has ended. */
  fail(error: Error): void {
    if (this.#isEnded) return
    this.#isFailing = true
    if (this.#attempt?.abort(error) === true) return
    this.end()
    this.#handler.onError(error)
  }

  /** Called when an attempt is on a connection. */
  connected(context: unknown): void {
    this.touch()
    if (this.#isStarted) return
    this.#isStarted = true
    try {
      this.#handler.onConnect((reason) => {
        this.fail(reason ?? new errors.RequestAbortedError())
      }, context)
    } catch (error) {
      // undici ends the attempt with it.
      this.#isFailing = true
      throw error
    }
  }

  /** Notes that bytes were sent or received. */
  touch(): void {
    if (this.#destination.decision.rules.idleTimeoutMs !== Infinity)
      this.#activeAt = this.#context.time.clock.now()
  }

  /** Schedules a retry if the policy retries this response. @returns whether it did */
  tryRetryResponse(status: number, headers: RawHeaders): boolean {
    const { retry } = this.#destination.decision.rules
    if (retry === undefined || !retriesResponse(retry, status, (name) => valueOf(headers, name))) return false
    return this.#retryLater()
  }

  /** Schedules a retry if the policy retries this failure. @returns whether it did */
  tryRetryFailure(error: Error, failure: Failure): boolean {
    const { retry } = this.#destination.decision.rules
    if (retry === undefined || this.#isFailing || this.#isEnded || error instanceof ClosedError) return false
    // The caller has aborted a request that waited for a connection.
    const { signal } = this.options as { readonly signal?: unknown }
    if (signal instanceof AbortSignal && signal.aborted) return false
    if (REFUSED_BY_CLIENT.test((error as NodeJS.ErrnoException).code ?? '')) return false
    return retriesFailure(retry, failure) && this.#retryLater()
  }

  /** The response headers as the route changes them. */
  responseHeaders(headers: RawHeaders): RawHeaders {
    const { responseChanges, cookies } = this.#destination.decision
    if (responseChanges.length === 0 && cookies.length === 0) return headers
    const lines = changedHeaders(linesOf(headers), responseChanges)
    const added = cookies.flatMap((cookie) => ['set-cookie', cookie])
    return [...lines, ...added].map((item) => Buffer.from(item, 'latin1'))
  }

  /** Decides the request again if the routes have changed before it was sent. @returns whether it does */
  tryReroute(): boolean {
    if (this.#isFailing || this.#isEnded || this.#reroutes >= MAX_REROUTES) return false
    const deciding = this.#context.reroute(this)
    if (deciding === undefined) return false
    this.#reroutes += 1
    this.#attempt = undefined
    deciding.then(
      (destination) => {
        if (this.#isEnded) return
        this.#leave()
        this.#destination = destination
        this.#enter()
        this.#try()
      },
      (error: unknown) => {
        this.fail(toError(error))
      },
    )
    return true
  }

  /** Called when the request has ended, before its handler learns it. */
  end(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    for (const cancel of this.#cancels) cancel()
    this.#body?.dispose()
    this.#leave()
    this.#context.onEnded(this)
  }

  #enter(): void {
    const { leg } = this.#destination
    leg.pending += 1
    if (this.#retries > 0) leg.retrying += 1
  }

  #leave(): void {
    const { leg } = this.#destination
    leg.pending -= 1
    if (this.#retries > 0) leg.retrying -= 1
  }

  #try(): void {
    const { leg, decision } = this.#destination
    // Nothing is remembered for a request that has one attempt.
    if (decision.rules.retry !== undefined) this.#tried ??= new Set()
    const choice = leg.choose(this.#tried, decision.hash)
    if (!(choice instanceof Promise)) {
      this.#send(choice)
      return
    }
    choice.then(
      (chosen) => {
        if (this.#isEnded) chosen.end()
        else this.#send(chosen)
      },
      (thrown: unknown) => {
        const error = toError(thrown)
        if (this.#isEnded || this.tryReroute() || this.tryRetryFailure(error, 'not connected')) return
        this.end()
        this.#handler.onError(error)
      },
    )
  }

  #send(choice: RequestChoice): void {
    const { leg, decision } = this.#destination
    const attempt = new Attempt(this, this.#handler, choice, this.#retries === 0)
    this.#attempt = attempt
    try {
      if (this.#body === undefined) this.#startTimeout()
      this.#context.send(leg, choice.endpoint, this.#optionsOf(decision), toUndici(attempt))
    } catch (error) {
      choice.end()
      this.fail(toError(error))
    }
  }

  /** Returns the options of an attempt: those of the caller, if nothing differs. */
  #optionsOf({ path, headers }: Decision): Dispatcher.DispatchOptions {
    const { options } = this
    if (headers === undefined && path === options.path && this.#body === undefined) return options
    const sent: Record<string, unknown> = { ...options, path }
    // It is in the path.
    delete sent['query']
    if (headers !== undefined) sent['headers'] = [...headers]
    if (this.#body !== undefined) sent['body'] = this.#body.next() ?? null
    return sent as unknown as Dispatcher.DispatchOptions
  }

  #retryLater(): boolean {
    const { time } = this.#context
    const { leg, decision } = this.#destination
    const most = decision.rules.retry?.most ?? 0
    if (this.#retries >= most || this.#body?.isReplayable === false) return false
    if (this.#retries === 0) {
      if (!leg.mayRetry) return false
      leg.retrying += 1
    }
    this.#retries += 1
    this.#attempt = undefined
    this.#body?.stop()
    this.#after(retryPauseMs(this.#retries, time.random), () => {
      this.#try()
    })
    return true
  }

  /** Follows the signal of the request. undici does so only from the connection on. */
  #followSignal(): void {
    const { signal } = this.options as { readonly signal?: unknown }
    if (!(signal instanceof AbortSignal)) return
    const onAbort = (): void => {
      this.fail(toError(signal.reason))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    this.#cancels.push(() => {
      signal.removeEventListener('abort', onAbort)
    })
    if (signal.aborted) onAbort()
  }

  /** Limits the time from the last byte of the request to the last byte of the response. */
  #startTimeout(): void {
    if (this.#isTimeoutStarted) return
    this.#isTimeoutStarted = true
    const { requestTimeoutMs } = this.#destination.decision.rules
    // The timeout does not apply to upgraded connections.
    if (requestTimeoutMs === Infinity || this.options.upgrade !== undefined || this.#isEnded) return
    this.#after(requestTimeoutMs, () => {
      this.fail(new TimeoutError(`request to ${this.#context.name}`, requestTimeoutMs))
    })
  }

  /** Limits the time without a byte. */
  #startIdleTimeout(): void {
    const { idleTimeoutMs } = this.#destination.decision.rules
    if (idleTimeoutMs === Infinity) return
    const { clock } = this.#context.time
    this.#activeAt = clock.now()
    const check = (): void => {
      const leftMs = this.#activeAt + idleTimeoutMs - clock.now()
      if (leftMs > 0) this.#after(leftMs, check)
      else this.fail(new TimeoutError(`idle request to ${this.#context.name}`, idleTimeoutMs))
    }
    this.#after(idleTimeoutMs, check)
  }

  #after(ms: number, callback: () => void): void {
    this.#cancels.push(this.#context.time.clock.after(ms, callback))
  }
}
