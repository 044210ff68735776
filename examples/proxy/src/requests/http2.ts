import {
  type ClientHttp2Stream,
  type Http2ServerRequest,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
  constants,
} from 'node:http2'
import type { Application } from './application.js'
import { pairs } from './headers.js'

const { NGHTTP2_CANCEL, NGHTTP2_FLAG_END_STREAM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR } = constants
/** The status of gRPC for a server that cannot be reached. */
const GRPC_UNAVAILABLE = 14

/** Forwards an HTTP/2 stream to the application, and its response to the client. */
export function forwardStream(
  stream: ServerHttp2Stream,
  request: Http2ServerRequest,
  application: Application,
): void {
  const { headers } = request
  stream.on('error', () => undefined)
  const hasBody = !stream.endAfterHeaders
  const forwarded = hasLostLines(request) ? undefined : begin(headers, hasBody, application)
  if (forwarded === undefined) {
    answer(stream, { ':status': 400 })
    stream.resume()
    return
  }
  let failure: NodeJS.ErrnoException | undefined
  forwarded.on('error', (error: NodeJS.ErrnoException) => {
    failure = error
  })
  forwardTrailers(stream, forwarded)
  if (hasBody) stream.pipe(forwarded)
  const takeNoMore = (): void => {
    stream.unpipe(forwarded)
    stream.resume()
  }
  forwarded.on('aborted', takeNoMore)
  forwarded.on('headers', (informational) => {
    if (stream.headersSent || stream.destroyed || stream.closed) return
    attempt(stream, () => {
      stream.additionalHeaders(sendable(informational))
    })
  })
  forwarded.on('response', (received, flags) => {
    if (stream.destroyed || stream.closed) return
    const endStream = (flags & NGHTTP2_FLAG_END_STREAM) !== 0
    const isSent = attempt(stream, () => {
      stream.respond(sendable(received), { endStream, waitForTrailers: !endStream })
    })
    if (endStream || !isSent) return
    // Node.js sends these for a listener of `request`, and would send none of the application.
    stream.removeAllListeners('wantTrailers')
    forwardTrailers(forwarded, stream)
    forwarded.pipe(stream, { end: false })
    forwarded.on('end', () => {
      // Cut, so that the part does not look complete.
      if (forwarded.rstCode === NGHTTP2_NO_ERROR) stream.end()
      else stream.close(NGHTTP2_INTERNAL_ERROR)
    })
  })
  forwarded.on('close', () => {
    takeNoMore()
    if (stream.destroyed || stream.closed) return
    const { rstCode } = forwarded
    const isReset = failure === undefined || failure.code === 'ERR_HTTP2_STREAM_ERROR'
    if (isReset && rstCode !== NGHTTP2_NO_ERROR) stream.close(rstCode)
    else if (!stream.headersSent) answer(stream, unavailable(headers))
    else if (!isReset) stream.close(NGHTTP2_INTERNAL_ERROR)
  })
  stream.on('close', () => {
    if (!forwarded.closed) forwarded.close(NGHTTP2_CANCEL)
  })
}

/** Begins a stream to the application. @returns undefined if Node.js does not write what it has read */
function begin(
  headers: IncomingHttpHeaders,
  hasBody: boolean,
  application: Application,
): ClientHttp2Stream | undefined {
  try {
    return application.stream(sendable(headers), { endStream: !hasBody, waitForTrailers: hasBody })
  } catch {
    return undefined
  }
}

type Stream = ServerHttp2Stream | ClientHttp2Stream

/** Makes a stream end with the trailers of another one. */
function forwardTrailers(from: Stream, to: Stream): void {
  let trailers: IncomingHttpHeaders = {}
  from.on('trailers', (received: IncomingHttpHeaders) => {
    trailers = received
  })
  to.on('wantTrailers', () => {
    attempt(to, () => {
      to.sendTrailers(sendable(trailers))
    })
  })
}

/** Sends headers, which Node.js may refuse although it has read them: then the stream ends with an error. @returns whether they were sent */
function attempt(stream: Stream, send: () => void): boolean {
  try {
    send()
    return true
  } catch {
    stream.close(NGHTTP2_INTERNAL_ERROR)
    return false
  }
}

/** Answers in place of the application. */
function answer(stream: ServerHttp2Stream, headers: OutgoingHttpHeaders): void {
  if (stream.destroyed || stream.closed) return
  attempt(stream, () => {
    stream.respond(headers, { endStream: true })
  })
}

/** The headers that concern the whole way, in a form that Node.js sends. */
function sendable({ te, 'http2-settings': _settings, ...headers }: IncomingHttpHeaders): OutgoingHttpHeaders {
  const acceptsTrailers = String(te ?? '')
    .split(',')
    .some((each) => each.trim().toLowerCase() === 'trailers')
  return acceptsTrailers ? { ...headers, te: 'trailers' } : headers
}

/** Whether Node.js has left out repeated lines of a header, which the rules have seen. */
function hasLostLines({ headers, rawHeaders }: Http2ServerRequest): boolean {
  const lines = new Map<string, string[]>()
  for (const [name, value] of pairs(rawHeaders)) lines.set(name, [...(lines.get(name) ?? []), value])
  for (const [name, values] of lines) {
    if (values.length === 1 || name === 'set-cookie' || name === 'cookie') continue
    if (headers[name] !== values.join(', ')) return true
  }
  return false
}

/** The answer for an application that cannot be reached. */
function unavailable({ 'content-type': type }: IncomingHttpHeaders): OutgoingHttpHeaders {
  const isGrpc = type !== undefined && /^application\/grpc(?:[+;]|$)/i.test(type)
  return isGrpc
    ? { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': GRPC_UNAVAILABLE }
    : { ':status': 503 }
}
