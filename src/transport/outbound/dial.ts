import { type Bounds, withDeadline, isAborted } from '../../base/deadline.js'
import { systemClock } from '../../base/clock.js'
import {
  type DialAttempt,
  DialError,
  TimeoutError,
  VerificationError,
  messageOf,
  toError,
} from '../../base/errors.js'
import type { Generation, IdentityStore } from '../../identity/identity-store.js'
import { type Endpoint, type ResolveRequest, dialPolicyOf, resolveEndpoints } from '../../resolve/resolver.js'
import type { ActiveUpstream } from '../../resolve/active-upstream.js'
import { type DialMessage, dials } from '../diagnostics.js'
import { type ConnectOptions, type SocketSettings, connect } from './connect.js'
import { connectionOf, isPeerTrusted } from '../connection.js'
import { withdrawnRoot } from '../verify-peer.js'
import type { MeshSocket } from '../mesh-socket.js'
import type { SessionPool } from '../mux/session-pool.js'
import { DialRace, type Dialed } from './dial-race.js'

export interface DialBounds extends Bounds {
  readonly socketSettings: SocketSettings
  /** The endpoint to try first, unless it is ejected. @default chosen by the balancer */
  readonly preferred?: Endpoint | undefined
}

export interface DialSettings extends DialBounds {
  /** The sessions to instances that take many connections over one. @default a connection of its own for each dial */
  readonly sessions: SessionPool | undefined
  /** Called when the dial has completed. */
  readonly report: (outcome: Pick<DialMessage, 'upstream' | 'target' | 'attempts'>) => void
}

/**
 * How long an attempt runs alone before the next one is started beside it: half of the remaining time within these
 * bounds. A handshake takes milliseconds inside a datacenter and a few hundred between continents.
 */
const MAX_HEAD_START_MS = 1_000
const MIN_HEAD_START_MS = 100
/** How many failed attempts the message of an error lists. Its `attempts` property holds all of them. */
const MAX_LISTED_ATTEMPTS = 5

/**
 * Dials an upstream. One deadline covers waiting for our certificate, resolving the upstream, and all connection
 * attempts.
 * @throws DialError, TimeoutError, AbortError, IdentityError, AgentError
 */
export async function dial(
  identity: IdentityStore,
  upstream: ActiveUpstream,
  bounds: DialSettings,
): Promise<Dialed> {
  const { resolver } = upstream
  const race = new DialRace()
  const what = `dial ${resolver.name}`
  const begin = performance.now()
  const publish = (outcome: Pick<DialMessage, 'peer' | 'address' | 'target' | 'error'>): void => {
    const { failures: attempts } = race
    const { name } = resolver
    bounds.report({ upstream: name, target: outcome.target, attempts })
    if (!dials.hasSubscribers) return
    const durationMs = performance.now() - begin
    dials.publish({ service: identity.service, upstream: name, durationMs, attempts, ...outcome })
  }
  try {
    const dialed = await withDeadline(
      what,
      bounds,
      (signal) => tryInstances(identity, upstream, race, { ...bounds, signal }),
      (late) => late.socket.destroy(),
    )
    const { address, target } = race.winnerPlace ?? {}
    publish({ peer: dialed.socket.peer, address, target, error: undefined })
    return dialed
  } catch (thrown) {
    const error = toError(thrown)
    const { failures: attempts } = race
    const cause = attempts.at(-1)?.error ?? resolver.lastError ?? identity.lastError
    const failure =
      error instanceof TimeoutError ? new TimeoutError(what, bounds.timeoutMs, { attempts, cause }) : error
    publish({ peer: undefined, address: undefined, target: undefined, error: failure })
    throw failure
  }
}

async function tryInstances(
  identity: IdentityStore,
  { resolver, balancer }: ActiveUpstream,
  race: DialRace,
  {
    signal,
    timeoutMs,
    socketSettings,
    preferred,
    sessions,
  }: Omit<DialSettings, 'report'> & { readonly signal: AbortSignal },
): Promise<Dialed> {
  const deadline = performance.now() + timeoutMs
  const { leaf } = await identity.ready({ signal, timeoutMs })
  const request: ResolveRequest = { signal, datacenter: leaf.id.datacenter, refresh: false }
  let endpoints = await resolveEndpoints(resolver, request)
  let isRefreshed = false
  /** Whether the pending attempts have had their time, and none of them ended. */
  let isSlow = false
  const tried = new Set<object>()
  const onAbort = (): void => {
    race.finish(signal.reason instanceof TimeoutError ? 'late' : 'aborted')
  }
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    for (;;) {
      if (race.winner !== undefined) return race.winner
      if (isAborted(signal)) throw toError(signal.reason)
      // The certificate may have been rotated since the last attempt.
      const generation = identity.require()
      const choice = balancer.choose(endpoints, resolver.isSorted === true, tried, preferred)
      if (choice !== undefined) {
        const { connectTimeoutMs } = dialPolicyOf(endpoints)
        const connectTo = async (within: AbortSignal): Promise<MeshSocket> =>
          expectTrusted(
            await connectOrOpen(choice.endpoint, generation, { signal: within, socketSettings, sessions }),
            identity,
          )
        race.start(choice, connectTo, connectTimeoutMs)
      } else if (race.pending === 0 || (isSlow && !isRefreshed)) {
        if (isRefreshed) throw failure(resolver.name, race.failures)
        // All instances failed or hang. Resolve again: there may be new ones, or another failover group.
        isRefreshed = true
        try {
          const resolving = resolveEndpoints(resolver, { ...request, refresh: true })
          endpoints = (await race.untilFinished(resolving)) ?? endpoints
        } catch (error) {
          if (isAborted(signal)) throw error
          if (race.pending === 0) throw failure(resolver.name, race.failures, error)
        }
        continue
      }
      const isLast = choice === undefined && isRefreshed
      isSlow = await race.nextChange(isLast ? undefined : headStartMs(deadline - performance.now()))
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    if (race.winner === undefined) race.finish('aborted')
  }
}

/** Opens a stream in a session if the instance takes it, or else a connection. */
async function connectOrOpen(
  endpoint: Endpoint,
  generation: Generation,
  { sessions, ...options }: ConnectOptions & Pick<DialSettings, 'sessions'>,
): Promise<MeshSocket> {
  const { signal, socketSettings } = options
  // Protocols are negotiated by a handshake.
  if (sessions !== undefined && endpoint.mux === true && socketSettings.alpnProtocols === undefined) {
    const { allowHalfOpen } = socketSettings
    const stream = await sessions.open(endpoint, {
      signal,
      allowHalfOpen,
      connect: (within, alpnProtocols) =>
        connect(endpoint, generation, {
          signal: within,
          socketSettings: { allowHalfOpen: true, expectsAnswer: false, alpnProtocols },
        }),
    })
    if (stream !== undefined) return stream
  }
  return connect(endpoint, generation, options)
}

/** Verifies the peer against the latest roots: OpenSSL used those of the start of the handshake. */
function expectTrusted(socket: MeshSocket, identity: IdentityStore): MeshSocket {
  const connection = connectionOf(socket)
  const { roots } = identity.require()
  if (connection !== undefined && isPeerTrusted(connection, roots, systemClock.now())) return socket
  socket.destroy()
  throw withdrawnRoot()
}

function headStartMs(leftMs: number): number {
  return Math.max(MIN_HEAD_START_MS, Math.min(MAX_HEAD_START_MS, leftMs / 2))
}

function failure(upstream: string, attempts: readonly DialAttempt[], refusal?: unknown): DialError {
  const shown = attempts
    .slice(0, MAX_LISTED_ATTEMPTS)
    .map(({ address, error, durationMs }) => `${address} (${durationMs} ms): ${messageOf(error)}`)
  const more =
    attempts.length > MAX_LISTED_ATTEMPTS ? `; and ${attempts.length - MAX_LISTED_ATTEMPTS} more` : ''
  const list = `${shown.join('; ')}${more}`
  if (refusal instanceof DialError && refusal.code === 'ERR_CONNECT_NO_INSTANCES') {
    const message = `no instance could be reached, and none is left: ${list}`
    const { code, reason } = refusal
    return new DialError(code, upstream, message, { cause: refusal, attempts, ...(reason && { reason }) })
  }
  // A peer with a wrong identity is reported before peers that could not be reached.
  const impostor = attempts.find(({ error }) => error instanceof VerificationError)?.error
  const cause = impostor ?? attempts.at(-1)?.error
  const code = impostor instanceof VerificationError ? impostor.code : 'ERR_CONNECT_DIAL_FAILED'
  return new DialError(code, upstream, `no instance could be reached: ${list}`, { cause, attempts })
}
