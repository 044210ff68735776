import { type LoggerOptions, destination, pino } from 'pino'
import { build } from 'pino-pretty'
import { printable } from './printable.js'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]
export const DEFAULT_LEVEL: LogLevel = 'info'

/** Parses a log level, ignoring case; undefined for an unknown level. */
export function toLevel(text: unknown): LogLevel | undefined {
  if (typeof text !== 'string' || text.length > MAX_LEVEL_LENGTH) return undefined
  const name = text.toLowerCase()
  // Consul's name for `error`.
  return name === 'err' ? 'error' : LOG_LEVELS.find((level) => level === name)
}

const MAX_LEVEL_LENGTH = 16

/** Structured fields of a log line. They must not hold secrets. */
type Fields = Readonly<Record<string, unknown>>

export interface Log {
  readonly isDebug: boolean
  readonly level: LogLevel
  setLevel(level: LogLevel): void
  trace(message: string, fields?: Fields): void
  debug(message: string, fields?: Fields): void
  info(message: string, fields?: Fields): void
  /** Logs a warning. The same message is logged at most once a minute, with the number of suppressed ones as `repeated`. */
  warn(message: string, fields?: Fields): void
  error(message: string, fields?: Fields): void
}

export interface LogOptions {
  readonly level: LogLevel
  readonly json: boolean
  /** Number of the worker, added to each line. */
  readonly worker?: number
}

/** Minimum time between two equal warnings, so that hours of retries do not fill a disk. */
const REPEAT_MS = 60_000
const MAX_REMEMBERED = 1_000

/** Escapes every text: names come from peers, the agent, and requests, and may hold terminal control characters. */
const HOOKS: NonNullable<LoggerOptions['hooks']> = {
  logMethod([fields, message], method) {
    const shown = Object.entries(fields as Fields).map(([key, value]) => [
      key,
      typeof value === 'string' ? printable(value) : value,
    ])
    method.apply(this, [Object.fromEntries(shown), printable(message ?? '')])
  },
}

/** Creates a log that writes to standard error, as JSON lines or as text. */
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
      const repeated = countRepetition(repetitions, message, performance.now())
      if (repeated === undefined) return
      logger.warn(repeated === 0 ? fields : { ...fields, repeated }, message)
    },
    error: (message, fields = {}) => {
      logger.error(fields, message)
    },
  }
}

/** Returns how often a message was suppressed since it was last logged; undefined if it must be suppressed now. */
function countRepetition(
  repetitions: Map<string, { since: number; times: number }>,
  message: string,
  now: number,
): number | undefined {
  const before = repetitions.get(message)
  if (before !== undefined && now - before.since < REPEAT_MS) {
    before.times += 1
    return undefined
  }
  repetitions.delete(message)
  const oldest = repetitions.size >= MAX_REMEMBERED ? repetitions.keys().next() : undefined
  if (oldest?.done === false) repetitions.delete(oldest.value)
  repetitions.set(message, { since: now, times: 0 })
  return before?.times ?? 0
}
