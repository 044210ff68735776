import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { replacement, type FaultAnswer, type Faults } from './faults.js'
import type { Gate } from './gate.js'
import { HttpError, text, type AgentRequest, type Answer, type Call } from './http.js'
import type { Requests } from './requests.js'
import { cut, send } from './respond.js'

const maxBodyBytes = 1024 * 1024

interface ListenOptions {
  host: string
  port: number
  socketPath: string | undefined
  tls: TestAgentTls | undefined
}

export interface TestAgentTls {
  key: string
  cert: string
  /** Whom to trust for client certificates. */
  ca?: string
  /** Demand a client certificate. @default false */
  requestCert?: boolean
}

interface AgentServices {
  handle: (call: Call) => Promise<Answer>
  /** Sent with every answer. */
  headers: () => Record<string, string>
  requests: Requests
  faults: Faults
  /** Closed during a pause. */
  gate: Gate
}

/** The HTTP side of the agent: sockets, bodies and faults; what to answer is the handler's business. */
export class AgentServer {
  readonly #options: ListenOptions
  readonly #handle: (call: Call) => Promise<Answer>
  readonly #requests: Requests
  readonly #faults: Faults
  readonly #headers: () => Record<string, string>
  readonly #gate: Gate
  #server: Server | undefined
  #closed: Promise<unknown> = Promise.resolve()
  #port: number

  constructor(options: ListenOptions, services: AgentServices) {
    this.#options = options
    this.#port = options.port
    this.#handle = services.handle
    this.#requests = services.requests
    this.#faults = services.faults
    this.#headers = services.headers
    this.#gate = services.gate
  }

  get port(): number {
    return this.#port
  }

  get listening(): boolean {
    return this.#server !== undefined
  }

  async listen(): Promise<void> {
    if (this.#server) return
    const { host, socketPath, tls } = this.#options
    const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
      void this.#serve(request, response)
    }
    const server = tls
      ? createTlsServer({ ...tls, rejectUnauthorized: tls.requestCert ?? false }, onRequest)
      : createServer(onRequest)
    // Consul holds idle connections open and gives a long poll all the time it wants.
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
    const gone = new AbortController()
    response.on('close', () => {
      gone.abort()
    })
    // A client that resets the connection is business as usual here.
    message.on('error', () => undefined)
    response.on('error', () => undefined)
    const request = parseRequest(message)
    this.#requests.record(request)
    try {
      await this.#gate.open
      let fault = this.#faults.take(request)
      const body = await readBody(message)
      if (fault && !(await strike(fault, response, gone.signal))) return
      let answer = await this.#answer(request, body, fault, gone.signal)
      // A fault set while the request was hanging in a blocking query strikes its answer too.
      await this.#gate.open
      if (!fault) {
        fault = this.#faults.take(request)
        if (fault && !(await strike(fault, response, gone.signal))) return
        answer = (fault && replacement(fault)) ?? answer
      }
      send(response, answer, { pretty: request.query.has('pretty'), fault, headers: this.#headers() })
    } catch {
      // Nothing can be answered any more: the request broke off.
      response.destroy()
    }
  }

  async #answer(
    request: AgentRequest,
    body: Buffer | undefined,
    fault: FaultAnswer | undefined,
    signal: AbortSignal,
  ): Promise<Answer> {
    const instead = fault && replacement(fault)
    if (instead) return instead
    if (!body) return text(413, `Request body too large, max size: ${maxBodyBytes} bytes.`)
    const blocked = (wait: Promise<void>): Promise<void> => this.#requests.block(request, wait)
    try {
      return await this.#handle({ ...request, rest: '', body, signal, blocked })
    } catch (error) {
      if (error instanceof HttpError) return text(error.status, error.message, error.headers)
      return text(500, error instanceof Error ? error.message : String(error))
    }
  }
}

function parseRequest(message: IncomingMessage): AgentRequest {
  const url = message.url ?? '/'
  const mark = url.indexOf('?')
  const query = new URLSearchParams(mark === -1 ? '' : url.slice(mark + 1))
  const header = message.headers['x-consul-token']
  const bearer = /^bearer +(\S+)$/i.exec(message.headers.authorization ?? '')?.[1]
  // Consul's order: the query, its own header, then RFC 6750's.
  const token = query.get('token') ?? (typeof header === 'string' ? header : bearer)
  const path = mark === -1 ? url : url.slice(0, mark)
  return { method: message.method ?? 'GET', path, url, query, token: token === '' ? undefined : token }
}

/** The body, or undefined when it is too large; the rest of such a body is read and dropped. */
async function readBody(message: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of message) {
    if (!Buffer.isBuffer(chunk)) continue
    size += chunk.length
    if (size <= maxBodyBytes) chunks.push(chunk)
  }
  return size > maxBodyBytes ? undefined : Buffer.concat(chunks)
}

/** What a fault does before an answer. False when there will be none. */
async function strike(fault: FaultAnswer, response: ServerResponse, signal: AbortSignal): Promise<boolean> {
  if (fault.delayMs !== undefined) await delay(fault.delayMs, signal)
  if (fault.reset) cut(response)
  return !fault.hang && !fault.reset && !signal.aborted
}

function delay(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
  })
}
