import type { Clock } from '../../base/clock.js'
import { DialError, toError } from '../../base/errors.js'
import type { Generation, IdentityStore } from '../../identity/identity-store.js'
import type { Endpoint } from '../../resolve/resolver.js'
import { resetError } from '../../sockets/network-errors.js'
import { OpenSockets } from '../../sockets/open-sockets.js'
import { type Connection, connectionOf, expiresAt, openStream } from '../connection.js'
import { ConnectionLifetimes } from '../connection-lifetimes.js'
import type { MeshSocket } from '../mesh-socket.js'
import type { SessionCounts } from './session-counts.js'
import { ALPN_NAME, MuxSession, OWN_SETTINGS, StreamRefusedError } from './session.js'

/** How long a session without streams is kept, in milliseconds. */
const IDLE_MS = 60_000
/** How long an instance that did not negotiate sessions is dialed without asking again. */
const PLAIN_MS = 60_000

/** So many connections of one session are a load for another one: the accepting end may be several processes. */
const SPREAD_AT = 64
/** How many sessions to one place are opened for the load; more only when all of them are full. */
const MAX_SPREAD = 4
/** How long a dial waits for any byte of a session before it asks for one, and again before it connects another. */
const SILENCE_MS = 1_000
/** How long a session that no dial waits for may take to connect, in milliseconds. */
const SPREAD_MS = 10_000

/** How many places there are before the unused ones are forgotten. */
const SWEEP_AT = 1_000

interface OpenSession {
  readonly session: MuxSession
  readonly connection: Connection
  /** When the first certificate of either end expires, in milliseconds since the Unix epoch. */
  readonly expiresAt: number
}

/** A session that is being connected, for all who wait for it. */
interface Connecting {
  readonly opened: Promise<OpenSession | undefined>
  readonly controller: AbortController
  waiting: number
}

/** The sessions to one address with one expected identity. */
interface Place {
  readonly sessions: Set<OpenSession>
  connecting: Connecting | undefined
  plainUntil: number
}

export interface OpenOptions {
  readonly signal: AbortSignal
  readonly allowHalfOpen: boolean
  /** Connects to the endpoint. @param alpnProtocols - to be offered */
  readonly connect: (signal: AbortSignal, alpnProtocols: readonly string[]) => Promise<MeshSocket>
}

/** The sessions of a service to the instances that it dials. */
export class SessionPool {
  readonly #clock: Clock
  readonly #counts: SessionCounts
  readonly #identity: IdentityStore
  readonly #lifetimes: ConnectionLifetimes
  /** Those of all sessions, also while they end. */
  readonly #sockets = new OpenSockets()
  readonly #places = new Map<string, Place>()
  #sweepAt = SWEEP_AT
  #isClosed = false

  constructor(identity: IdentityStore, clock: Clock, counts: SessionCounts) {
    this.#clock = clock
    this.#counts = counts
    this.#identity = identity
    this.#lifetimes = new ConnectionLifetimes(identity, clock)
  }

  /**
   * Opens a stream to an instance, in a session that is open or after connecting one.
   * @returns undefined if the instance takes no sessions: dial it for this connection alone
   */
  async open(endpoint: Endpoint, options: OpenOptions): Promise<MeshSocket | undefined> {
    const place = this.#placeOf(endpoint)
    for (;;) {
      options.signal.throwIfAborted()
      if (this.#isClosed || place.plainUntil > this.#clock.now()) return undefined
      // The current one: a dial may have begun before it.
      const open = leastLoaded(place, this.#identity.require().leaf, this.#clock.now())
      if (open === undefined) {
        const isFirst = place.connecting === undefined
        const opened = await this.#connect(place, options)
        if (opened === undefined) return undefined
        // Not waiting for the peer to accept: the first dial takes no longer than one without a session.
        if (isFirst && opened.session.hasRoom) return begin(opened, options.allowHalfOpen)
        continue
      }
      if (open.session.size >= SPREAD_AT) this.#spread(place, options.connect)
      try {
        return await accepted(open, options, this.#clock)
      } catch (error) {
        // The session was about to end when the stream was opened.
        if (!(error instanceof StreamRefusedError) || open.session.hasRoom) throw error
      }
    }
  }

  /** Opens no more sessions, and waits until all have ended; cuts the remaining ones after `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    this.#close()
    for (const { sessions } of this.#places.values()) for (const { session } of [...sessions]) session.drain()
    await this.#sockets.drain(timeoutMs)
  }

  destroy(error?: Error): void {
    this.#close(error)
    for (const { sessions } of this.#places.values())
      for (const { session } of [...sessions]) session.destroy(error)
    this.#sockets.destroy()
  }

  #close(error?: Error): void {
    this.#isClosed = true
    for (const { connecting } of this.#places.values()) connecting?.controller.abort(error)
    this.#lifetimes.close()
  }

  #placeOf({ host, port, identity, serverName, subset }: Endpoint): Place {
    const key = JSON.stringify([host, port, serverName, subset, identity])
    const known = this.#places.get(key)
    if (known !== undefined) return known
    if (this.#places.size >= this.#sweepAt) this.#sweep()
    const place = { sessions: new Set<OpenSession>(), connecting: undefined, plainUntil: 0 }
    this.#places.set(key, place)
    return place
  }

  /** The instance takes no sessions: it is dialed for each connection for a while. */
  #isPlain(place: Place): void {
    place.plainUntil = this.#clock.now() + PLAIN_MS
  }

  /** Forgets the places that nothing is known of: instances come and go. */
  #sweep(): void {
    const now = this.#clock.now()
    for (const [key, { sessions, connecting, plainUntil }] of this.#places)
      if (sessions.size === 0 && connecting === undefined && plainUntil <= now) this.#places.delete(key)
    this.#sweepAt = Math.max(SWEEP_AT, 2 * this.#places.size)
  }

  /** Waits for a session that is being connected, or connects one. */
  async #connect(place: Place, { signal, connect }: OpenOptions): Promise<OpenSession | undefined> {
    const connecting = (place.connecting ??= this.#begin(place, connect))
    connecting.waiting += 1
    try {
      return await unlessAborted(connecting.opened, signal)
    } finally {
      connecting.waiting -= 1
      if (connecting.waiting === 0) {
        // A later dial connects by itself.
        if (place.connecting === connecting) place.connecting = undefined
        connecting.controller.abort(signal.reason)
      }
    }
  }

  /** Connects another session beside those that are open, for later dials. */
  #spread(place: Place, connect: OpenOptions['connect']): void {
    if (place.connecting !== undefined || place.sessions.size >= MAX_SPREAD) return
    const connecting = (place.connecting = this.#begin(place, connect))
    connecting.waiting += 1
    const forget = this.#clock.after(SPREAD_MS, () => {
      connecting.waiting -= 1
      if (connecting.waiting === 0) connecting.controller.abort()
    })
    connecting.opened.then(forget, forget)
  }

  #begin(place: Place, connect: OpenOptions['connect']): Connecting {
    const controller = new AbortController()
    const opened = connect(controller.signal, [ALPN_NAME])
      .then(
        (socket) => this.#opened(place, socket),
        (error: unknown) => {
          if (!refusesName(error)) throw error
          this.#isPlain(place)
          return undefined
        },
      )
      .finally(() => {
        if (place.connecting === connecting) place.connecting = undefined
      })
    const connecting: Connecting = { opened, controller, waiting: 0 }
    // There may be no dial any more that waits.
    opened.catch(() => undefined)
    return connecting
  }

  #opened(place: Place, socket: MeshSocket): OpenSession | undefined {
    const connection = connectionOf(socket)
    if (socket.alpnProtocol !== ALPN_NAME || connection === undefined || this.#isClosed) {
      socket.destroy()
      this.#isPlain(place)
      return undefined
    }
    this.#sockets.add(socket)
    const session = new MuxSession(socket, {
      settings: OWN_SETTINGS,
      clock: this.#clock,
      counts: this.#counts,
      deniedError: () => deniedError(this.#identity.service, connection.peer.service),
      idleMs: IDLE_MS,
      onEnded: () => {
        place.sessions.delete(open)
        // It has negotiated a session, and does not speak the protocol.
        if (!session.isConfirmed) this.#isPlain(place)
      },
    })
    const open: OpenSession = { session, connection, expiresAt: expiresAt(connection, this.#clock.now()) }
    place.sessions.add(open)
    this.#lifetimes.hold(socket, () => {
      session.drain()
    })
    return open
  }
}

function deniedError(source: string, destination: string): DialError {
  const message =
    'the peer has denied the connection; ' +
    `an intention may not allow it (run: consul intention check ${source} ${destination})`
  return new DialError('ERR_CONNECT_REJECTED', destination, message)
}

/** Whether a server has refused the name of the protocol, as those of Go do that know other names. */
function refusesName(error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause)
    if ((each as NodeJS.ErrnoException).code === 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL') return true
  return false
}

/** The session with the fewest streams that accepts one more. */
function leastLoaded({ sessions }: Place, leaf: Generation['leaf'], now: number): OpenSession | undefined {
  let least: OpenSession | undefined
  for (const each of sessions) {
    // Our certificate was renewed, or one has expired while the machine was suspended.
    if (each.connection.generation.leaf !== leaf || each.expiresAt <= now) {
      each.session.drain()
      continue
    }
    if (each.session.hasRoom && (least === undefined || each.session.size < least.session.size)) least = each
  }
  return least
}

function begin({ session, connection }: OpenSession, allowHalfOpen: boolean): MeshSocket {
  return openStream(session.open(allowHalfOpen), connection)
}

/** Opens a stream, and waits until the peer has authorized it. A denial is an error of the stream. */
function accepted(
  open: OpenSession,
  { signal, allowHalfOpen }: OpenOptions,
  clock: Clock,
): Promise<MeshSocket> {
  return new Promise((resolve, reject) => {
    const { session } = open
    const stream = session.open(allowHalfOpen)
    const cancelSilence = unlessHeard(session, clock, () => {
      stream.destroy(new StreamRefusedError('the session of the connection does not answer'))
    })
    const settle = (): void => {
      cancelSilence()
      stream.off('error', onError).off('close', onClose)
      signal.removeEventListener('abort', onAbort)
    }
    const onError = (error: Error): void => {
      settle()
      // After the last listener was removed.
      stream.on('error', () => undefined)
      reject(error)
    }
    const onClose = (): void => {
      onError(resetError('the connection ended before it was accepted'))
    }
    const onAbort = (): void => {
      stream.destroy(toError(signal.reason))
    }
    stream.onAccepted = () => {
      settle()
      resolve(openStream(stream, open.connection))
    }
    stream.on('error', onError).on('close', onClose)
    signal.addEventListener('abort', onAbort, { once: true })
  })
}

/** Suspects a session that stays silent, and calls back. @returns a function that cancels this */
function unlessHeard(session: MuxSession, clock: Clock, callback: () => void): () => void {
  const { reads } = session
  let cancel = clock.after(SILENCE_MS, () => {
    if (session.reads !== reads) return
    session.ping()
    cancel = clock.after(SILENCE_MS, () => {
      // This process may have been busy: it reads first.
      setImmediate(() => {
        if (session.reads !== reads) return
        session.suspect()
        callback()
      })
    })
  })
  return () => {
    cancel()
  }
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(toError(signal.reason))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => {
      signal.removeEventListener('abort', onAbort)
    })
  })
}
