import { type AgentOptions, ConnectError, agent } from 'consul-connect'
import { DEFAULT_LEVEL, type LogLevel, toLevel } from './log.js'

/** An agent has no blocking query for its own configuration. */
const POLL_MS = 30_000

/**
 * Follows the log level of the Consul agent, as Consul's own proxy inherits it. Needs `agent:read`; without this right the
 * level is `info`. Agents report the level that they started with: after `consul reload` it is the old one.
 */
export class AgentLogLevel {
  readonly #agent: ReturnType<typeof agent>
  readonly #onLevel: (level: LogLevel) => void
  readonly #pollMs: number
  readonly #closed = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #level: LogLevel = DEFAULT_LEVEL

  /** @param onLevel - called with each level that differs from the last one, which at first is `info` */
  constructor(options: AgentOptions, onLevel: (level: LogLevel) => void, pollMs = POLL_MS) {
    this.#agent = agent(options)
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
    const level = await this.#read()
    if (this.#closed.signal.aborted) return
    if (level !== undefined && level !== this.#level) {
      this.#level = level
      this.#onLevel(level)
    }
    this.#timer = setTimeout(() => void this.#poll(), this.#pollMs)
  }

  /** The level; undefined while it cannot be read, and the last one stays. */
  async #read(): Promise<LogLevel | undefined> {
    try {
      return levelIn(await this.#agent.request({ path: '/v1/agent/self', signal: this.#closed.signal }))
    } catch (error) {
      const isRefused = error instanceof ConnectError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN'
      return isRefused ? DEFAULT_LEVEL : undefined
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
