import type { RetryDefinition } from '../../agent/endpoints/chain-nodes.js'
import { backoffMs } from '../../base/backoff.js'

/** When a request is sent again: the retry conditions of Envoy. */
export interface RetryPolicy {
  /** The most retries of a request. */
  readonly most: number
  readonly conditions: ReadonlySet<Condition>
  readonly statusCodes: ReadonlySet<number>
}

/** What happened to an attempt before its response. */
export type Failure = 'not connected' | 'reset' | 'refused'

/** The conditions that Consul accepts, in the terms of Envoy. Those of the last line are statuses of gRPC. */
const CONDITIONS = [
  '5xx',
  'gateway-error',
  'reset',
  'connect-failure',
  'refused-stream',
  'retriable-4xx',
  'retriable-status-codes',
  'envoy-ratelimited',
  'cancelled',
  'deadline-exceeded',
  'resource-exhausted',
  'internal',
  'unavailable',
] as const

type Condition = (typeof CONDITIONS)[number]

const GRPC_STATUSES: ReadonlyMap<string, Condition> = new Map([
  ['1', 'cancelled'],
  ['4', 'deadline-exceeded'],
  ['8', 'resource-exhausted'],
  ['13', 'internal'],
  ['14', 'unavailable'],
])

/**
 * Returns the policy of a route; undefined for a route without retries.
 * @param onIgnored - receives what is wrong with a condition that is left out
 */
export function retryPolicy(
  { most, onConnectFailure, onStatusCodes, on }: RetryDefinition,
  onIgnored: (problem: string) => void,
): RetryPolicy | undefined {
  const conditions = new Set<Condition>()
  for (const name of on) {
    const condition = CONDITIONS.find((known) => known === name)
    if (condition === undefined) onIgnored(`the retry condition ${JSON.stringify(name)} is not supported`)
    else conditions.add(condition)
  }
  if (onConnectFailure) conditions.add('connect-failure')
  if (onStatusCodes.length > 0) conditions.add('retriable-status-codes')
  return conditions.size === 0 ? undefined : { most, conditions, statusCodes: new Set(onStatusCodes) }
}

/**
 * Whether a response is a reason to send the request again.
 * @param header - returns the value of a header, by its name in lower case
 */
export function retriesResponse(
  { conditions, statusCodes }: RetryPolicy,
  status: number,
  header: (name: string) => string | undefined,
): boolean {
  // A service that limits rates asks for fewer requests.
  if (header('x-envoy-ratelimited') !== undefined) return conditions.has('envoy-ratelimited')
  if (conditions.has('5xx') && status >= 500 && status <= 599) return true
  if (conditions.has('gateway-error') && status >= 502 && status <= 504) return true
  if (conditions.has('retriable-4xx') && status === 409) return true
  if (conditions.has('retriable-status-codes') && statusCodes.has(status)) return true
  const grpc = GRPC_STATUSES.get(header('grpc-status') ?? '')
  return grpc !== undefined && conditions.has(grpc)
}

/** Whether a failure before the response is a reason to send the request again. */
export function retriesFailure({ conditions }: RetryPolicy, failure: Failure): boolean {
  // Envoy counts an attempt without a response as a response with the status 503.
  if (conditions.has('5xx') || conditions.has('gateway-error') || conditions.has('reset')) return true
  if (failure === 'refused') return conditions.has('refused-stream')
  return failure === 'not connected' && conditions.has('connect-failure')
}

/** The pause before a retry is drawn from 0 to this bound, which doubles; the values of Envoy. */
const BACKOFF = { firstMs: 25, longestMs: 250 }

/** @param retries - the number of retries so far, with this one */
export function retryPauseMs(retries: number, random: () => number): number {
  return random() * backoffMs(BACKOFF, retries)
}

/** At most this share of the pending requests of a leg may be retries, but always a few, so that retries add little load. */
const MOST_RETRIES = { share: 0.2, always: 3 }

export function mayRetry(pending: number, retrying: number): boolean {
  return retrying < Math.max(MOST_RETRIES.always, pending * MOST_RETRIES.share)
}
