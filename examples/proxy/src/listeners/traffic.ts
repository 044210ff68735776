import { ConnectError } from 'consul-connect'
import type { Log } from '../operator/log.js'

type Direction = 'inbound' | 'upstream'

/**
 * How a connection ended.
 * - `ended`: both sides had finished
 * - `broken`: an error
 * - `idle`: the idle timeout
 * - `revoked`: the peer is no longer authorized or trusted
 * - `unreachable`: the application or upstream could not be reached
 * - `shutdown`: the proxy was stopped
 */
export type CloseReason = 'ended' | 'broken' | 'idle' | 'revoked' | 'unreachable' | 'shutdown'

/** A connection through the proxy. The properties change while it is open. */
export interface Connection {
  /** Bytes from the application to the mesh. */
  readonly sent: number
  /** Bytes from the mesh to the application. */
  readonly received: number
  readonly durationMs: number
  readonly peer: { readonly spiffeId: string } | undefined
  /** Address of the peer in the mesh. */
  readonly remote: string | undefined
}

/** Labels of a listener. The name is that of the service for the public listener, or else that of the upstream. */
export interface ListenerLabels {
  readonly direction: Direction
  readonly name: string
}

/** Counts of a listener since the start of the process. */
export interface Totals extends ListenerLabels {
  readonly opened: number
  readonly open: number
  readonly closed: ReadonlyMap<CloseReason, number>
  readonly sent: number
  readonly received: number
}

interface Counts extends ListenerLabels {
  opened: number
  readonly open: Set<Connection>
  readonly closed: Map<CloseReason, number>
  /** Bytes of closed connections. */
  sent: number
  received: number
}

/** Bound on `settled()`. Destroyed connections report their end within a few turns of the event loop. */
const SETTLE_MS = 1_000

/** Counts connections and bytes by listener, and logs each closed connection at `debug`. */
export class Traffic {
  readonly #log: Log
  readonly #counts = new Map<string, Counts>()
  #open = 0
  #onEmpty: (() => void) | undefined

  constructor(log: Log) {
    this.#log = log
  }

  opened(labels: ListenerLabels, connection: Connection): void {
    const counts = this.#countsOf(labels)
    counts.opened += 1
    this.#open += 1
    counts.open.add(connection)
  }

  closed(labels: ListenerLabels, connection: Connection, reason: CloseReason, error?: Error): void {
    const counts = this.#countsOf(labels)
    const { sent, received } = connection
    counts.open.delete(connection)
    counts.closed.set(reason, (counts.closed.get(reason) ?? 0) + 1)
    counts.sent += sent
    counts.received += received
    this.#open -= 1
    if (this.#open === 0) this.#onEmpty?.()
    if (!this.#log.isDebug) return
    this.#log.debug('connection', {
      ...labels,
      peer: connection.peer?.spiffeId,
      remote: connection.remote,
      sent,
      received,
      duration_ms: Math.round(connection.durationMs),
      reason,
      error: error?.message,
    })
  }

  /** Resolves when all connections have been counted as closed, after 1 s at most. Call it after destroying them. */
  async settled(): Promise<void> {
    if (this.#open === 0) return
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#onEmpty = resolve
      timer = setTimeout(resolve, SETTLE_MS)
    })
    clearTimeout(timer)
  }

  totals(): Totals[] {
    return [...this.#counts.values()].map(({ direction, name, opened, open, closed, ...bytes }) => {
      let { sent, received } = bytes
      for (const connection of open) {
        sent += connection.sent
        received += connection.received
      }
      return { direction, name, opened, open: open.size, closed, sent, received }
    })
  }

  #countsOf({ direction, name }: ListenerLabels): Counts {
    const key = `${direction} ${name}`
    let counts = this.#counts.get(key)
    if (counts === undefined) {
      counts = { direction, name, opened: 0, open: new Set(), closed: new Map(), sent: 0, received: 0 }
      this.#counts.set(key, counts)
    }
    return counts
  }
}

/** Classifies the error that ended an open connection. */
export function closeReason(error: unknown, isShuttingDown: boolean): CloseReason {
  if (error instanceof ConnectError && error.code === 'ERR_CONNECT_REVOKED') return 'revoked'
  if (error instanceof ConnectError && error.code === 'ERR_CONNECT_TIMEOUT') return 'idle'
  return isShuttingDown ? 'shutdown' : 'broken'
}
