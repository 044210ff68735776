import type { IncomingMessage, ServerResponse } from 'node:http'
import { Server } from 'node:net'
import type { ServerHttp2Session } from 'node:http2'
import { type Duplex, PassThrough } from 'node:stream'
import { Server as TlsServer } from 'node:tls'
import { http2ServerOf, isIdleInHttpServer, serverResponseOn } from '../base/node-internals.js'
import { OptionError } from '../base/errors.js'
import { describe } from '../base/options/validate.js'
import type { AdoptedServer, Listener } from '../transport/inbound/listen.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import { closeWhenDestroyed } from '../sockets/destruction.js'
import { connectionOf } from '../transport/connection.js'
import type { GateSettings } from './requests/gate-options.js'
import { guardSession } from './requests/http2-requests.js'
import type { RequestGate } from './requests/request-gate.js'
import { onceVersionIsKnown, speaksHttp2 } from './http-version.js'
import { ServedServer, type ServingMode } from './served-server.js'

/** How often idle connections are closed during a drain. */
const IDLE_SWEEP_MS = 50
/**
 * How long idle connections stay open during a drain: a request may be on its way, and its response will have
 * `Connection: close`.
 */
const IDLE_GRACE_MS = 1_000
const MAX_STREAM_ID = 2 ** 31 - 1

/**
 * A server of node:http, node:https, or node:http2, possibly created by a framework; or the connection injector of a
 * gRPC server.
 */
export type ServableServer = Server | ConnectionInjector

/** The result of `createConnectionInjector` of a server of `@grpc/grpc-js`. */
export interface ConnectionInjector {
  injectConnection(connection: Duplex): void
  drain(graceTimeMs: number): void
  destroy(): void
}

/** Members that only some servers have. */
interface HttpParts {
  closeIdleConnections?(): void
  /** HTTP/2 only. */
  once(event: 'session', listener: (session: ServerHttp2Session) => void): unknown
  off(event: 'session', listener: (session: ServerHttp2Session) => void): unknown
}

/** Connects a listener to a server. */
export interface ServerAdapter {
  readonly handler: (socket: MeshSocket) => void
  /** Whether the handler decides each request. */
  readonly decidesRequests: boolean
  readonly alpnProtocols: readonly string[] | undefined
  /** The `allowHalfOpen` of the server, which its HTTP parser relies on. */
  readonly allowHalfOpen: boolean
  readonly onDrain: (timeoutMs: number) => () => void
  /** Whether the server does without connections of its own. @default true */
  readonly takesSessions?: boolean
  /** The server itself, if the listener uses its port. */
  readonly adopted?: AdoptedServer
  /** How requests are decided. Called before the listener is opened. */
  configure(settings: GateSettings): void
  /** Called before the listener is opened. */
  begin(): void
  /** Rejects a server with connections of an earlier port. */
  expectUnused?(): Promise<void>
  /** Called when the listener could not be opened, or `attach` failed. */
  abandon(): void
  /** Called when the listener is open. */
  attach(listener: Listener): void
  /** Called when the listener and its connections are closed. */
  closed?(): void
}

/** Makes a server receive its connections, which are verified and authorized, from a mesh listener. */
export function serverAdapter(server: ServableServer, mode: ServingMode): ServerAdapter {
  if (mode === 'served' && isInjector(server)) return injectorAdapter(server)
  if (!(server instanceof Server)) {
    const injector = mode === 'served' ? ', or a connection injector of grpc-js' : ''
    const expected = `a server of node:http, node:https, node:http2, node:tls, or node:net, such as http.createServer(app)${injector}`
    throw new OptionError('server', expected, describe(server))
  }
  const served = ServedServer.of(server)
  const { gate } = served
  let gateSettings: GateSettings | undefined
  let attached: Listener | undefined
  const parts = server as HttpParts
  const sockets = new Set<MeshSocket>()
  const sessions = new Set<ServerHttp2Session>()
  let isDraining = false
  const onSession = (session: ServerHttp2Session): void => {
    sessions.add(session)
    if (isDraining) sendShutdownNotice(session)
    session.once('close', () => sessions.delete(session))
  }
  // A TLS server receives connections after its handshake, which the listener has completed.
  const isTls = server instanceof TlsServer
  const isHttp2 = 'updateSettings' in server
  const event = isTls ? 'secureConnection' : 'connection'
  const http2Names = isHttp2 ? alpnProtocolsOf(server) : undefined
  const allowHalfOpen = !isTls && (server as { allowHalfOpen?: boolean }).allowHalfOpen === true
  return {
    decidesRequests: gate !== undefined,
    configure: (settings) => {
      gateSettings = settings
    },
    handler: (socket) => {
      served.expectGate()
      if (gateSettings !== undefined) gate?.accept(socket, gateSettings)
      // node:http2 reads the settings of its HTTP/1.1 side from this property.
      const given = socket as MeshSocket & { server?: unknown }
      given.server = server
      setHalfOpen(socket, allowHalfOpen)
      const isHttp2Now = (): boolean => isHttp2 && socket.alpnProtocol === 'h2'
      closeWhenDestroyed(socket, () => isHttp2Now() || isIdleInHttpServer(socket))
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
      const deliver = (): void => {
        server.emit(event, socket)
      }
      if (http2Names === undefined) deliver()
      else {
        onceVersionIsKnown(socket, isTls ? http2Names : ['h2'], () => {
          withSession(parts, socket, gateSettings, deliver, onSession)
        })
      }
    },
    // None for HTTP/1: Consul's built-in proxy and Go SDK offer only h2 for any protocol, and would be rejected.
    alpnProtocols: http2Names,
    allowHalfOpen,
    // node:http2 hides a stream of a session from its requests, and with it the peer.
    takesSessions: !isHttp2,
    ...(mode === 'secured' && { adopted: served }),
    onDrain: (timeoutMs) => {
      isDraining = true
      const stopAnnouncing = announceClose(server, gate, sockets)
      for (const session of sessions) sendShutdownNotice(session)
      const idleUntil = performance.now() + Math.min(IDLE_GRACE_MS, timeoutMs / 2)
      const sweep = (): void => {
        if (performance.now() < idleUntil) return
        parts.closeIdleConnections?.()
        // node:http does not treat a connection without a request as idle.
        if (gate !== undefined) for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy()
        // Closes after the open streams.
        for (const session of sessions) if (isOpen(session)) session.close()
      }
      const timer = setInterval(sweep, IDLE_SWEEP_MS)
      return () => {
        clearInterval(timer)
        stopAnnouncing()
      }
    },
    begin: () => {
      served.begin(mode)
    },
    ...(mode === 'secured' && { expectUnused: () => served.expectUnused() }),
    abandon: () => {
      served.abandon()
    },
    attach: (listener) => {
      served.attach(listener)
      attached = listener
    },
    closed: () => {
      if (attached !== undefined) served.detach(attached)
    },
  }
}

/**
 * Makes the next HTTP/1 response on each connection its last one, and that of a request in progress if its headers are
 * not sent yet.
 * @returns a function that stops this
 */
function announceClose(
  server: Server,
  gate: RequestGate | undefined,
  sockets: ReadonlySet<Duplex>,
): () => void {
  const announce = (request: IncomingMessage, response: ServerResponse): void => {
    const isOurs = request.httpVersionMajor === 1 && sockets.has(request.socket)
    if (isOurs) response.shouldKeepAlive = false
  }
  // A listener for one of the last two changes what Node.js does by itself, so none is added where there is none.
  const events = ['request', 'checkContinue', 'checkExpectation'].filter((event) => gate?.hasListener(event))
  for (const event of events) server.prependListener(event, announce)
  for (const socket of sockets) {
    const response = serverResponseOn(socket)
    if (response?.headersSent === false) response.shouldKeepAlive = false
  }
  return () => {
    for (const event of events) server.off(event, announce)
  }
}

/**
 * Asks the client of an HTTP/2 session to open no more streams. Those that are on their way are still accepted (RFC
 * 9113, section 6.8); `close` would ignore them.
 */
function sendShutdownNotice(session: ServerHttp2Session): void {
  if (isOpen(session)) session.goaway(0, MAX_STREAM_ID)
}

/** A session that was destroyed may not be closed yet, and throws. */
function isOpen({ closed, destroyed }: ServerHttp2Session): boolean {
  return !closed && !destroyed
}

/**
 * Delivers a connection to an HTTP/2 server, and guards its session if it has one. node:http2 emits `session`
 * synchronously; other sessions may belong to another listener.
 */
function withSession(
  server: HttpParts,
  socket: MeshSocket,
  settings: GateSettings | undefined,
  deliver: () => void,
  onSession: (session: ServerHttp2Session) => void,
): void {
  const found = { isGuarded: false }
  const guard = (session: ServerHttp2Session): void => {
    const requests = connectionOf(socket)?.requests
    if (requests === undefined || settings === undefined) return
    guardSession(session, requests, settings)
    found.isGuarded = true
    onSession(session)
  }
  server.once('session', guard)
  try {
    deliver()
  } finally {
    server.off('session', guard)
    // Its streams would not be decided.
    if (!found.isGuarded && socket.alpnProtocol === 'h2') socket.destroy()
  }
}

function isInjector(server: unknown): server is ConnectionInjector {
  const parts = ['injectConnection', 'drain', 'destroy'] as const
  if (typeof server !== 'object' || server === null) return false
  return parts.every((part) => typeof (server as Partial<ConnectionInjector>)[part] === 'function')
}

/**
 * Returns the HTTP/2 server of an injector, which grpc-js keeps private. It appears on a connection that is injected.
 * @returns undefined in an unknown version of Node.js, where requests cannot be decided
 */
function serverOfInjector(injector: ConnectionInjector): Server | undefined {
  const probe = new PassThrough()
  probe.on('error', () => undefined)
  try {
    injector.injectConnection(probe)
    return http2ServerOf(probe)
  } finally {
    probe.destroy()
  }
}

/** The drain timeout of the injector, longer than that of the listener. */
const LONG_DRAIN_MS = 86_400_000

/** An injector drains all its connections at once, so that each listener needs its own. */
const servedInjectors = new WeakSet<ConnectionInjector>()

function injectorAdapter(injector: ConnectionInjector): ServerAdapter {
  let gateSettings: GateSettings | undefined
  const server = serverOfInjector(injector)
  return {
    decidesRequests: server !== undefined,
    configure: (settings) => {
      gateSettings = settings
    },
    handler: (socket) => {
      speaksHttp2(socket)
      closeWhenDestroyed(socket, () => true)
      const deliver = (): void => {
        injector.injectConnection(socket)
      }
      if (server === undefined) deliver()
      else withSession(server, socket, gateSettings, deliver, () => undefined)
    },
    alpnProtocols: ['h2'],
    allowHalfOpen: false,
    // grpc-js shows a call the certificate of its peer only for a TLSSocket.
    takesSessions: false,
    onDrain: () => {
      injector.drain(LONG_DRAIN_MS)
      return () => {
        injector.destroy()
      }
    },
    begin: () => {
      if (servedInjectors.has(injector)) {
        throw new OptionError('server', 'a connection injector for each listener', 'one that is served')
      }
      servedInjectors.add(injector)
    },
    abandon: () => {
      servedInjectors.delete(injector)
    },
    attach: () => undefined,
  }
}

/**
 * Sets whether our side stays open when the peer ends its side. The setting of the listener may be for connections that are
 * passed through.
 */
function setHalfOpen(socket: MeshSocket, allowHalfOpen: boolean): void {
  socket.allowHalfOpen = allowHalfOpen
  if (!allowHalfOpen && socket.readableEnded) socket.end()
}

/** Returns the ALPN protocols of a node:http2 server: HTTP/1.1 as well if it is allowed. */
function alpnProtocolsOf(server: Server): string[] {
  // Node.js stores the names in wire format, each after its length.
  const { ALPNProtocols: wire } = server as { ALPNProtocols?: unknown }
  return wire instanceof Uint8Array && Buffer.from(wire).includes('http/1.1') ? ['h2', 'http/1.1'] : ['h2']
}
