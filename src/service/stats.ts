import type { DecisionBasis } from '../authorize/authorizer.js'
import type { ErrorCode } from '../base/errors.js'

/** Counters since the creation of the service, and current values, for a metrics library. */
export interface ServiceStats {
  /** Decisions for verified peers, by result and basis. */
  readonly decisions: readonly DecisionCount[]
  /** Connections that were closed because their peer was no longer authorized or trusted, by basis. */
  readonly revocations: readonly RevocationCount[]
  /** Failed handshakes and verifications, by `error.code`. */
  readonly rejections: readonly RejectionCount[]
  /** The number of open inbound connections. */
  readonly connections: number
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

/** Counts the results of inbound connections. */
export class StatsCollector {
  readonly #decisions = new Counter<Omit<DecisionCount, 'count'>>()
  readonly #revocations = new Counter<Omit<RevocationCount, 'count'>>()
  readonly #rejections = new Counter<Omit<RejectionCount, 'count'>>()

  decided({ authorized, basis }: Omit<DecisionCount, 'count'>): void {
    this.#decisions.add({ authorized, basis })
  }

  revoked({ basis }: Omit<RevocationCount, 'count'>): void {
    this.#revocations.add({ basis })
  }

  rejected(error: Error): void {
    const { code } = error as { readonly code?: unknown }
    this.#rejections.add({ code: typeof code === 'string' ? code : 'unknown' })
  }

  get counts(): Pick<ServiceStats, 'decisions' | 'revocations' | 'rejections'> {
    return {
      decisions: this.#decisions.counts,
      revocations: this.#revocations.counts,
      rejections: this.#rejections.counts,
    }
  }
}

/** A counter with labels, each with few values. */
class Counter<L extends object> {
  readonly #counts = new Map<string, L & { count: number }>()

  add(labels: L): void {
    const key = Object.values(labels).join(' ')
    const entry = this.#counts.get(key) ?? { ...labels, count: 0 }
    entry.count += 1
    this.#counts.set(key, entry)
  }

  get counts(): readonly (L & { readonly count: number })[] {
    return [...this.#counts.values()].map((entry) => ({ ...entry }))
  }
}
