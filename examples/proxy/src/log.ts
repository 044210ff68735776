import { type LoggerOptions, destination, pino } from 'pino'
import { build } from 'pino-pretty'
import { printable } from './printable.js'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** Fields of a line. Nothing secret is ever passed to a log. */
type Fields = Readonly<Record<string, unknown>>

export interface Log {
  readonly isDebug: boolean
  setLevel(level: LogLevel): void
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
  const said = new Map<string, { since: number; times: number }>()
  return {
    get isDebug() {
      return logger.isLevelEnabled('debug')
    },
    setLevel: (next) => {
      logger.level = next
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
