import { IncomingMessage, type ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import type { Duplex } from 'node:stream'
import type { ConnectionRequests } from '../../authorize/requests/connection-requests.js'
import type { RequestOutcome } from '../../authorize/requests/decide-request.js'
import { indexOfHeader } from '../../authorize/requests/received-request.js'
import { OptionError } from '../../base/errors.js'
import { connectionOf } from '../../transport/connection.js'
import { admitRequest, keepDecision } from './admit-request.js'
import { CLIENT_CERT } from './client-cert-header.js'
import {
  answerDenied,
  answerDeniedUpgrade,
  applyDecided,
  followRequest,
  receivedRequest,
  replaceHeader,
} from './http1-requests.js'
import type { GateSettings } from './gate-options.js'

/** Emits an event as if there was no gate. */
export type Emit = (event: string | symbol, ...args: unknown[]) => boolean

/** The events with which node:http delivers a request. */
const WITH_RESPONSE: ReadonlySet<unknown> = new Set(['request', 'checkContinue', 'checkExpectation'])
const WITH_SOCKET: ReadonlySet<unknown> = new Set(['upgrade', 'connect'])

/**
 * Decides every request of an HTTP server before a listener of the server learns of it, whichever event delivers it.
 * Requests of HTTP/2 are decided at their session.
 */
export class RequestGate {
  readonly #server: Server
  readonly #emit: Emit
  /** By mesh connection. */
  readonly #settings = new WeakMap<Duplex, GateSettings>()
  /** Applications emit `request` again, for instance in a listener of `checkContinue`. */
  readonly #admitted = new WeakSet<IncomingMessage>()

  constructor(server: Server, emit: Emit) {
    this.#server = server
    this.#emit = emit
  }

  /**
   * Makes Node.js ask the server about requests with `Expect`, which it would otherwise answer before a decision.
   * @throws OptionError for a server whose parser accepts malformed requests, which others read differently
   */
  install(): void {
    if (isLenient(this.#server)) {
      throw new OptionError('server', 'a server with the strict HTTP parser of Node.js', 'insecureHTTPParser')
    }
    for (const event of EXPECTATIONS) this.#server.off(event, ignore).on(event, ignore)
  }

  uninstall(): void {
    for (const event of EXPECTATIONS) this.#server.off(event, ignore)
  }

  /** Decides the requests of a mesh connection from now on. */
  accept(socket: Duplex, settings: GateSettings): void {
    this.#settings.set(socket, settings)
  }

  /** Emits an event of the server, unless it delivers a request that is denied. @returns whether it had listeners */
  deliver(event: string | symbol, args: readonly unknown[]): boolean {
    const isRequest = WITH_RESPONSE.has(event)
    const [request, second] = args
    if (!isRequest && !WITH_SOCKET.has(event)) return this.#emit(event, ...args)
    if (!(request instanceof IncomingMessage) || this.#admitted.has(request)) return this.#pass(event, args)
    const requests = connectionOf(request.socket)?.requests
    // The application itself has made the request.
    if (requests === undefined) return this.#pass(event, args)
    const settings = this.#settings.get(request.socket) ?? BY_DEFAULT
    const outcome = admit(request, requests, settings)
    if (outcome?.decision.authorized === false) {
      if (isRequest) answerDenied(request, second as ServerResponse, outcome)
      else answerDeniedUpgrade(request, outcome)
      return true
    }
    if (outcome !== undefined) {
      applyDecided(request, outcome.head)
      keepDecision(request, outcome.decision)
    }
    this.#admitted.add(request)
    followRequest(requests, request, second as ServerResponse | Duplex, outcome?.head)
    return this.#pass(event, args)
  }

  /** Whether the application listens to an event. */
  hasListener(event: string | symbol): boolean {
    return this.#server.listeners(event).some((listener) => listener !== ignore)
  }

  /** Does what Node.js does without a listener for requests with `Expect`. */
  #pass(event: string | symbol, args: readonly unknown[]): boolean {
    const isExpectation = EXPECTATIONS.some((each) => each === event)
    if (!isExpectation || this.hasListener(event)) return this.#emit(event, ...args)
    const response = args[1] as ServerResponse
    if (event === 'checkExpectation') {
      response.writeHead(417).end()
      return true
    }
    response.writeContinue()
    return this.#emit('request', ...args)
  }
}

function admit(
  request: IncomingMessage,
  requests: ConnectionRequests,
  settings: GateSettings,
): RequestOutcome | undefined {
  const { rawHeaders } = request
  const value = settings.clientCert(requests.peer)
  if (value !== undefined || indexOfHeader(rawHeaders, CLIENT_CERT) >= 0)
    replaceHeader(request, CLIENT_CERT, value)
  if (requests.policy?.normalization.underscores === 'drop') {
    const names = rawHeaders.filter((text, i) => i % 2 === 0 && text.includes('_'))
    for (const name of names) replaceHeader(request, name.toLowerCase(), undefined)
  }
  return admitRequest(receivedRequest(request), requests, settings)
}

/** For a mesh connection that the application has taken from another server. */
const BY_DEFAULT: GateSettings = { strictPaths: false, clientCert: () => undefined }

const EXPECTATIONS = ['checkContinue', 'checkExpectation'] as const

function ignore(): void {
  // Node.js only looks whether there is a listener.
}

/** Whether a server, or all of the process, was told to accept malformed requests. */
function isLenient(server: Server): boolean {
  const { insecureHTTPParser } = server as { readonly insecureHTTPParser?: unknown }
  if (insecureHTTPParser === true) return true
  const flags = [...process.execArgv, ...(process.env['NODE_OPTIONS'] ?? '').split(/\s+/)]
  return (
    insecureHTTPParser !== false &&
    flags.some((flag) => flag.replaceAll('_', '-') === '--insecure-http-parser')
  )
}
