import { type Bounds, withDeadline, isAborted } from '../base/deadline.js'
import { systemClock } from '../base/clock.js'
import {
  type DialAttempt,
  DialError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../base/errors.js'
import type { IdentityStore } from '../identity/identity-store.js'
import { type ResolveRequest, resolveEndpoints } from '../resolve/resolver.js'
import type { Route } from '../resolve/routes.js'
import { type DialMessage, dials } from './diagnostics.js'
import { type Patience, connect } from './connect.js'
import { connectionOf, isPeerTrusted } from './connection.js'
import { withdrawnRoot } from './verify-peer.js'
import type { MeshSocket } from './mesh-socket.js'
import { DialRace } from './dial-race.js'

export interface DialBounds extends Bounds {
  readonly patience: Patience
}

/**
 * An instance that is silent for so long is no longer waited for alone: the next is tried beside it. Half of what is
 * left, when that is less. A handshake takes milliseconds in a datacenter, and a few hundred between continents.
 */
const LONGEST_HEAD_START_MS = 1_000
const SHORTEST_HEAD_START_MS = 100
/** How many tries a message tells of; the error has all of them. */
const SHOWN = 5

/**
 * Dials an upstream: one deadline over our own readiness, the resolver, and every instance that is tried.
 * @throws DialError, TimeoutError, AbortError, IdentityError, AgentError
 */
export async function dial(identity: IdentityStore, route: Route, bounds: DialBounds): Promise<MeshSocket> {
  const { resolver } = route
  const tries = new DialRace()
  const what = `dial ${resolver.name}`
  const begin = performance.now()
  const tell = (outcome: Pick<DialMessage, 'peer' | 'address' | 'error'>): void => {
    if (!dials.hasSubscribers) return
    const durationMs = performance.now() - begin
    const { attempts } = tries
    dials.publish({
      service: identity.service,
      upstream: resolver.name,
      durationMs,
      attempts,
      ...outcome,
    })
  }
  try {
    const socket = await withDeadline(
      what,
      bounds,
      (signal) => tryInstances(identity, route, tries, { ...bounds, signal }),
      (late) => late.destroy(),
    )
    tell({ peer: socket.peer, address: tries.winnerAddress, error: undefined })
    return socket
  } catch (thrown) {
    const error = toError(thrown)
    const { attempts } = tries
    const cause = attempts.at(-1)?.error ?? resolver.lastError ?? identity.lastError
    const failure =
      error instanceof TimeoutError ? new TimeoutError(what, bounds.timeoutMs, { attempts, cause }) : error
    tell({ peer: undefined, address: undefined, error: failure })
    throw failure
  }
}

async function tryInstances(
  identity: IdentityStore,
  { resolver, balancer }: Route,
  tries: DialRace,
  { signal, timeoutMs, patience }: DialBounds & { readonly signal: AbortSignal },
): Promise<MeshSocket> {
  const deadline = performance.now() + timeoutMs
  const { leaf } = await identity.ready({ signal, timeoutMs })
  const request: ResolveRequest = { signal, datacenter: leaf.id.datacenter, refresh: false }
  let endpoints = await resolveEndpoints(resolver, request)
  let isRefreshed = false
  const tried = new Set<object>()
  const onAbort = (): void => {
    tries.end(signal.reason instanceof TimeoutError ? 'late' : 'aborted')
  }
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    for (;;) {
      if (isAborted(signal)) throw toError(signal.reason)
      // Asked for on each try: the generation may have changed since the last.
      const generation = identity.require()
      const choice = balancer.choose(endpoints, resolver.isSorted === true, tried)
      if (choice !== undefined) {
        tries.begin(choice, async (within) => {
          const socket = await connect(choice.endpoint, generation, { signal: within, patience })
          return expectTrusted(socket, identity)
        })
      } else if (tries.underWay === 0) {
        if (isRefreshed) throw failure(resolver.name, tries.attempts)
        // All have failed; there may be others by now.
        isRefreshed = true
        endpoints = await resolveEndpoints(resolver, { ...request, refresh: true }).catch(
          (error: unknown) => {
            throw isAborted(signal) ? error : failure(resolver.name, tries.attempts, error)
          },
        )
        continue
      }
      await tries.news(choice === undefined ? undefined : headStartMs(deadline - performance.now()))
      if (tries.winner !== undefined) return tries.winner
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    if (tries.winner === undefined) tries.end('aborted')
  }
}

/** The roots may have changed since the handshake began: OpenSSL verified the path against those of that moment. */
function expectTrusted(socket: MeshSocket, identity: IdentityStore): MeshSocket {
  const connection = connectionOf(socket)
  const { roots } = identity.require()
  if (connection !== undefined && isPeerTrusted(connection, roots, systemClock.now())) return socket
  socket.destroy()
  throw withdrawnRoot()
}

function headStartMs(leftMs: number): number {
  return Math.max(SHORTEST_HEAD_START_MS, Math.min(LONGEST_HEAD_START_MS, leftMs / 2))
}

function failure(upstream: string, attempts: readonly DialAttempt[], refusal?: unknown): DialError {
  const shown = attempts
    .slice(0, SHOWN)
    .map(({ address, error, durationMs }) => `${address} (${durationMs} ms): ${messageOf(error)}`)
  const more = attempts.length > SHOWN ? `; and ${attempts.length - SHOWN} more` : ''
  const tries = `${shown.join('; ')}${more}`
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
