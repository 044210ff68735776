import { type LoggerOptions, destination, pino } from 'pino'
import { build } from 'pino-pretty'
import { printable } from './printable.js'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]
export const DEFAULT_LEVEL: LogLevel = 'info'

/** The level that a text names, in any case and in Consul's spelling too; undefined when it names none. */
export function toLevel(text: unknown): LogLevel | undefined {
  if (typeof text !== 'string' || text.length > MAX_LEVEL_LENGTH) return undefined
  const name = text.toLowerCase()
  // Consul writes ERR.
  return name === 'err' ? 'error' : LOG_LEVELS.find((level) => level === name)
}

const MAX_LEVEL_LENGTH = 16

/** Fields of a line. They never hold a secret. */
type Fields = Readonly<Record<string, unknown>>

export interface Log {
  readonly isDebug: boolean
  readonly level: LogLevel
  setLevel(level: LogLevel): void
  trace(message: string, fields?: Fields): void
  debug(message: string, fields?: Fields): void
  info(message: string, fields?: Fields): void
  /** Writes the same message once a minute at most, with the number of repetitions. */
  warn(message: string, fields?: Fields): void
  error(message: string, fields?: Fields): void
}

export interface LogOptions {
  readonly level: LogLevel
  readonly json: boolean
  /** The number of this worker, a field of each line. */
  readonly worker?: number
}

/** The same warning is not repeated for this time: retries for hours must not fill a disk. */
const REPEAT_MS = 60_000
const MOST_REMEMBERED = 1_000

/** Names come from peers, the agent, and requests: they must not steer a terminal or disguise other names. */
const HOOKS: NonNullable<LoggerOptions['hooks']> = {
  logMethod([fields, message], method) {
    const shown = Object.entries(fields as Fields).map(([key, value]) => [
      key,
      typeof value === 'string' ? printable(value) : value,
    ])
    method.apply(this, [Object.fromEntries(shown), printable(message ?? '')])
  },
}

/** Logs to standard error: a line of JSON each, or one for people to read. */
export function openLog({ level, json, worker }: LogOptions): Log {
  const stderr = 2
  const stream = json
    ? destination({ fd: stderr, sync: true })
    : build({
        destination: stderr,
        sync: true,
        colorize: false,
        singleLine: true,
        translateTime: "UTC:yyyy-mm-dd'T'HH:MM:ss.l'Z'",
      })
  const base = worker === undefined ? null : { worker }
  const logger = pino({ level, base, timestamp: pino.stdTimeFunctions.epochTime, hooks: HOOKS }, stream)
  const repetitions = new Map<string, { since: number; times: number }>()
  return {
    get isDebug() {
      return logger.isLevelEnabled('debug')
    },
    get level() {
      return logger.level as LogLevel
    },
    setLevel: (next) => {
      logger.level = next
    },
    trace: (message, fields = {}) => {
      logger.trace(fields, message)
    },
    debug: (message, fields = {}) => {
      logger.debug(fields, message)
    },
    info: (message, fields = {}) => {
      logger.info(fields, message)
    },
    warn: (message, fields = {}) => {
      const repeated = repeats(repetitions, message, performance.now())
      if (repeated === undefined) return
      logger.warn(repeated === 0 ? fields : { ...fields, repeated }, message)
    },
    error: (message, fields = {}) => {
      logger.error(fields, message)
    },
  }
}

/** How often a message was repeated since it was last logged; undefined while it must not be logged again. */
function repeats(
  repetitions: Map<string, { since: number; times: number }>,
  words: string,
  now: number,
): number | undefined {
  const before = repetitions.get(words)
  if (before !== undefined && now - before.since < REPEAT_MS) {
    before.times += 1
    return undefined
  }
  repetitions.delete(words)
  const oldest = repetitions.size >= MOST_REMEMBERED ? repetitions.keys().next() : undefined
  if (oldest?.done === false) repetitions.delete(oldest.value)
  repetitions.set(words, { since: now, times: 0 })
  return before?.times ?? 0
}
