import { type Bounds, bounded } from '../bounded.js'
import { type DialAttempt, DialError, TimeoutError, VerificationError, toError } from '../errors.js'
import type { IdentityStore } from '../identity/store.js'
import { log } from '../log.js'
import { type Endpoint, type Resolver, resolveEndpoints } from '../resolve/resolver.js'
import { connect } from './connect.js'
import type { MeshSocket } from './socket.js'

export interface DialContext {
  readonly identity: IdentityStore
  /** From 0 to below 1. */
  readonly random: () => number
}

export interface DialBounds extends Bounds {
  readonly allowHalfOpen: boolean
}

/**
 * Dials an upstream: one deadline over our own readiness, the resolver, and every instance that is tried.
 * @throws DialError, TimeoutError, AbortError, IdentityError, AgentError
 */
export async function dial(
  context: DialContext,
  resolver: Resolver,
  bounds: DialBounds,
): Promise<MeshSocket> {
  const attempts: DialAttempt[] = []
  const what = `dial ${resolver.name}`
  const deadline = performance.now() + bounds.timeoutMs
  const work = async (signal: AbortSignal): Promise<MeshSocket> => {
    await context.identity.ready({ signal, timeoutMs: bounds.timeoutMs })
    const endpoints = shuffle(await resolveEndpoints(resolver, signal), context.random)
    for (const [i, endpoint] of endpoints.entries()) {
      // One that never answers may use up its share of the time, and leaves the others theirs. The last has all the
      // rest: it is the deadline itself that ends it.
      const left = endpoints.length - i
      const timeoutMs = left === 1 ? bounds.timeoutMs : Math.max(1, (deadline - performance.now()) / left)
      const share = { signal, timeoutMs, allowHalfOpen: bounds.allowHalfOpen }
      const socket = await attempt(context, endpoint, share, attempts)
      if (socket !== undefined) return socket
    }
    throw failure(resolver.name, attempts)
  }
  try {
    return await bounded(what, bounds, work, (socket) => socket.destroy())
  } catch (error) {
    if (!(error instanceof TimeoutError)) throw error
    const cause = attempts.at(-1)?.error ?? context.identity.lastError
    throw new TimeoutError(what, bounds.timeoutMs, { attempts, cause })
  }
}

async function attempt(
  { identity }: DialContext,
  endpoint: Endpoint,
  share: { signal: AbortSignal; timeoutMs: number; allowHalfOpen: boolean },
  attempts: DialAttempt[],
): Promise<MeshSocket | undefined> {
  const { host, port } = endpoint
  const address = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
  const startedAt = performance.now()
  // Asked for on each try: the generation may have changed since the last.
  const generation = identity.require()
  const { allowHalfOpen } = share
  const work = (signal: AbortSignal): Promise<MeshSocket> =>
    connect(endpoint, generation, { signal, allowHalfOpen })
  try {
    const socket = await bounded(`connecting to ${address}`, share, work, (late) => late.destroy())
    log.dial('%s: connected to %s', address, socket.peer.spiffeId)
    return socket
  } catch (thrown) {
    const durationMs = Math.round(performance.now() - startedAt)
    const isLate = share.signal.reason instanceof TimeoutError
    const error = isLate ? new TimeoutError(`connecting to ${address}`, durationMs) : toError(thrown)
    log.dial('%s: %s', address, error.message)
    attempts.push({ address, error, durationMs })
    if (share.signal.aborted) throw error
    return undefined
  }
}

function failure(upstream: string, attempts: readonly DialAttempt[]): DialError {
  const tries = attempts.map(
    ({ address, error, durationMs }) => `${address} (${durationMs} ms): ${error.message || error.name}`,
  )
  // Somebody who proved to be another is worse news than somebody who is away.
  const impostor = attempts.find(({ error }) => error instanceof VerificationError)?.error
  const cause = impostor ?? attempts.at(-1)?.error
  const code = impostor instanceof VerificationError ? impostor.code : 'ERR_CONNECT_DIAL_FAILED'
  return new DialError(code, upstream, `no instance could be reached: ${tries.join('; ')}`, {
    cause,
    attempts,
  })
}

/** Fisher and Yates. */
function shuffle<T>(items: readonly T[], random: () => number): T[] {
  const shuffled = [...items]
  for (let i = shuffled.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1))
    const [a, b] = [shuffled[i], shuffled[j]]
    if (a !== undefined && b !== undefined) [shuffled[i], shuffled[j]] = [b, a]
  }
  return shuffled
}
