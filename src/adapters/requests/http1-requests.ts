import { type IncomingMessage, STATUS_CODES, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ConnectionRequests, OpenRequest } from '../../authorize/requests/connection-requests.js'
import type { RequestOutcome } from '../../authorize/requests/decide-request.js'
import { ReceivedHead, type ReceivedRequest, removeLines } from '../../authorize/requests/received-request.js'
import { serverResponseOn } from '../../base/node-internals.js'
import type { RequestHead } from '../../matching/request-matcher.js'
import { DENIED_TEXT } from './denied-text.js'

/** An HTTP/1 request as it was received. */
export function receivedRequest(request: IncomingMessage): ReceivedRequest {
  const { method = '', url: target = '', rawHeaders } = request
  return { method, target, authority: undefined, rawHeaders, isHttp2: false }
}

/** Makes a handler see the path and host that were decided. */
export function applyDecided(request: IncomingMessage, { path, authority }: ReceivedHead): void {
  // CONNECT has no path.
  if (path !== '' && request.url !== path) request.url = path
  if (authority === undefined || request.headers.host === authority) return
  replaceHeader(request, 'host', authority)
}

/** Removes all lines of a header, and adds one if there is a value. */
export function replaceHeader(request: IncomingMessage, name: string, value: string | undefined): void {
  // Both are made from the raw lines at their first use: Node.js fails if a line is missing by then.
  const { headers, headersDistinct, rawHeaders } = request
  removeLines(rawHeaders, name)
  Reflect.deleteProperty(headers, name)
  Reflect.deleteProperty(headersDistinct, name)
  if (value === undefined) return
  rawHeaders.push(name, value)
  headers[name] = value
  headersDistinct[name] = [value]
}

/** Answers a denied request on its connection, which stays open. */
export function answerDenied(
  request: IncomingMessage,
  response: ServerResponse,
  { status, location }: RequestOutcome,
): void {
  // A client that waits for `100 Continue` may send the body or not: the next request would begin at an unknown place.
  if (request.headers.expect !== undefined) response.shouldKeepAlive = false
  const headers = { 'content-type': 'text/plain', 'content-length': DENIED_TEXT.length }
  response.writeHead(status, location === undefined ? headers : { ...headers, location })
  // Some servers throw for a body that is not sent.
  if (request.method === 'HEAD') response.end()
  else response.end(DENIED_TEXT)
}

/** Answers a denied CONNECT or upgrade, whose connection Node.js has given up for HTTP, and closes it. */
export function answerDeniedUpgrade({ socket }: IncomingMessage, { status }: RequestOutcome): void {
  // The answer would become a part of the response to an earlier request.
  if (serverResponseOn(socket) !== undefined) {
    socket.destroy()
    return
  }
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nconnection: close\r\ncontent-type: text/plain\r\n`
  socket.write(`${head}content-length: ${DENIED_TEXT.length}\r\n\r\n${DENIED_TEXT}`)
  // Not end(): the peer might keep its side open, and Node.js applies no timeout any more.
  socket.destroySoon()
}

/** An admitted HTTP/1 request. It is read again only if the rules change. */
class OpenHttp1Request implements OpenRequest {
  readonly since: number = performance.now()
  readonly #request: IncomingMessage
  /** Kept, because a framework may change `url`. */
  readonly #target: string
  readonly #decided: RequestHead | undefined

  constructor(request: IncomingMessage, decided: RequestHead | undefined) {
    this.#request = request
    this.#target = request.url ?? ''
    this.#decided = decided
  }

  get head(): RequestHead {
    return this.#decided ?? new ReceivedHead(this.#received, this.#target, undefined)
  }

  get undecided(): ReceivedRequest | undefined {
    return this.#decided === undefined ? this.#received : undefined
  }

  get #received(): ReceivedRequest {
    return { ...receivedRequest(this.#request), target: this.#target }
  }

  cut(error: Error): void {
    this.#request.socket.destroy(error)
  }
}

/**
 * Follows an admitted request until its response is complete, or its upgraded connection is closed.
 * @param until - emits `close` then
 */
export function followRequest(
  requests: ConnectionRequests,
  request: IncomingMessage,
  until: ServerResponse | Duplex,
  head: RequestHead | undefined,
): void {
  const open = new OpenHttp1Request(request, head)
  requests.add(open)
  until.once('close', () => {
    requests.release(open)
  })
}
