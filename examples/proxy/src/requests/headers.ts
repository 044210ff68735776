import type { IncomingMessage } from 'node:http'

/** The headers that concern one connection only (RFC 9110, section 7.6.1), beside those that `Connection` names. */
const HOP_BY_HOP = ['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade']

/** Headers that hold for the whole way, even if `Connection` names them. */
const END_TO_END = ['host', 'content-length']

/** Methods whose requests get no length from Node.js if they have none. */
const WITHOUT_LENGTH: ReadonlySet<unknown> = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT'])

/**
 * The raw header lines of a message without those that concern its own connection.
 * @param hasTrailers - whether it is passed on in chunks, so that it may have trailers
 */
export function endToEndHeaders({ rawHeaders, headers }: IncomingMessage, hasTrailers: boolean): string[] {
  const dropped = new Set([...HOP_BY_HOP, ...tokens(headers.connection)])
  // Node.js refuses to announce trailers that it will not send.
  if (!hasTrailers) dropped.add('trailer')
  for (const name of END_TO_END) dropped.delete(name)
  return rawHeaders.filter((_, i) => !dropped.has((rawHeaders[i - (i % 2)] ?? '').toLowerCase()))
}

/** The headers of a request to the application, which describe its body as those of the received request do. */
export function requestHeaders(request: IncomingMessage): string[] {
  const { headers } = request
  const lines = endToEndHeaders(request, headers['transfer-encoding'] !== undefined)
  // RFC 9112, section 3.2: a request of HTTP/1.1 has it.
  if (headers.host === undefined) lines.push('Host', '')
  if (headers['transfer-encoding'] !== undefined) lines.push('Transfer-Encoding', 'chunked')
  // Otherwise, Node.js would announce chunks.
  else if (!hasBody(request) && !WITHOUT_LENGTH.has(request.method)) lines.push('Content-Length', '0')
  // The client accepts trailers (RFC 9110, section 10.1.4).
  if (tokens(headers['te']).includes('trailers')) lines.push('TE', 'trailers', 'Connection', 'TE')
  return lines
}

/** The headers of an upgrade or its answer, which keep the protocol that it is about. */
export function upgradeHeaders(message: IncomingMessage): string[] {
  const { upgrade } = message.headers
  const lines = endToEndHeaders(message, false)
  return upgrade === undefined ? lines : [...lines, 'Connection', 'Upgrade', 'Upgrade', upgrade]
}

/** Whether a request may have a body. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || headers['content-length'] !== undefined
}

/** Whether an upgrade is one to WebSocket (RFC 6455, section 4.1). */
export function isWebSocket({ method, headers: { upgrade } }: IncomingMessage): boolean {
  return method === 'GET' && upgrade?.toLowerCase() === 'websocket'
}

/** Whether the body has no other transfer coding than chunks: Node.js leaves them to be decoded (RFC 9112, section 6.1). */
export function hasKnownCoding({ headers: { 'transfer-encoding': coding } }: IncomingMessage): boolean {
  return coding === undefined || coding.toLowerCase() === 'chunked'
}

/** The lines of a header. */
export function linesOf({ rawHeaders }: Pick<IncomingMessage, 'rawHeaders'>, name: string): string[] {
  return pairs(rawHeaders).flatMap(([each, value]) => (each.toLowerCase() === name ? [value] : []))
}

/** Raw header lines as pairs. */
export function pairs(lines: readonly string[]): [string, string][] {
  return Array.from({ length: lines.length / 2 }, (_, i) => [lines[2 * i] ?? '', lines[2 * i + 1] ?? ''])
}

/** The items of a list in a header, in lower case. */
function tokens(value: string | string[] | undefined): string[] {
  return String(value ?? '')
    .split(',')
    .map((token) => token.trim().toLowerCase())
}
