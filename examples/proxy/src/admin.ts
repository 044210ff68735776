import { type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import type { ProxyConfig } from 'consul-connect'
import type { ProxyStatus } from './proxy.js'

/** What the admin address tells. None of it is secret, and none of it changes anything. */
export interface AdminView {
  status(): ProxyStatus
  metrics(): Promise<string>
  /** Undefined before the first. */
  config(): ProxyConfig | undefined
}

/** An HTTP server for operators: `/metrics`, `/health`, `/ready` and `/config`. */
export class Admin {
  readonly #server: Server
  readonly #view: AdminView

  constructor(view: AdminView) {
    this.#view = view
    this.#server = createServer({ requestTimeout: 10_000 }, (request, response) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        end(response, 405, 'expected GET\n')
        return
      }
      this.#answer(request.url ?? '', response).catch((error: unknown) => {
        end(response, 500, `${error instanceof Error ? error.message : 'failed'}\n`)
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
    const [path] = url.split('?', 1)
    if (path === '/metrics') {
      end(response, 200, await this.#view.metrics(), 'text/plain; version=0.0.4; charset=utf-8')
    } else if (path === '/health') {
      end(response, 200, 'alive\n')
    } else if (path === '/ready') {
      const status = this.#view.status()
      endJson(response, status.ready ? 200 : 503, status)
    } else if (path === '/config') {
      const config = this.#view.config()
      endJson(response, config === undefined ? 503 : 200, config ?? {})
    } else {
      end(response, 404, 'there are /metrics, /health, /ready and /config\n')
    }
  }
}

function endJson(response: ServerResponse, status: number, body: object): void {
  end(response, status, `${JSON.stringify(body, undefined, 2)}\n`, 'application/json')
}

function end(
  response: ServerResponse,
  status: number,
  body: string,
  type = 'text/plain; charset=utf-8',
): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body)
}
