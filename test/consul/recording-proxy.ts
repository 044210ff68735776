// What stands in front of an agent and writes down what the agent is asked: over HTTP, and over DNS.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type IncomingMessage, createServer, request } from 'node:http'
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net'
import type { TestContext } from 'node:test'
import type { RealAgent } from './real-agent.js'

interface Recorded {
  /** By `performance.now`. */
  readonly at: number
  /** `GET /v1/…`, with the query string. */
  readonly request: string
}

export interface RecordingProxy {
  readonly address: string
  readonly requests: readonly Recorded[]
  /** How many connections it has taken. */
  readonly connections: () => number
  /** When requests were made whose path has this in it. */
  asked(path: string): number[]
}

export async function recordingProxy(t: TestContext, consul: RealAgent): Promise<RecordingProxy> {
  const requests: Recorded[] = []
  let connections = 0
  const server = createServer((incoming, outgoing) => {
    const { method = '', url: path = '', headers } = incoming
    requests.push({ at: performance.now(), request: `${method} ${path}` })
    const onward = request(consul.url + path, { method, headers })
    onward.on('response', (answer: IncomingMessage) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    // Whoever is asked or asks may go away in the middle; the other is told the same way.
    onward.on('error', () => outgoing.destroy())
    outgoing.on('close', () => onward.destroy())
    incoming.pipe(onward)
  })
  server.on('connection', () => (connections += 1))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    connections: () => connections,
    asked: (path) => requests.filter(({ request }) => request.includes(path)).map(({ at }) => at),
  }
}

export interface RecordingDns {
  readonly address: string
  /** When questions came over UDP, by `performance.now`. */
  readonly asked: readonly number[]
  /** How many connections have come over TCP. */
  readonly connections: () => number
  /** Loses the next so many questions. */
  lose(count: number): void
}

/** The same for DNS. */
export async function recordingDns(t: TestContext, { dnsAddress }: RealAgent): Promise<RecordingDns> {
  const [host = '', port = ''] = dnsAddress.split(':')
  const asked: number[] = []
  let connections = 0
  let toLose = 0
  const tcp = createTcpServer((socket) => {
    connections += 1
    const onward = connect(Number(port), host)
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      one.on('error', () => undefined).on('close', () => other.destroy())
      one.pipe(other)
    }
  }).listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  const own = (tcp.address() as AddressInfo).port
  const udp = createSocket('udp4')
  udp.on('message', (question, from) => {
    asked.push(performance.now())
    if (toLose > 0) {
      toLose -= 1
      return
    }
    const onward = createSocket('udp4')
    onward.once('message', (answer) => {
      onward.close()
      udp.send(answer, from.port, from.address)
    })
    onward.unref().send(question, Number(port), host)
  })
  udp.bind(own, '127.0.0.1')
  await once(udp, 'listening')
  t.after(() => {
    tcp.close()
    udp.close()
  })
  return {
    address: `127.0.0.1:${own}`,
    asked,
    connections: () => connections,
    lose: (count) => {
      toLose = count
    },
  }
}
