import type { ProxyListener, Registration, Service } from 'consul-connect'
import type { Log } from './log.js'

/** As the built-in proxy's: with a heartbeat each 10 s. */
const CHECK_TTL_MS = 30_000
const PAUSE_MS = 2_000

/** The proxy's own registration, for where nobody else makes one: there while its public listener is open. */
export class SelfRegistration {
  readonly #idSuffix: string | undefined
  readonly #log: Log
  readonly #ended = new AbortController()
  #wanted: { readonly service: Service; readonly listener: ProxyListener } | undefined
  #current: Registration | undefined
  #work: Promise<void> = Promise.resolve()
  #retry: NodeJS.Timeout | undefined

  constructor(idSuffix: string | undefined, log: Log) {
    this.#idSuffix = idSuffix
    this.#log = log
  }

  /** Registers what listens now, in the place of what did before. */
  set(service: Service, listener: ProxyListener): void {
    this.#wanted = { service, listener }
    this.#again()
  }

  /** Takes it away, so that nobody is sent here. */
  async close(): Promise<void> {
    this.#ended.abort()
    clearTimeout(this.#retry)
    await this.#work
    await this.#current?.close()
  }

  #isEnded(): boolean {
    return this.#ended.signal.aborted
  }

  /** One after the other, so that the last is the one that stays. */
  #again(): void {
    clearTimeout(this.#retry)
    this.#work = this.#work.then(() => this.#register())
  }

  async #register(): Promise<void> {
    if (this.#wanted === undefined || this.#isEnded()) return
    const { service, listener } = this.#wanted
    const { host, port } = listener
    // As the built-in proxy has it.
    const id = `${service.name}-proxy${this.#idSuffix === undefined ? '' : `-${this.#idSuffix}`}`
    try {
      await this.#current?.close()
      this.#current = await service.register({
        kind: 'proxy',
        id,
        port,
        check: { ttlMs: CHECK_TTL_MS },
        // Of all addresses the node's own is the one that others can use.
        ...(!isWildcard(host) && { address: host }),
        signal: this.#ended.signal,
      })
      this.#log.info('registered', { id, port })
    } catch (error) {
      if (this.#isEnded()) return
      this.#log.warn(`registration of ${id}: ${(error as Error).message}`, { retry_in_ms: PAUSE_MS })
      this.#retry = setTimeout(() => {
        this.#again()
      }, PAUSE_MS)
    }
  }
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}
