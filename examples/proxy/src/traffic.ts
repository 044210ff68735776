import type { Log } from './log.js'

type Direction = 'inbound' | 'upstream'

/** How a connection ended: `ended` when both sides had said all; `unreachable` when the other end was not reached. */
export type CloseReason = 'ended' | 'broken' | 'idle' | 'revoked' | 'unreachable' | 'shutdown'

/** A connection through the proxy, as it stands now. */
export interface Connection {
  /** Bytes from the application to the mesh. */
  readonly sent: number
  /** Bytes from the mesh to the application. */
  readonly received: number
  readonly durationMs: number
  readonly peer: { readonly spiffeId: string } | undefined
  /** The address at the mesh's end. */
  readonly remote: string | undefined
}

/** Where connections come in: the public listener, with the service's name, or an upstream's, with that one's. */
export interface Door {
  readonly direction: Direction
  readonly name: string
}

/** What went through one door since the start. */
export interface Totals extends Door {
  readonly opened: number
  readonly open: number
  readonly closed: ReadonlyMap<CloseReason, number>
  readonly sent: number
  readonly received: number
}

interface Counts extends Door {
  opened: number
  readonly open: Set<Connection>
  readonly closed: Map<CloseReason, number>
  /** Of those that are closed. */
  sent: number
  received: number
}

/** Far more than the turns of the event loop that it takes. */
const SETTLE_MS = 1_000

/** Counts connections and bytes, and writes a line for each connection that has ended. */
export class Traffic {
  readonly #log: Log
  readonly #doors = new Map<string, Counts>()
  #open = 0
  #onEmpty: (() => void) | undefined

  constructor(log: Log) {
    this.#log = log
  }

  opened(door: Door, connection: Connection): void {
    const counts = this.#at(door)
    counts.opened += 1
    this.#open += 1
    counts.open.add(connection)
  }

  closed(door: Door, connection: Connection, reason: CloseReason, error?: Error): void {
    const counts = this.#at(door)
    const { sent, received } = connection
    counts.open.delete(connection)
    counts.closed.set(reason, (counts.closed.get(reason) ?? 0) + 1)
    counts.sent += sent
    counts.received += received
    this.#open -= 1
    if (this.#open === 0) this.#onEmpty?.()
    if (!this.#log.isDebug) return
    this.#log.debug('connection', {
      ...door,
      peer: connection.peer?.spiffeId,
      remote: connection.remote,
      sent,
      received,
      duration_ms: Math.round(connection.durationMs),
      reason,
      error: error?.message,
    })
  }

  /** Resolves when every connection that was cut has been accounted for, which is a matter of moments. */
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
    return [...this.#doors.values()].map(({ direction, name, opened, open, closed, ...bytes }) => {
      let { sent, received } = bytes
      for (const connection of open) {
        sent += connection.sent
        received += connection.received
      }
      return { direction, name, opened, open: open.size, closed, sent, received }
    })
  }

  #at({ direction, name }: Door): Counts {
    const key = `${direction} ${name}`
    let counts = this.#doors.get(key)
    if (counts === undefined) {
      counts = { direction, name, opened: 0, open: new Set(), closed: new Map(), sent: 0, received: 0 }
      this.#doors.set(key, counts)
    }
    return counts
  }
}
