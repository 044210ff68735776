import type { IncomingHttpHeaders } from 'node:http'
import type { Duplex } from 'node:stream'
import { type Dispatcher, util } from 'undici'
import { toError } from '../../base/errors.js'
import type { RawHeaders } from '../header-lines.js'

/** The handler of a request as undici calls it. Its newer form, with a controller, is translated to this one. */
export interface ClassicHandler {
  onConnect(abort: (reason?: Error) => void, context?: unknown): void
  onHeaders(status: number, headers: RawHeaders, resume: () => void, statusText: string): boolean
  onData(chunk: Buffer): boolean
  onComplete(trailers: RawHeaders | null): void
  onError(error: Error): void
  onUpgrade?(status: number, headers: RawHeaders, socket: Duplex): void
  onBodySent?(chunk: Buffer): void
  onRequestSent?(): void
  onResponseStarted?(): void
}

/** Returns a handler in its classic form: the same one, or one that calls a newer one. */
export function classicHandler(handler: Dispatcher.DispatchHandler): ClassicHandler {
  return handler.onRequestStart === undefined
    ? (handler as unknown as ClassicHandler)
    : new Translated(handler)
}

/** Returns a handler for undici, whose types describe the classic form in part. */
export function toUndici(handler: ClassicHandler): Dispatcher.DispatchHandler {
  return handler as unknown as Dispatcher.DispatchHandler
}

/** Calls a handler that expects a controller. */
class Translated implements ClassicHandler {
  readonly #handler: Dispatcher.DispatchHandler
  readonly #controller = new Controller()

  constructor(handler: Dispatcher.DispatchHandler) {
    this.#handler = handler
  }

  onConnect(abort: (reason?: Error) => void, context: unknown): void {
    this.#controller.abortRequest = abort
    this.#handler.onRequestStart?.(this.#controller, context)
  }

  onHeaders(status: number, headers: RawHeaders, resume: () => void, statusText: string): boolean {
    this.#controller.resumeResponse = resume
    this.#controller.rawHeaders = headers
    this.#handler.onResponseStart?.(this.#controller, status, parsed(headers), statusText)
    return !this.#controller.paused
  }

  onData(chunk: Buffer): boolean {
    this.#handler.onResponseData?.(this.#controller, chunk)
    return !this.#controller.paused
  }

  onComplete(trailers: RawHeaders | null): void {
    this.#controller.rawTrailers = trailers ?? []
    this.#handler.onResponseEnd?.(this.#controller, parsed(trailers ?? []))
  }

  onError(error: Error): void {
    this.#handler.onResponseError?.(this.#controller, error)
  }

  onUpgrade(status: number, headers: RawHeaders, socket: Duplex): void {
    this.#controller.rawHeaders = headers
    this.#handler.onRequestUpgrade?.(this.#controller, status, parsed(headers), socket)
  }
}

class Controller implements Dispatcher.DispatchController {
  abortRequest: (reason?: Error) => void = () => undefined
  resumeResponse: () => void = () => undefined
  rawHeaders: RawHeaders | null = null
  rawTrailers: RawHeaders | null = null
  #isPaused = false
  #reason: Error | null = null

  get aborted(): boolean {
    return this.#reason !== null
  }

  get reason(): Error | null {
    return this.#reason
  }

  get paused(): boolean {
    return this.#isPaused
  }

  abort(reason: unknown): void {
    if (this.#reason !== null) return
    this.#reason = toError(reason)
    this.abortRequest(this.#reason)
  }

  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    if (!this.#isPaused) return
    this.#isPaused = false
    this.resumeResponse()
  }
}

function parsed(headers: RawHeaders): IncomingHttpHeaders {
  return util.parseHeaders(headers)
}
