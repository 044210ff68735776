// HTTP/1.1 in bytes: `fetch` and `URL` clean paths, and `node:http` joins headers.
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TestContext } from 'node:test'
import { plainServer } from '../fixtures/plain-server.js'

export interface RawResponse {
  readonly status: number
  /** The header lines: name, value, name, value. */
  readonly headers: readonly string[]
  readonly body: string
}

/** Header lines as bytes. */
export function headerBytes(lines: readonly string[]): string {
  let text = ''
  for (let i = 0; i < lines.length; i += 2) text += `${lines[i]!}: ${lines[i + 1]!}\r\n`
  return text
}

/** The parts of the head of a message: the first line, and the header lines. */
export function parseHead(head: string): { readonly start: string; readonly headers: readonly string[] } {
  const [start = '', ...lines] = head.split('\r\n')
  const headers = lines.flatMap((line) => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()]
  })
  return { start, headers }
}

/** Starts a server that answers each request without a body with the head of the request. @returns its port */
export async function startHeadEcho(
  t: Pick<TestContext, 'after'>,
  headers: readonly string[],
): Promise<number> {
  return plainServer(t, (socket) => {
    socket.on('end', () => socket.end())
    let received = ''
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      for (let end = received.indexOf('\r\n\r\n'); end >= 0; end = received.indexOf('\r\n\r\n')) {
        const head = received.slice(0, end)
        received = received.slice(end + 4)
        // The end of a body in chunks.
        if (head === '0') continue
        const body = head.startsWith('HEAD ') ? '' : head
        const more = head.startsWith('HEAD ') ? [] : ['content-length', String(head.length)]
        // An answer to HEAD has no body: the head of the request goes into a header.
        const echo = ['x-echo', Buffer.from(head, 'latin1').toString('hex')]
        const lines = headerBytes([...headers, ...echo, ...more])
        socket.write(`HTTP/1.1 200 OK\r\n${lines}\r\n${body}`, 'latin1')
      }
    })
  })
}

/** The head of the request that a server of `startHeadEcho` has got. */
export function echoedHead({ headers }: Pick<RawResponse, 'headers'>): string {
  return Buffer.from(headers[headers.indexOf('x-echo') + 1]!, 'hex').toString('latin1')
}

/** A client that sends bytes over one connection, which it opens again after the server has closed it. */
export class RawClient {
  readonly #open: () => Duplex
  #socket: Duplex | undefined

  /** @param target - a port of this host, or a function that opens a connection */
  constructor(target: number | (() => Duplex)) {
    this.#open = typeof target === 'number' ? () => connect(target, '127.0.0.1') : target
  }

  /** Sends a request and returns its response. One at a time. */
  async send(bytes: string): Promise<RawResponse> {
    const socket = (this.#socket ??= this.#open())
    let received = ''
    socket.write(bytes, 'latin1')
    for (;;) {
      const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(20_000) })) as [Buffer]
      received += chunk.toString('latin1')
      const end = received.indexOf('\r\n\r\n')
      if (end < 0) continue
      const { start, headers } = parseHead(received.slice(0, end))
      const lower = headers.map((text, i) => (i % 2 === 0 ? text.toLowerCase() : text))
      const isHead = bytes.startsWith('HEAD ')
      const length = isHead ? 0 : Number(lower[lower.indexOf('content-length') + 1])
      if (received.length < end + 4 + length) continue
      if (lower[lower.indexOf('connection') + 1] === 'close') this.close()
      return { status: Number(start.slice(9, 12)), headers, body: received.slice(end + 4) }
    }
  }

  close(): void {
    this.#socket?.destroy()
    this.#socket = undefined
  }
}
