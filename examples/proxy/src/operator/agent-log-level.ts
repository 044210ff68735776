import { type AgentOptions, ConnectError, consul } from 'consul-connect'
import { DEFAULT_LEVEL, type LogLevel, toLevel } from './log.js'

/** The agent's configuration has no blocking query, so it is polled. */
const POLL_MS = 30_000
/** Factor on the poll interval after a 403, because the agent logs each denied request. */
const FORBIDDEN_PAUSE_FACTOR = 20

/**
 * Follows the log level of the Consul agent; Consul's built-in proxy inherits it in the same way. Requires `agent:read`,
 * otherwise the level is `info`. The agent reports the level it was started with, even after `consul reload` changed it.
 */
export class AgentLogLevel {
  readonly #agent: ReturnType<typeof consul>
  readonly #onLevel: (level: LogLevel) => void
  readonly #pollMs: number
  readonly #closed = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #level: LogLevel = DEFAULT_LEVEL

  /** @param onLevel - called with the new level after each change; the initial level is `info` */
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
    const { level, isForbidden = false } = await this.#read()
    if (this.#closed.signal.aborted) return
    if (level !== undefined && level !== this.#level) {
      this.#level = level
      this.#onLevel(level)
    }
    const pauseMs = isForbidden ? this.#pollMs * FORBIDDEN_PAUSE_FACTOR : this.#pollMs
    this.#timer = setTimeout(() => void this.#poll(), pauseMs)
  }

  /** Reads the level. Returns no level when the request fails, so that the current level stays. */
  async #read(): Promise<{ readonly level?: LogLevel; readonly isForbidden?: boolean }> {
    try {
      const { signal } = this.#closed
      return { level: parseLevel(await this.#agent.request({ path: '/v1/agent/self', signal })) }
    } catch (error) {
      const isForbidden = error instanceof ConnectError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN'
      return isForbidden ? { level: DEFAULT_LEVEL, isForbidden } : {}
    }
  }
}

/** Reads the level from the response of `GET /v1/agent/self`. Consul before 1.7 reports `DebugConfig.LogLevel`. */
function parseLevel(body: unknown): LogLevel {
  const { DebugConfig } = asRecord(body)
  const { Logging, LogLevel } = asRecord(DebugConfig)
  return toLevel(asRecord(Logging)['LogLevel'] ?? LogLevel) ?? DEFAULT_LEVEL
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {}
}
