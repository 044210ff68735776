import { type ClientRequest, type IncomingMessage, STATUS_CODES, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Application } from './application.js'
import {
  endToEndHeaders,
  hasBody,
  hasKnownCoding,
  isWebSocket,
  linesOf,
  pairs,
  requestHeaders,
  upgradeHeaders,
} from './headers.js'

const NOTHING = Buffer.alloc(0)
/** How many bytes a client may send before its upgrade is answered. */
const MAX_EARLY_BYTES = 65_536

/** Forwards a request to the application, and its response to the client. */
export function forwardRequest(
  request: IncomingMessage,
  response: ServerResponse,
  application: Application,
): void {
  if (!hasKnownCoding(request)) {
    response.shouldKeepAlive = false
    answer(response, 501)
    return
  }
  const headers = requestHeaders(request)
  // Node.js sends the head of such a request in another encoding than it was received.
  const isRefused = request.headers.expect !== undefined && !isAscii(headers)
  const forwarded = isRefused ? undefined : begin(request, headers, application)
  if (forwarded === undefined) {
    response.shouldKeepAlive = false
    answer(response, 400)
    return
  }
  // HTTP/1.0 has no informational responses.
  if (request.httpVersionMinor > 0) {
    forwarded.on('continue', () => {
      response.writeContinue()
    })
    forwarded.on('information', (information) => {
      forwardInformation(information.statusCode, linesOf(information, 'link'), response)
    })
  }
  forwarded.on('response', (received) => {
    // The connection of the client ends with that of the application.
    if (!forwarded.shouldKeepAlive) response.shouldKeepAlive = false
    forwardResponse(received, response)
  })
  forwarded.on('error', () => undefined)
  forwarded.on('close', () => {
    // The application may also have answered before it had read the request.
    request.unpipe(forwarded)
    request.resume()
    if (response.headersSent) return
    // It has closed a kept connection, perhaps before it saw the request: clients know when they can send it again.
    if (forwarded.reusedSocket) response.destroy()
    else answer(response, 503)
  })
  forwardBody(request, forwarded)
  response.on('close', () => {
    if (!response.writableFinished) forwarded.destroy()
  })
}

/** Begins a request to the application. @returns undefined if Node.js does not write what it has read */
function begin(
  { method, url }: IncomingMessage,
  headers: readonly string[],
  application: Application,
): ClientRequest | undefined {
  try {
    return application.request({ method, path: url, headers })
  } catch {
    return undefined
  }
}

function isAscii(lines: readonly string[]): boolean {
  return lines.every((line) => /^[\x00-\x7f]*$/.test(line))
}

function forwardBody(request: IncomingMessage, forwarded: ClientRequest): void {
  // Bytes without a length would look like another request.
  if (!hasBody(request)) {
    request.resume()
    forwarded.end()
    return
  }
  request.pipe(forwarded, { end: false })
  request.on('end', () => {
    if (request.rawTrailers.length > 0) forwarded.addTrailers(pairs(request.rawTrailers))
    forwarded.end()
  })
  // Node.js keeps the headers back for the body, which may come much later.
  setImmediate(() => {
    if (!forwarded.writableEnded && !forwarded.destroyed) forwarded.write(NOTHING)
  })
}

function forwardInformation(status: number, link: string[], response: ServerResponse): void {
  if (status === 102) response.writeProcessing()
  if (status !== 103 || link.length === 0) return
  try {
    response.writeEarlyHints({ link })
  } catch {
    // Node.js accepts only simple links, and hints are optional.
  }
}

function forwardResponse(received: IncomingMessage, response: ServerResponse): void {
  if (!hasKnownCoding(received)) {
    received.destroy()
    answer(response, 502)
    return
  }
  const { statusCode = 502, statusMessage = '' } = received
  const hasChunks =
    received.headers['transfer-encoding'] !== undefined &&
    response.req.method !== 'HEAD' &&
    response.req.httpVersionMinor > 0 &&
    statusCode !== 204 &&
    statusCode !== 304
  try {
    const reason = /^[\t\x20-\x7e\x80-\xff]*$/.test(statusMessage) ? statusMessage : ''
    response.writeHead(statusCode, reason, endToEndHeaders(received, hasChunks))
  } catch {
    // Node.js reads more than it writes.
    received.destroy()
    response.destroy()
    return
  }
  // Not flushHeaders(), which writes them in another encoding than they were received.
  setImmediate(() => {
    if (!response.writableEnded && !response.destroyed) response.write(NOTHING)
  })
  received.pipe(response, { end: false })
  received.on('end', () => {
    if (received.rawTrailers.length > 0) response.addTrailers(pairs(received.rawTrailers))
    response.end()
  })
  received.on('close', () => {
    // Cut, so that the part does not look complete.
    if (!received.complete) response.destroy()
  })
}

/** Answers in place of the application. */
function answer(response: ServerResponse, status: number): void {
  if (response.destroyed) return
  const text = textOf(status)
  const headers = { 'content-type': 'text/plain', 'content-length': text.length }
  response.writeHead(status, STATUS_CODES[status] ?? '', headers)
  response.end(response.req.method === 'HEAD' ? undefined : text)
}

function textOf(status: number): string {
  return status === 503 ? 'the application does not answer\n' : `${STATUS_CODES[status] ?? ''}\n`
}

/**
 * Forwards an upgrade, and calls back when the application has accepted it. Only WebSocket connections are upgraded: HTTP/2
 * and TLS would carry requests without a decision.
 */
export function forwardUpgrade(
  request: IncomingMessage,
  head: Buffer,
  application: Application,
  onOpen: (application: Duplex) => void,
): void {
  const mesh = request.socket
  // Node.js reads the connection no more, and would not notice its end.
  const waiting = new EarlyBytes(mesh, head)
  // Before version 22.21, Node.js does not read the body of a request that asks for any upgrade.
  if (hasBody(request) && request.headers['content-length'] !== '0') {
    endWith(mesh, 501)
    return
  }
  const isUpgrade = isWebSocket(request)
  const forwarded = begin(request, isUpgrade ? upgradeHeaders(request) : requestHeaders(request), application)
  if (forwarded === undefined) {
    endWith(mesh, 400)
    return
  }
  let isAnswered = false
  // Without a listener, Node.js closes the connection of an application that upgrades unasked.
  if (isUpgrade) {
    forwarded.on('upgrade', (received, socket, rest) => {
      isAnswered = true
      if (rest.length > 0) socket.unshift(rest)
      waiting.putBack()
      mesh.write(startOf(received, upgradeHeaders(received)))
      onOpen(socket)
    })
  }
  forwarded.on('response', (received) => {
    isAnswered = true
    if (!hasKnownCoding(received)) {
      received.destroy()
      endWith(mesh, 502)
      return
    }
    // Node.js has given up HTTP on the connection, so that only its end can be the end of the body.
    mesh.write(startOf(received, [...endToEndHeaders(received, false), 'Connection', 'close']))
    received.pipe(mesh, { end: false })
    received.on('close', () => {
      if (received.complete) mesh.destroySoon()
      else mesh.destroy()
    })
  })
  forwarded.on('error', () => undefined)
  forwarded.on('close', () => {
    if (!isAnswered) endWith(mesh, 503)
  })
  forwarded.end()
}

/** What a client sends after its request for an upgrade, until that is answered. */
class EarlyBytes {
  readonly #mesh: Socket
  readonly #chunks: Buffer[]
  #size: number
  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk)
    this.#size += chunk.length
    if (this.#size > MAX_EARLY_BYTES) this.#mesh.destroy()
  }
  readonly #onEnd = (): void => {
    this.#mesh.destroy()
  }

  constructor(mesh: Socket, head: Buffer) {
    this.#mesh = mesh
    this.#chunks = [head]
    this.#size = head.length
    mesh.on('data', this.#onData).on('end', this.#onEnd).on('timeout', this.#onEnd)
  }

  putBack(): void {
    this.#mesh.off('data', this.#onData).off('end', this.#onEnd).off('timeout', this.#onEnd)
    this.#mesh.pause()
    if (this.#size > 0) this.#mesh.unshift(Buffer.concat(this.#chunks))
  }
}

/** The status line and headers of a response, in bytes. */
function startOf({ statusCode, statusMessage }: IncomingMessage, headers: readonly string[]): Buffer {
  const lines = pairs(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(
    `HTTP/1.1 ${statusCode ?? 502} ${statusMessage ?? ''}\r\n${lines.join('')}\r\n`,
    'latin1',
  )
}

/** Gives a last answer in place of the application. */
function endWith(mesh: Socket, status: number): void {
  if (mesh.destroyed) return
  const text = textOf(status)
  mesh.write(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
  )
  mesh.destroySoon()
}
