/** The sessions of a service, which carry many connections each. */
export interface SessionStats {
  /** Open sessions that peers have dialed. */
  readonly inbound: number
  /** Open sessions that this service has dialed. */
  readonly outbound: number
  /** Open connections in all of them. */
  readonly streams: number
  /** Connections that were opened in a session since the creation of the service. */
  readonly opened: number
  /** Connections that could not be opened in a session, because it was full or about to end. */
  readonly refused: number
}

/** Counts the sessions of a service. */
export type SessionCounts = { -readonly [K in keyof SessionStats]: SessionStats[K] }

export function sessionCounts(): SessionCounts {
  return { inbound: 0, outbound: 0, streams: 0, opened: 0, refused: 0 }
}
