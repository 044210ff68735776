import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'

type Body = Dispatcher.DispatchOptions['body']
type Chunks = AsyncIterator<unknown> | Iterator<unknown>

/** The buffer of Envoy for a request that may be sent again. */
const MAX_RECORDED = 1_048_576

/** The body of a request that may be sent more than once. A stream is recorded while it is short. */
export class ReplayedBody {
  readonly #body: Body
  readonly #isStream: boolean
  readonly #isRecorded: boolean
  readonly #onEnd: () => void
  #source: Chunks | undefined
  readonly #chunks: unknown[] = []
  #recorded = 0
  /** The number of chunks that were dropped because the body is too long to be recorded. */
  #dropped = 0
  /** The number of the current attempt. Earlier ones get no more of the body. */
  #attempt = 0
  #pulling: Promise<void> | undefined
  #isEnded = false
  #error: unknown
  #hasFailed = false

  /**
   * @param onEnd - called when the last byte was taken; with the first attempt for a body that is no stream
   * @param isRecorded - whether there may be a second attempt
   */
  constructor(body: Body, onEnd: () => void, isRecorded = true) {
    this.#body = body
    this.#isRecorded = isRecorded
    this.#isStream = isStream(body)
    this.#onEnd = onEnd
    // An error before the first attempt would end the process. The attempt reports it.
    if (body instanceof Readable) body.on('error', () => undefined)
  }

  /** Whether the body can be sent again. */
  get isReplayable(): boolean {
    return this.#dropped === 0 && !this.#hasFailed
  }

  /** Returns the body for the next attempt. */
  next(): Body {
    if (!this.#isStream) {
      this.#end()
      return this.#body
    }
    this.stop()
    return this.#replay(this.#attempt) as unknown as Body
  }

  /**
   * Fails the body of the current attempt, so that it takes no more of the source. A body that is cut off must not look
   * complete to the server.
   */
  stop(): void {
    this.#attempt += 1
  }

  /** Ends the source if there was an attempt, unless it has ended. */
  dispose(): void {
    const hasBegun = this.#attempt > 0
    this.stop()
    if (this.#isEnded || !hasBegun) return
    this.#isEnded = true
    // The iterator of a stream leaves the stream open before its first chunk, and while it waits for one.
    if (this.#body instanceof Readable) this.#body.destroy()
    else if (this.#source !== undefined) void endQuietly(this.#source)
  }

  async *#replay(attempt: number): AsyncGenerator {
    for (let i = 0; ; i += 1) {
      for (;;) {
        if (attempt !== this.#attempt) throw new Error('this attempt to send the request has ended')
        if (i < this.#dropped + this.#chunks.length) break
        if (this.#hasFailed) throw this.#error
        if (this.#isEnded) return
        await (this.#pulling ??= this.#pull())
      }
      if (i < this.#dropped) throw new Error('the body of the request is too long to be sent again')
      yield this.#chunks[i - this.#dropped]
    }
  }

  /** Takes the next chunk of the source. Never rejects. */
  async #pull(): Promise<void> {
    try {
      this.#source ??= chunksOf(this.#body)
      const result = await this.#source?.next()
      if (result === undefined || result.done === true) this.#end()
      else this.#record(result.value)
    } catch (error) {
      this.#hasFailed = true
      this.#error = error
      this.#end()
    } finally {
      this.#pulling = undefined
    }
  }

  #end(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#onEnd()
  }

  #record(chunk: unknown): void {
    this.#recorded += sizeOf(chunk)
    // The current attempt has taken all earlier chunks.
    if (!this.#isRecorded || this.#recorded > MAX_RECORDED) {
      this.#dropped += this.#chunks.length
      this.#chunks.length = 0
    }
    this.#chunks.push(chunk)
  }
}

function sizeOf(chunk: unknown): number {
  if (typeof chunk === 'string') return chunk.length
  return ArrayBuffer.isView(chunk) ? chunk.byteLength : 1
}

/** Whether a body can be read only once. */
export function isStream(body: unknown): body is Partial<AsyncIterable<unknown> & Iterable<unknown>> {
  if (typeof body !== 'object' || body === null) return false
  if (ArrayBuffer.isView(body) || body instanceof ArrayBuffer) return false
  // undici encodes a form for each attempt. It has a class of its own besides that of Node.js.
  if ((body as { readonly [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] === 'FormData') return false
  return Symbol.asyncIterator in body || Symbol.iterator in body
}

function chunksOf(body: unknown): Chunks | undefined {
  if (!isStream(body)) return undefined
  return body[Symbol.asyncIterator]?.() ?? body[Symbol.iterator]?.()
}

/** Ends a source of the application, whose errors concern no request any more. */
async function endQuietly(source: Chunks): Promise<void> {
  try {
    await source.return?.()
  } catch {
    // See above.
  }
}
