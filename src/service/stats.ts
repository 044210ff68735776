import type { DecisionBasis } from '../authorize/authorizer.js'
import type { ErrorCode } from '../base/errors.js'

/** Counts since the service was made, and how things stand now: for a metrics library to read whenever it wants. */
export interface ServiceStats {
  /** Connections whose peer proved who it is, by what was decided and on what ground. */
  readonly decisions: readonly DecisionCount[]
  /** Open connections that were ended since their peer may no longer connect, by the ground of that. */
  readonly revocations: readonly RevocationCount[]
  /** Connections whose peer did not prove who it is, by `error.code`. */
  readonly rejections: readonly RejectionCount[]
  /** Inbound connections that are open now. */
  readonly connections: number
  /** How many intentions are known; undefined while none are asked for, or they cannot be read. */
  readonly intentions: number | undefined
  /** For how long the agent has been away, in milliseconds; 0 while it is there. */
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
  /** One of this library's, of Node's or of OpenSSL's; `unknown` where the error has none. */
  readonly code: ErrorCode | (string & {})
  readonly count: number
}

/** Counts what becomes of inbound connections. */
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

/** Counts by a few labels, each with few values. */
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
