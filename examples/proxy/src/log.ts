import { destination, pino } from 'pino'
import { build } from 'pino-pretty'

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

/** Fields of a line. Nothing secret is ever passed to a log. */
type Fields = Readonly<Record<string, unknown>>

export interface Log {
  readonly isDebug: boolean
  readonly level: LogLevel
  setLevel(level: LogLevel): void
  trace(message: string, fields?: Fields): void
  debug(message: string, fields?: Fields): void
  info(message: string, fields?: Fields): void
  /** The same words within a minute are one line, which says how often they were said. */
  warn(message: string, fields?: Fields): void
  error(message: string, fields?: Fields): void
}

export interface LogOptions {
  readonly level: LogLevel
  readonly json: boolean
  /** A field of each line, for a process that is one of several. */
  readonly worker?: number
}

/** How long the same warning is not repeated: what is retried for hours must not fill a disk. */
const REPEAT_MS = 60_000
const MOST_REMEMBERED = 1_000

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
  const logger = pino({ level, base, timestamp: pino.stdTimeFunctions.epochTime }, stream)
  const said = new Map<string, { since: number; times: number }>()
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
      const repeated = repeats(said, message, performance.now())
      if (repeated === undefined) return
      logger.warn(repeated === 0 ? fields : { ...fields, repeated }, message)
    },
    error: (message, fields = {}) => {
      logger.error(fields, message)
    },
  }
}

/** How often the words were said since they were last logged; undefined when they are not to be logged again yet. */
function repeats(
  said: Map<string, { since: number; times: number }>,
  words: string,
  now: number,
): number | undefined {
  const before = said.get(words)
  if (before !== undefined && now - before.since < REPEAT_MS) {
    before.times += 1
    return undefined
  }
  said.delete(words)
  const oldest = said.size >= MOST_REMEMBERED ? said.keys().next() : undefined
  if (oldest?.done === false) said.delete(oldest.value)
  said.set(words, { since: now, times: 0 })
  return before?.times ?? 0
}
