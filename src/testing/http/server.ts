import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { sleep, systemClock } from '../../base/clock.js'
import { formatHostPort } from '../../base/host-port.js'
import { replacement, type FaultAnswer, type Faults } from './faults.js'
import type { Gate } from '../state/changes.js'
import { HttpError, text, type AgentRequest, type Answer, type Call } from './http.js'
import type { TestAgentOptions } from '../options.js'
import type { Requests } from './requests.js'

const LOOPBACK = '127.0.0.1'

interface AgentServices {
  readonly handle: (call: Call) => Promise<Answer>
  /** Returns the headers of every answer. */
  readonly headers: () => Record<string, string>
  readonly requests: Requests
  readonly faults: Faults
  /** Holds answers back while the agent is paused. */
  readonly gate: Gate
}

/** The HTTP server of the agent: connections, bodies, and faults. */
export class AgentServer {
  readonly #options: TestAgentOptions
  readonly #services: AgentServices
  #server: Server | undefined
  #closed: Promise<unknown> = Promise.resolve()
  #port: number

  constructor(options: TestAgentOptions, services: AgentServices) {
    this.#options = options
    this.#services = services
    this.#port = options.port ?? 0
  }

  /** `host:port`, or `unix://path`. */
  get address(): string {
    const { host = LOOPBACK, socketPath } = this.#options
    return socketPath === undefined ? formatHostPort({ host, port: this.#port }) : `unix://${socketPath}`
  }

  async listen(): Promise<void> {
    const { host = LOOPBACK, socketPath, tls } = this.#options
    const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
      void this.#serve(request, response)
    }
    const server = tls
      ? createTlsServer({ ...tls, rejectUnauthorized: tls.requestCert ?? false }, onRequest)
      : createServer(onRequest)
    // Consul keeps idle connections open and does not limit the time of a blocking query.
    server.keepAliveTimeout = 0
    server.requestTimeout = 0
    server.listen(socketPath === undefined ? { host, port: this.#port } : { path: socketPath })
    await once(server, 'listening')
    this.#server = server
    const address = server.address()
    if (typeof address === 'object' && address) this.#port = address.port
  }

  async stop(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server) {
      this.#closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
    }
    await this.#closed
  }

  dropConnections(): void {
    this.#server?.closeAllConnections()
  }

  async #serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const { requests, faults, gate, headers } = this.#services
    const gone = new AbortController()
    response.on('close', () => {
      gone.abort()
    })
    // Clients may reset the connection at any time.
    message.on('error', () => undefined)
    response.on('error', () => undefined)
    const request = parseRequest(message)
    requests.record(request)
    try {
      await gate.open
      let fault = faults.take(request)
      const body = await buffer(message)
      if (fault && !(await apply(fault, response, gone.signal))) return
      let answer = (fault && replacement(fault)) ?? (await this.#answer(request, body, gone.signal))
      await gate.open
      if (!fault) {
        // A fault that was added while the request waited in a blocking query also applies.
        fault = faults.take(request)
        if (fault && !(await apply(fault, response, gone.signal))) return
        answer = (fault && replacement(fault)) ?? answer
      }
      send(response, { ...answer, headers: { ...headers(), ...answer.headers } }, fault)
    } catch {
      // The client closed the connection before the end of its request.
      response.destroy()
    }
  }

  async #answer(request: AgentRequest, body: Buffer, signal: AbortSignal): Promise<Answer> {
    const blocked = (wait: Promise<void>): Promise<void> => this.#services.requests.block(request, wait)
    try {
      return await this.#services.handle({ ...request, rest: '', body, signal, blocked })
    } catch (error) {
      if (error instanceof HttpError) return text(error.status, error.message)
      return text(500, error instanceof Error ? error.message : String(error))
    }
  }
}

function parseRequest(message: IncomingMessage): AgentRequest {
  const url = message.url ?? '/'
  const [path = '', search = ''] = url.split(/\?(.*)/s)
  const query = new URLSearchParams(search)
  const header = message.headers['x-consul-token']
  const bearer = /^bearer +(\S+)$/i.exec(message.headers.authorization ?? '')?.[1]
  // Consul's order: the query, X-Consul-Token, then Authorization (RFC 6750).
  const token = query.get('token') ?? (typeof header === 'string' ? header : bearer)
  return { method: message.method ?? 'GET', path, url, query, token: token === '' ? undefined : token }
}

/** Applies the part of a fault before the answer. @returns false if there is no answer */
async function apply(fault: FaultAnswer, response: ServerResponse, signal: AbortSignal): Promise<boolean> {
  if (fault.delayMs !== undefined) await sleep(systemClock, fault.delayMs, signal)
  if (fault.reset) {
    const { socket } = response
    // TLS sockets have no method to reset the connection.
    if (socket instanceof Socket && !('encrypted' in socket)) socket.resetAndDestroy()
    else response.destroy()
  }
  return !fault.hang && !fault.reset && !signal.aborted
}

function send(response: ServerResponse, answer: Answer, fault: FaultAnswer = {}): void {
  if (response.destroyed) return
  let body = answer.body ?? ''
  if (answer.json !== undefined) {
    body = JSON.stringify(fault.transform ? fault.transform(structuredClone(answer.json)) : answer.json)
    response.setHeader('Content-Type', 'application/json')
  }
  const bytes = Buffer.from(body)
  response.statusCode = fault.status ?? answer.status
  for (const [name, value] of Object.entries({ ...answer.headers, ...fault.headers })) {
    if (value === '') response.removeHeader(name)
    else response.setHeader(name, value)
  }
  response.setHeader('Content-Length', bytes.length)
  if (fault.truncate) {
    response.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => {
      response.destroy()
    })
  } else {
    response.end(bytes)
  }
}
