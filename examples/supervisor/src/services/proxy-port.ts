import { setTimeout as sleep } from 'node:timers/promises'
import { findPort, isFree } from '../process/ports.js'
import type { ProxyContext } from './proxy-context.js'

/** How long to wait for the previous process to release the port. */
const RELEASE_MS = 1_000
const POLL_MS = 100

export interface PortRequest {
  /** Port from the configuration; undefined to choose one from the range. */
  readonly fixed: number | undefined
  /** Port of an existing registration, reused if the state was lost; undefined if there is none. */
  readonly registered: number | undefined
  /** Whether the process of the proxy is running. */
  readonly isRunning: boolean
  readonly address: string
}

/** The port of one proxy. It is kept across restarts, and replaced when another program uses it. */
export class ProxyPort {
  readonly #proxyId: string
  #number: number
  #isTaken = false

  /** @param number - saved port; 0 for none */
  constructor(proxyId: string, number: number) {
    this.#proxyId = proxyId
    this.#number = number
  }

  /** 0 before a port is selected. */
  get number(): number {
    return this.#number
  }

  /**
   * Selects a port, or keeps the present one.
   * @throws Error when no port is free
   */
  async select(
    context: Pick<ProxyContext, 'ports' | 'log' | 'withPorts'>,
    { fixed, registered = 0, isRunning, address }: PortRequest,
  ): Promise<void> {
    if (fixed !== undefined) {
      this.#number = fixed
      return
    }
    const { ports, log } = context
    await context.withPorts(this.#proxyId, async (taken) => {
      // A running process keeps its port, even if another service claims the port as well.
      const isHeld = isRunning || (!this.#isTaken && !taken.has(this.#number))
      if (this.#number !== 0 && isHeld) return
      const isUsable = registered >= ports.min && registered <= ports.max && !taken.has(registered)
      if (this.#number === 0 && isUsable) {
        this.#number = registered
        return
      }
      const before = this.#number
      const others = before === 0 ? taken : new Set([...taken, before])
      this.#number = await findPort({ range: ports, taken: others, address })
      this.#isTaken = false
      if (before === 0) return
      log.warn(`${this.#proxyId}: port ${before} is used by another program; moving to ${this.#number}`)
    })
  }

  /**
   * Waits for the port to become free. Another program may have taken it while the proxy was not running.
   * @throws Error when the port stays in use; the next pass selects another one
   */
  async waitUntilFree(context: Pick<ProxyContext, 'wake'>, address: string): Promise<void> {
    const deadline = performance.now() + RELEASE_MS
    while (!(await isFree(this.#number, address))) {
      if (performance.now() > deadline) {
        this.#isTaken = true
        context.wake()
        throw new Error(`port ${this.#number} is used by another program`)
      }
      await sleep(POLL_MS)
    }
  }
}
