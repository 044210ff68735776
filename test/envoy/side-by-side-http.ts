// A client of this library and a client behind Envoy, which send the same requests to `api`.
import { once } from 'node:events'
import { type IncomingHttpHeaders, type IncomingMessage, type RequestListener, request } from 'node:http'
import { createServer } from 'node:http'
import type { TestContext } from 'node:test'
import { text } from 'node:stream/consumers'
import { register, until } from '../consul/service-mesh.js'
import { portOf } from '../fixtures/mesh.js'
import { type SideBySide, startSideBySide } from './side-by-side.js'

/** What a client learns of a request. */
export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** The ID of the instance. */
  readonly id: string
  /** The path and the headers as the instance received them. */
  readonly path: string | undefined
  readonly received: IncomingHttpHeaders
}

export interface Wanted {
  readonly method?: string
  readonly path?: string
  readonly headers?: Record<string, string | string[]>
  readonly body?: string
}

export interface HttpSideBySide extends SideBySide {
  /** Starts and registers an instance that answers each request with its ID and what it received. */
  readonly httpInstance: (
    service: string,
    id: string,
    meta?: Record<string, string>,
    listener?: RequestListener,
  ) => Promise<void>
  readonly clients: Readonly<
    Record<'dispatcher' | 'httpAgent' | 'envoy', (wanted?: Wanted) => Promise<Answer>>
  >
}

/** Starts a mesh in which `api` and the services that its chain leads to speak HTTP. */
export async function startHttpSideBySide(t: TestContext): Promise<HttpSideBySide> {
  const mesh = await startSideBySide(t)
  const { consul, web, join, upstreamPort } = mesh
  const agent = web.httpAgent()
  const viaNode = (wanted: Wanted, to: object): Promise<Answer> => send(wanted, to)
  return {
    ...mesh,
    httpInstance: async (name, id, meta = {}, listener = () => undefined) => {
      const server = createServer((incoming, response) => {
        listener(incoming, response)
        if (response.headersSent) return
        response.setHeader('x-id', id)
        response.end(JSON.stringify({ path: incoming.url, received: incoming.headers }))
      })
      const served = await join(name).serve(server, { port: 0, host: '127.0.0.1' })
      await register(consul, {
        ID: id,
        Name: name,
        Port: portOf(served),
        Address: '127.0.0.1',
        Meta: meta,
        Connect: { Native: true },
        Check: { CheckID: `check-${id}`, TTL: '1h', Status: 'passing' },
      })
    },
    clients: {
      dispatcher: async ({ method = 'GET', path = '/', headers = {}, body = null } = {}) => {
        const answer = await web
          .dispatcher()
          .request({ origin: 'http://api.service.consul', method: method, path, headers, body })
        return toAnswer(answer.statusCode, answer.headers, await answer.body.text())
      },
      httpAgent: (wanted = {}) => viaNode(wanted, { agent, host: 'api.service.consul' }),
      // Envoy drains kept connections when its listener changes.
      envoy: (wanted = {}) =>
        viaNode(wanted, { agent: false, host: '127.0.0.1', port: upstreamPort, setHost: false }),
    },
  }
}

async function send({ method = 'GET', path = '/', headers = {}, body }: Wanted, to: object): Promise<Answer> {
  const sent = request({ ...to, method, path, headers: { host: 'api.service.consul', ...headers } })
  // An error after the response has begun is that of the response as well.
  sent.on('error', () => undefined)
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return toAnswer(response.statusCode ?? 0, response.headers, await text(response))
}

function toAnswer(status: number, headers: IncomingHttpHeaders, body: string): Answer {
  const seen = body.startsWith('{') ? (JSON.parse(body) as Pick<Answer, 'path' | 'received'>) : undefined
  return {
    status,
    headers,
    id: String(headers['x-id'] ?? 'none'),
    path: seen?.path,
    received: seen?.received ?? {},
  }
}

/** Waits until a client gets an answer that `isExpected` accepts. */
export async function untilAnswered(
  client: (wanted?: Wanted) => Promise<Answer>,
  wanted: Wanted,
  isExpected: (answer: Answer) => boolean,
): Promise<Answer> {
  return until(`the answer to ${JSON.stringify(wanted)}`, async () => {
    const answer = await client(wanted)
    if (!isExpected(answer)) throw new Error(`got ${JSON.stringify(answer)}`)
    return answer
  })
}
