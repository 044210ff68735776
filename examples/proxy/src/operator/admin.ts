import type { AddressInfo } from 'node:net'
import { LocalServer, type Reply } from '../listeners/local-server.js'

/** Page handlers by path. Pages are read-only and must not expose secrets. */
export type Pages = Readonly<Record<`/${string}`, () => Reply | Promise<Reply>>>

/** Content type of the Prometheus text format. */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** Serves read-only pages for operators: health, metrics, and configuration. */
export class Admin {
  readonly #server: LocalServer

  constructor(pages: Pages) {
    const paths = Object.keys(pages).join(', ')
    this.#server = new LocalServer(
      async ({ method, url = '' }) => {
        if (method !== 'GET' && method !== 'HEAD')
          return { status: 405, body: 'method not allowed; use GET\n' }
        const [path = ''] = url.split('?', 1)
        const page = Object.entries(pages).find(([pagePath]) => pagePath === path)?.[1]
        return page === undefined
          ? { status: 404, body: `page not found; available pages: ${paths}\n` }
          : await page()
      },
      ({ message }) => ({ status: 500, body: `${message}\n` }),
    )
  }

  /** @throws the system error, such as EADDRINUSE */
  open(
    address: { readonly host: string; readonly port: number } | { readonly path: string },
  ): Promise<AddressInfo> {
    return this.#server.open(address)
  }

  close(): void {
    this.#server.close()
  }
}
