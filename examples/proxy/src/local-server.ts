import { once } from 'node:events'
import { type IncomingMessage, type Server, createServer } from 'node:http'
import type { AddressInfo, ListenOptions } from 'node:net'

/** What is answered: text, or an object that is shown as JSON. */
export interface Reply {
  /** @default 200 */
  readonly status?: number
  /** @default that of plain text, or of JSON */
  readonly type?: string
  readonly body: string | object
}

/** How long a request may take to come in. */
const REQUEST_MS = 10_000
/** For the few who look, and nobody else. */
const MAX_CONNECTIONS = 64

/** A small HTTP server on this machine, for operators and their tools. */
export class LocalServer {
  readonly #server: Server

  /** @param failure what is answered when `answer` rejects */
  constructor(answer: (request: IncomingMessage) => Promise<Reply>, failure: (error: Error) => Reply) {
    this.#server = createServer({ requestTimeout: REQUEST_MS }, (request, response) => {
      void answer(request)
        .catch(failure)
        .then(({ status = 200, type, body }) => {
          const [text, ofText] =
            typeof body === 'string'
              ? [body, 'text/plain; charset=utf-8']
              : [`${JSON.stringify(body, undefined, 2)}\n`, 'application/json']
          const headers = { 'content-type': type ?? ofText, 'content-length': Buffer.byteLength(text) }
          response.writeHead(status, headers).end(text)
        })
    })
    this.#server.maxConnections = MAX_CONNECTIONS
  }

  /** @throws the system's error */
  async open(address: ListenOptions): Promise<AddressInfo> {
    this.#server.listen(address)
    await once(this.#server, 'listening')
    // An accept error never ends it.
    this.#server.on('error', () => undefined)
    return this.#server.address() as AddressInfo
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
