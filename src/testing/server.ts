import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Gate } from './gate.js'
import { HttpError, text, type AgentRequest, type Answer, type Call } from './http.js'
import type { TestAgentTls } from './options.js'
import { replacement, type FaultAnswer, type Faults, type Requests } from './requests.js'

const MAX_BODY_BYTES = 1024 * 1024

interface ListenOptions {
  host: string
  port: number
  socketPath: string | undefined
  tls: TestAgentTls | undefined
}

interface AgentServices {
  handle: (call: Call) => Promise<Answer>
  /** Headers of every answer. */
  headers: () => Record<string, string>
  requests: Requests
  faults: Faults
  /** Closed while the agent is paused. */
  gate: Gate
}

/** The HTTP server of the agent: sockets, bodies, and faults. */
export class AgentServer {
  readonly #options: ListenOptions
  readonly #services: AgentServices
  #server: Server | undefined
  #closed: Promise<unknown> = Promise.resolve()
  #port: number

  constructor(options: ListenOptions, services: AgentServices) {
    this.#options = options
    this.#services = services
    this.#port = options.port
  }

  get port(): number {
    return this.#port
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
      const body = await readBody(message)
      if (fault && !(await apply(fault, response, gone.signal))) return
      let answer = (fault && replacement(fault)) ?? (await this.#answer(request, body, gone.signal))
      await gate.open
      if (!fault) {
        // A fault that was added while the request waited in a blocking query applies too.
        fault = faults.take(request)
        if (fault && !(await apply(fault, response, gone.signal))) return
        answer = (fault && replacement(fault)) ?? answer
      }
      send(
        response,
        { ...answer, headers: { ...headers(), ...answer.headers } },
        request.query.has('pretty'),
        fault,
      )
    } catch {
      // The client closed the connection within its request.
      response.destroy()
    }
  }

  async #answer(request: AgentRequest, body: Buffer | undefined, signal: AbortSignal): Promise<Answer> {
    if (!body) return text(413, `Request body too large, max size: ${MAX_BODY_BYTES} bytes.`)
    const blocked = (wait: Promise<void>): Promise<void> => this.#services.requests.block(request, wait)
    try {
      return await this.#services.handle({ ...request, rest: '', body, signal, blocked })
    } catch (error) {
      if (error instanceof HttpError) return text(error.status, error.message, error.headers)
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
  // Consul's order: the query, its own header, then the header of RFC 6750.
  const token = query.get('token') ?? (typeof header === 'string' ? header : bearer)
  return { method: message.method ?? 'GET', path, url, query, token: token === '' ? undefined : token }
}

/** Reads the body; undefined if it is too large. */
async function readBody(message: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of message as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  return size > MAX_BODY_BYTES ? undefined : Buffer.concat(chunks)
}

/** Applies the part of a fault that precedes the answer. @returns false if there will be no answer */
async function apply(fault: FaultAnswer, response: ServerResponse, signal: AbortSignal): Promise<boolean> {
  if (fault.delayMs !== undefined) await sleep(fault.delayMs, undefined, { signal }).catch(() => undefined)
  if (fault.reset) {
    const { socket } = response
    // TLS sockets have no method to reset the connection.
    if (socket instanceof Socket && !('encrypted' in socket)) socket.resetAndDestroy()
    else response.destroy()
  }
  return !fault.hang && !fault.reset && !signal.aborted
}

function send(response: ServerResponse, answer: Answer, pretty: boolean, fault: FaultAnswer = {}): void {
  if (response.destroyed) return
  let body = answer.body ?? ''
  if (answer.json !== undefined) {
    const json = fault.transform ? fault.transform(structuredClone(answer.json)) : answer.json
    body = pretty ? `${JSON.stringify(json, null, 4)}\n` : JSON.stringify(json)
    response.setHeader('Content-Type', 'application/json')
  }
  const bytes = Buffer.from(body)
  response.statusCode = fault.status ?? answer.status
  for (const [name, value] of Object.entries({ ...answer.headers, ...fault.headers })) {
    if (value === '') response.removeHeader(name)
    else response.setHeader(name, value)
  }
  if (fault.contentType !== undefined) response.setHeader('Content-Type', fault.contentType)
  response.setHeader('Content-Length', bytes.length)
  if (fault.truncate) {
    response.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => {
      response.destroy()
    })
  } else {
    response.end(bytes)
  }
}
