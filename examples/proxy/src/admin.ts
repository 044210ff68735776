import { type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'

/** What a page holds: text, or an object that is shown as JSON. */
export interface Page {
  /** @default 200 */
  readonly status?: number
  /** @default that of plain text, or of JSON */
  readonly type?: string
  readonly body: string | object
}

/** Pages by their path. None may show a secret or change anything. */
export type Pages = Readonly<Record<`/${string}`, () => Page | Promise<Page>>>

/** How Prometheus wants it. */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** An HTTP server for operators. */
export class Admin {
  readonly #server: Server
  readonly #pages: Pages

  constructor(pages: Pages) {
    this.#pages = pages
    this.#server = createServer({ requestTimeout: 10_000 }, (request, response) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        end(response, { status: 405, body: 'expected GET\n' })
        return
      }
      this.#answer(request.url ?? '', response).catch((error: unknown) => {
        end(response, { status: 500, body: `${error instanceof Error ? error.message : 'failed'}\n` })
      })
    })
    this.#server.maxConnections = 64
  }

  /** @throws the system's error */
  async open(address: { readonly host: string; readonly port: number }): Promise<AddressInfo> {
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

  async #answer(url: string, response: ServerResponse): Promise<void> {
    const [path = ''] = url.split('?', 1)
    const page = Object.entries(this.#pages).find(([known]) => known === path)?.[1]
    const paths = Object.keys(this.#pages).join(', ')
    end(response, page === undefined ? { status: 404, body: `there are ${paths}\n` } : await page())
  }
}

function end(response: ServerResponse, { status = 200, type, body }: Page): void {
  const [text, ofText] =
    typeof body === 'string'
      ? [body, 'text/plain; charset=utf-8']
      : [`${JSON.stringify(body, undefined, 2)}\n`, 'application/json']
  const headers = { 'content-type': type ?? ofText, 'content-length': Buffer.byteLength(text) }
  response.writeHead(status, headers).end(text)
}
