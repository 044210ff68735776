import type { IncomingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import { constants } from 'node:http2'
import type { ConnectionRequests, OpenRequest } from '../../authorize/requests/connection-requests.js'
import type { RequestOutcome } from '../../authorize/requests/decide-request.js'
import {
  ReceivedHead,
  type ReceivedRequest,
  indexOfHeader,
  removeLines,
} from '../../authorize/requests/received-request.js'
import type { RequestHead } from '../../matching/request-matcher.js'
import { admitRequest, keepDecision } from './admit-request.js'
import { CLIENT_CERT } from './client-cert-header.js'
import { DENIED_TEXT } from './denied-text.js'
import type { GateSettings } from './gate-options.js'

/** The status of gRPC for a call without permission. */
const PERMISSION_DENIED = 7

/** The arguments of the event `stream` of a session. */
type StreamEvent = [
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: string[],
]

/**
 * Decides each stream of an HTTP/2 session before any listener of the session, or of its server, learns of it: all APIs
 * of node:http2 begin with the event `stream` of the session.
 */
export function guardSession(
  session: ServerHttp2Session,
  requests: ConnectionRequests,
  settings: GateSettings,
): void {
  const emit = session.emit.bind(session) as (event: string | symbol, ...args: unknown[]) => boolean
  Object.defineProperty(session, 'emit', {
    configurable: true,
    writable: true,
    value: (event: string | symbol, ...args: unknown[]): boolean => {
      if (event === 'stream' && !admitStream(args as StreamEvent, requests, settings)) return true
      return emit(event, ...args)
    },
  })
}

/** @returns whether the stream may go on */
function admitStream(
  [stream, headers, , rawHeaders]: StreamEvent,
  requests: ConnectionRequests,
  settings: GateSettings,
): boolean {
  replaceHeader(headers, rawHeaders, CLIENT_CERT, settings.clientCert(requests.peer))
  if (requests.policy?.normalization.underscores === 'drop') {
    for (const name of Object.keys(headers))
      if (name.includes('_')) replaceHeader(headers, rawHeaders, name, undefined)
  }
  const received = receivedStream(headers, rawHeaders)
  const outcome = admitRequest(received, requests, settings)
  if (outcome?.decision.authorized === false) {
    answerDenied(stream, headers, outcome)
    return false
  }
  const head = outcome?.head ?? new ReceivedHead(received, received.target, received.authority)
  if (outcome !== undefined) {
    keepDecision(stream, outcome.decision)
    if (head.path !== received.target) {
      headers[':path'] = head.path
      rawHeaders[indexOfHeader(rawHeaders, ':path') + 1] = head.path
    }
  }
  const open = new OpenStream(stream, {
    head,
    undecided: outcome === undefined ? received : undefined,
  })
  requests.add(open)
  stream.once('close', () => {
    requests.release(open)
  })
  return true
}

function receivedStream(headers: IncomingHttpHeaders, rawHeaders: readonly string[]): ReceivedRequest {
  const { ':method': method = '', ':path': target = '', ':authority': authority } = headers
  return { method, target, authority, rawHeaders, isHttp2: true }
}

function replaceHeader(
  headers: IncomingHttpHeaders,
  rawHeaders: string[],
  name: string,
  value: string | undefined,
): void {
  if (headers[name] !== undefined) {
    Reflect.deleteProperty(headers, name)
    removeLines(rawHeaders, name)
  }
  if (value === undefined) return
  headers[name] = value
  rawHeaders.push(name, value)
}

/** The content types of gRPC, but not those of its relatives. */
function isGrpc({ 'content-type': type }: IncomingHttpHeaders): boolean {
  return type !== undefined && /^application\/grpc(?:[+;]|$)/i.test(type)
}

function answerDenied(
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  { status, location, decision }: RequestOutcome,
): void {
  // The client may have reset the stream, with a code that Node.js emits as an error.
  stream.on('error', () => undefined)
  if (stream.destroyed || stream.closed) return
  const answer = isGrpc(headers)
    ? {
        ':status': 200,
        'content-type': 'application/grpc',
        'grpc-status': PERMISSION_DENIED,
        'grpc-message': decision.basis === 'malformed' ? 'malformed request' : DENIED_TEXT.trim(),
      }
    : { ':status': status, ...(location !== undefined && { location }) }
  // Without a body, which a client could refuse to receive, to keep the stream open.
  stream.respond(answer, { endStream: true })
  // The body of the request is not read. Since Node.js 22, an answer without a body is not sent yet when it has finished,
  // and would be lost.
  stream.once('finish', () => {
    setImmediate(() => {
      stream.close(constants.NGHTTP2_NO_ERROR)
    })
  })
}

/** An admitted HTTP/2 stream. */
class OpenStream implements OpenRequest {
  readonly head: RequestHead
  readonly undecided: ReceivedRequest | undefined
  readonly since: number = performance.now()
  readonly #stream: ServerHttp2Stream

  constructor(stream: ServerHttp2Stream, the: Pick<OpenRequest, 'head' | 'undecided'>) {
    this.#stream = stream
    this.head = the.head
    this.undecided = the.undecided
  }

  cut(): void {
    // Node.js emits most codes as an error, and the application may expect none.
    this.#stream.on('error', () => undefined)
    // gRPC clients report this code as PERMISSION_DENIED. Clients of Node.js take a cancellation for an orderly end.
    this.#stream.close(constants.NGHTTP2_INADEQUATE_SECURITY)
  }
}
