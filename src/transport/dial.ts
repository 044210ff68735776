import { type Bounds, bounded } from '../bounded.js'
import {
  ConnectError,
  type DialAttempt,
  DialError,
  SpiffeIdError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../errors.js'
import type { Generation, IdentityStore } from '../identity/store.js'
import { log } from '../log.js'
import type { Choice } from '../resolve/balance.js'
import { type Endpoint, type ResolveRequest, resolveEndpoints } from '../resolve/resolver.js'
import type { Route } from '../resolve/routes.js'
import { connect } from './connect.js'
import type { MeshSocket } from './socket.js'

export interface DialBounds extends Bounds {
  readonly allowHalfOpen: boolean
}

/** Of many instances each has at least so long before the next is tried, or half of what is left. */
const SHORTEST_SHARE_MS = 1_000
/** One that was silent for less has proved nothing: it may only have been the caller who was in a hurry. */
const SHORTEST_SILENCE_MS = 500

/** The bound of the last try is the deadline itself; its own comes after that. */
const DEADLINE_MARGIN_MS = 1_000

/** What the system says of us and not of the instance. */
const OWN_FAULTS: ReadonlySet<string | undefined> = new Set([
  'EMFILE',
  'ENFILE',
  'ENOBUFS',
  'ENOMEM',
  'EADDRNOTAVAIL',
  'EACCES',
  'EPERM',
])

/**
 * Dials an upstream: one deadline over our own readiness, the resolver, and every instance that is tried.
 * @throws DialError, TimeoutError, AbortError, IdentityError, AgentError
 */
export async function dial(identity: IdentityStore, route: Route, bounds: DialBounds): Promise<MeshSocket> {
  const { resolver } = route
  const attempts: DialAttempt[] = []
  const what = `dial ${resolver.name}`
  try {
    return await bounded(
      what,
      bounds,
      (signal) => tryInstances(identity, route, { ...bounds, signal }, attempts),
      (late) => late.destroy(),
    )
  } catch (error) {
    if (!(error instanceof TimeoutError)) throw error
    const cause = attempts.at(-1)?.error ?? resolver.lastError ?? identity.lastError
    throw new TimeoutError(what, bounds.timeoutMs, { attempts, cause })
  }
}

async function tryInstances(
  identity: IdentityStore,
  { resolver, balancer }: Route,
  { signal, timeoutMs, allowHalfOpen }: DialBounds & { readonly signal: AbortSignal },
  attempts: DialAttempt[],
): Promise<MeshSocket> {
  const deadline = performance.now() + timeoutMs
  const { leaf } = await identity.ready({ signal, timeoutMs })
  const request: ResolveRequest = { signal, datacenter: leaf.id.datacenter, refresh: false }
  let endpoints = await resolveEndpoints(resolver, request)
  let isRefreshed = false
  const course = balancer.start()
  for (;;) {
    // Asked for on each try: the generation may have changed since the last.
    const generation = identity.require()
    const choice = course.next(endpoints, resolver.isSorted === true)
    if (choice === undefined) {
      if (isRefreshed) throw failure(resolver.name, attempts)
      // All have failed; there may be others by now.
      isRefreshed = true
      endpoints = await resolveEndpoints(resolver, { ...request, refresh: true }).catch((error: unknown) => {
        if (signal.aborted) throw error
        throw failure(resolver.name, attempts, error)
      })
      continue
    }
    const share = shareOf(deadline - performance.now(), Math.max(0, endpoints.length - course.count))
    const socket = await attempt(choice, generation, { signal, timeoutMs: share, allowHalfOpen }, attempts)
    if (socket !== undefined) return socket
  }
}

/** An instance that never answers may use up its share of the time, and leaves the others theirs. */
function shareOf(leftMs: number, others: number): number {
  if (others === 0) return leftMs + DEADLINE_MARGIN_MS
  return Math.max(leftMs / (others + 1), Math.min(leftMs / 2, SHORTEST_SHARE_MS))
}

async function attempt(
  choice: Choice,
  generation: Generation,
  share: { signal: AbortSignal; timeoutMs: number; allowHalfOpen: boolean },
  attempts: DialAttempt[],
): Promise<MeshSocket | undefined> {
  const { endpoint } = choice
  const address = addressOf(endpoint)
  const startedAt = performance.now()
  const { allowHalfOpen } = share
  const work = (signal: AbortSignal): Promise<MeshSocket> =>
    connect(endpoint, generation, { signal, allowHalfOpen })
  try {
    const socket = await bounded(`connecting to ${address}`, share, work, (late) => late.destroy())
    socket.once('close', choice.connected())
    log.dial('%s: connected to %s', address, socket.peer.spiffeId)
    return socket
  } catch (thrown) {
    const durationMs = Math.round(performance.now() - startedAt)
    const isLate = share.signal.reason instanceof TimeoutError
    const error = isLate ? new TimeoutError(`connecting to ${address}`, durationMs) : toError(thrown)
    log.dial('%s: %s', address, messageOf(error))
    attempts.push({ address, error, durationMs })
    if (isItsFault(error, durationMs)) choice.failed()
    else choice.abandoned()
    if (share.signal.aborted) throw error
    return undefined
  }
}

function isItsFault(error: Error, durationMs: number): boolean {
  if (error instanceof TimeoutError) return durationMs >= SHORTEST_SILENCE_MS
  // Of our own errors only those say something of the peer that come from its certificate.
  if (error instanceof VerificationError || error instanceof SpiffeIdError) return true
  return !(error instanceof ConnectError) && !OWN_FAULTS.has((error as NodeJS.ErrnoException).code)
}

function addressOf({ host, port }: Endpoint): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function failure(upstream: string, attempts: readonly DialAttempt[], refusal?: unknown): DialError {
  const tries = attempts
    .map(({ address, error, durationMs }) => `${address} (${durationMs} ms): ${messageOf(error)}`)
    .join('; ')
  if (refusal instanceof DialError && refusal.code === 'ERR_CONNECT_NO_INSTANCES') {
    const message = `no instance could be reached, and by now there is none: ${tries}`
    const { code, reason } = refusal
    return new DialError(code, upstream, message, { cause: refusal, attempts, ...(reason && { reason }) })
  }
  // Somebody who proved to be another is worse news than somebody who is away.
  const impostor = attempts.find(({ error }) => error instanceof VerificationError)?.error
  const cause = impostor ?? attempts.at(-1)?.error
  const code = impostor instanceof VerificationError ? impostor.code : 'ERR_CONNECT_DIAL_FAILED'
  return new DialError(code, upstream, `no instance could be reached: ${tries}`, { cause, attempts })
}
