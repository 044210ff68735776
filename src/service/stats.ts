import type { DecisionBasis } from '../authorize/decision.js'
import type { DialTarget, ErrorCode } from '../base/errors.js'
import type { SessionStats } from '../transport/mux/session-counts.js'
import type { DialMessage } from '../transport/diagnostics.js'

/** Counters since the creation of the service, and current values, for a metrics library. */
export interface ServiceStats {
  /** Decisions for verified peers, by result and basis. */
  readonly decisions: readonly DecisionCount[]
  /** Decisions for HTTP requests of peers whose intention has permissions, by result and basis. */
  readonly requests: readonly DecisionCount[]
  /** Connections and requests that were ended because their peer was no longer authorized or trusted, by basis. */
  readonly revocations: readonly RevocationCount[]
  /** Failed handshakes and verifications, by `error.code`. */
  readonly rejections: readonly RejectionCount[]
  /** Connection attempts of dials, by upstream, target, and outcome. A dial may make several. */
  readonly attempts: readonly AttemptCount[]
  /** The number of open inbound connections. */
  readonly connections: number
  /** The sessions that carry many connections each. */
  readonly sessions: SessionStats
  /** The number of intentions; undefined before their first use and while they cannot be read. */
  readonly intentions: number | undefined
  /** How long the agent has not answered, in milliseconds; 0 while it answers. */
  readonly staleMs: number
}

export interface DecisionCount {
  readonly authorized: boolean
  readonly basis: DecisionBasis
  readonly count: number
}

export interface RevocationCount {
  readonly basis: DecisionBasis
  readonly count: number
}

export interface RejectionCount {
  /** A code of this library, Node.js, or OpenSSL; `unknown` for an error without one. */
  readonly code: ErrorCode | (string & {})
  readonly count: number
}

/** Attempts to connect to one target of an upstream. */
export interface AttemptCount extends DialTarget {
  /** The name of the upstream, as in errors. */
  readonly upstream: string
  readonly connected: boolean
  readonly count: number
}

/** Counts the results of inbound connections and of dials. */
export class StatsCollector {
  readonly #decisions = new Counter<Omit<DecisionCount, 'count'>>()
  readonly #requests = new Counter<Omit<DecisionCount, 'count'>>()
  readonly #revocations = new Counter<Omit<RevocationCount, 'count'>>()
  readonly #rejections = new Counter<Omit<RejectionCount, 'count'>>()
  readonly #attempts = new Counter<Omit<AttemptCount, 'count'>>()

  decided({ authorized, basis }: Omit<DecisionCount, 'count'>): void {
    this.#decisions.add({ authorized, basis })
  }

  requested({ authorized, basis }: Omit<DecisionCount, 'count'>): void {
    this.#requests.add({ authorized, basis })
  }

  revoked({ basis }: Omit<RevocationCount, 'count'>): void {
    this.#revocations.add({ basis })
  }

  rejected(error: Error): void {
    const { code } = error as { readonly code?: unknown }
    this.#rejections.add({ code: typeof code === 'string' ? code : 'unknown' })
  }

  dialed({ upstream, target, attempts }: Pick<DialMessage, 'upstream' | 'target' | 'attempts'>): void {
    for (const failed of attempts) this.#attempted(upstream, failed.target, false)
    if (target !== undefined) this.#attempted(upstream, target, true)
  }

  #attempted(upstream: string, target: DialTarget, connected: boolean): void {
    this.#attempts.add({ upstream, ...target, connected }, { ...OTHER, connected })
  }

  get counts(): Pick<ServiceStats, 'decisions' | 'requests' | 'revocations' | 'rejections' | 'attempts'> {
    return {
      decisions: this.#decisions.counts,
      requests: this.#requests.counts,
      revocations: this.#revocations.counts,
      rejections: this.#rejections.counts,
      attempts: this.#attempts.counts,
    }
  }
}

/** Upper bound on the label sets of a counter: names of upstreams may come from untrusted input. */
const MAX_COUNTS = 2_048

/** The labels of all attempts beyond the bound. */
const OTHER = {
  upstream: 'other',
  service: 'other',
  subset: undefined,
  namespace: undefined,
  partition: undefined,
  datacenter: undefined,
}

/** A counter with labels. */
class Counter<L extends object> {
  readonly #counts = new Map<string, L & { count: number }>()

  /** @param beyond - what is counted instead of new labels beyond the bound. @default the labels */
  add(labels: L, beyond: L = labels): void {
    const key = Object.values(labels).join(' ')
    if (beyond !== labels && this.#counts.size >= MAX_COUNTS && !this.#counts.has(key)) {
      this.add(beyond)
      return
    }
    const entry = this.#counts.get(key) ?? { ...labels, count: 0 }
    entry.count += 1
    this.#counts.set(key, entry)
  }

  get counts(): readonly (L & { readonly count: number })[] {
    return [...this.#counts.values()].map((entry) => ({ ...entry }))
  }
}
