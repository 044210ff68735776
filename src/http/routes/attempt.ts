import type { Duplex } from 'node:stream'
import type { RequestChoice } from '../../resolve/balancing/balancer.js'
import type { RawHeaders } from '../header-lines.js'
import type { ClassicHandler } from './classic-handler.js'
import type { Failure } from './retry.js'

/** What an attempt tells its request, and asks it. */
export interface AttemptedRequest {
  readonly isEnded: boolean
  /** The attempt is on a connection. */
  connected(context: unknown): void
  /** Bytes were sent or received. */
  touch(): void
  /** Schedules a retry if the policy retries this response. @returns whether it did */
  tryRetryResponse(status: number, headers: RawHeaders): boolean
  /** Schedules a retry if the policy retries this failure. @returns whether it did */
  tryRetryFailure(error: Error, failure: Failure): boolean
  /** Decides the request again if the routes have changed before it was sent. @returns whether it does */
  tryReroute(): boolean
  /** The response headers as the route changes them. */
  responseHeaders(headers: RawHeaders): RawHeaders
  /** The request has ended; its handler learns it next. */
  end(): void
}

/** Upper bound on the discarded body. A longer one aborts the attempt, whose connection is then not used again. */
const MAX_DISCARDED = 65_536

/** One attempt to send a request. */
export class Attempt implements ClassicHandler {
  readonly #request: AttemptedRequest
  readonly #handler: ClassicHandler
  readonly #choice: RequestChoice
  readonly #isFirst: boolean
  #abort: ((reason?: Error) => void) | undefined
  /** Set when the response is passed to the handler. */
  #hasResponse = false
  #isSuperseded = false
  #discarded = 0
  #isComplete = false

  constructor(request: AttemptedRequest, handler: ClassicHandler, choice: RequestChoice, isFirst: boolean) {
    this.#request = request
    this.#handler = handler
    this.#choice = choice
    this.#isFirst = isFirst
  }

  /** Aborts the attempt; its error ends the request. @returns false if it is not on a connection */
  abort(error: Error): boolean {
    if (this.#abort === undefined) return false
    this.#abort(error)
    return true
  }

  onConnect(abort: (reason?: Error) => void, context: unknown): void {
    if (this.#request.isEnded) {
      abort()
      return
    }
    this.#abort = abort
    this.#request.connected(context)
  }

  onHeaders(status: number, headers: RawHeaders, resume: () => void, statusText: string): boolean {
    this.#request.touch()
    if (status < 200) return this.#handler.onHeaders(status, headers, resume, statusText)
    if (this.#request.tryRetryResponse(status, headers)) {
      this.#isSuperseded = true
      return true
    }
    this.#hasResponse = true
    return this.#handler.onHeaders(status, this.#request.responseHeaders(headers), resume, statusText)
  }

  onData(chunk: Buffer): boolean {
    if (this.#isSuperseded) {
      this.#discarded += chunk.length
      if (this.#discarded > MAX_DISCARDED) this.#abort?.()
      return true
    }
    this.#request.touch()
    return this.#handler.onData(chunk)
  }

  onComplete(trailers: RawHeaders | null): void {
    this.#choice.end()
    if (this.#isSuperseded) return
    this.#isComplete = true
    this.#request.end()
    this.#handler.onComplete(trailers)
  }

  onError(error: Error): void {
    // undici reports what the handler throws in `onComplete`.
    if (this.#isComplete) {
      this.#handler.onError(error)
      return
    }
    this.#choice.end()
    if (this.#isSuperseded || this.#request.isEnded) return
    if (this.#abort === undefined && this.#request.tryReroute()) return
    if (!this.#hasResponse && this.#request.tryRetryFailure(error, this.#failureOf(error))) {
      this.#isSuperseded = true
      return
    }
    this.#request.end()
    this.#handler.onError(error)
  }

  onUpgrade(status: number, headers: RawHeaders, socket: Duplex): void {
    this.#choice.end()
    this.#request.end()
    this.#handler.onUpgrade?.(status, this.#request.responseHeaders(headers), socket)
  }

  onBodySent(chunk: Buffer): void {
    this.#request.touch()
    // The handler learns of each byte once.
    if (this.#isFirst) this.#handler.onBodySent?.(chunk)
  }

  onRequestSent(): void {
    if (this.#isFirst) this.#handler.onRequestSent?.()
  }

  onResponseStarted(): void {
    this.#handler.onResponseStarted?.()
  }

  #failureOf(error: Error): Failure {
    if (this.#abort === undefined) return 'not connected'
    return REFUSED_STREAM.test(error.message) ? 'refused' : 'reset'
  }
}

/** The error of undici for a stream that the server refused (RFC 9113, section 7: REFUSED_STREAM is 7). */
const REFUSED_STREAM = /NGHTTP2_REFUSED_STREAM$|stream error.* code 7$/
