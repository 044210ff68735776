import { type AgentOptions, ConnectError, consul } from 'consul-connect'
import { DEFAULT_LEVEL, type LogLevel, toLevel } from './log.js'

/** An agent has no blocking query for its own configuration. */
const POLL_MS = 30_000
/** An agent logs each request that it refuses: after a refusal the pause is this many times longer. */
const REFUSED_PAUSES = 20

/**
 * Follows the log level of the Consul agent, as Consul's own proxy inherits it. Needs `agent:read`; without this right the
 * level is `info`. Agents report the level that they started with: after `consul reload` it is the old one.
 */
export class AgentLogLevel {
  readonly #agent: ReturnType<typeof consul>
  readonly #onLevel: (level: LogLevel) => void
  readonly #pollMs: number
  readonly #closed = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #level: LogLevel = DEFAULT_LEVEL

  /** @param onLevel - called with each level that differs from the last one, which at first is `info` */
  constructor(options: AgentOptions, onLevel: (level: LogLevel) => void, pollMs = POLL_MS) {
    this.#agent = consul(options)
    this.#onLevel = onLevel
    this.#pollMs = pollMs
    void this.#poll()
  }

  async close(): Promise<void> {
    this.#closed.abort()
    clearTimeout(this.#timer)
    await this.#agent.close()
  }

  async #poll(): Promise<void> {
    const { level, isRefused = false } = await this.#read()
    if (this.#closed.signal.aborted) return
    if (level !== undefined && level !== this.#level) {
      this.#level = level
      this.#onLevel(level)
    }
    const pauseMs = isRefused ? this.#pollMs * REFUSED_PAUSES : this.#pollMs
    this.#timer = setTimeout(() => void this.#poll(), pauseMs)
  }

  /** Reads the level; without one in the answer, the last level stays. */
  async #read(): Promise<{ readonly level?: LogLevel; readonly isRefused?: boolean }> {
    try {
      const { signal } = this.#closed
      return { level: levelIn(await this.#agent.request({ path: '/v1/agent/self', signal })) }
    } catch (error) {
      const isRefused = error instanceof ConnectError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN'
      return isRefused ? { level: DEFAULT_LEVEL, isRefused } : {}
    }
  }
}

/** The level in the answer of `GET /v1/agent/self`: agents before 1.7 have it in another place. */
function levelIn(body: unknown): LogLevel {
  const { DebugConfig } = record(body)
  const { Logging, LogLevel } = record(DebugConfig)
  return toLevel(record(Logging)['LogLevel'] ?? LogLevel) ?? DEFAULT_LEVEL
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {}
}
