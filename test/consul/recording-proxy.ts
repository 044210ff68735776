// Proxies in front of an agent that record its requests, over HTTP and over DNS.
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
  /** The number of accepted connections. */
  readonly connections: () => number
  /** The number of blocking queries that the agent holds. */
  readonly blocked: () => number
  /** The times of requests whose path contains this string. */
  asked(path: string): number[]
}

export async function recordingProxy(t: TestContext, consul: RealAgent): Promise<RecordingProxy> {
  const requests: Recorded[] = []
  let connections = 0
  let blocked = 0
  const server = createServer((incoming, outgoing) => {
    const { method = '', url: path = '', headers } = incoming
    requests.push({ at: performance.now(), request: `${method} ${path}` })
    if (/[?&](index|hash)=/.test(path)) {
      blocked += 1
      outgoing.once('close', () => (blocked -= 1))
    }
    const onward = request(consul.url + path, { method, headers })
    onward.on('response', (answer: IncomingMessage) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    // Either side can break off; the proxy then breaks off the other side.
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
    blocked: () => blocked,
    asked: (path) => requests.filter(({ request }) => request.includes(path)).map(({ at }) => at),
  }
}

export interface RecordingDns {
  readonly address: string
  /** The times of queries over UDP, by `performance.now`. */
  readonly asked: readonly number[]
  /** The number of connections over TCP. */
  readonly connections: () => number
  /** Drops the next queries over UDP. */
  drop(count: number): void
}

/** Starts a proxy in front of the DNS server of an agent. */
export async function recordingDns(t: TestContext, { dnsAddress }: RealAgent): Promise<RecordingDns> {
  const [host = '', port = ''] = dnsAddress.split(':')
  const asked: number[] = []
  let connections = 0
  let toDrop = 0
  const tcp = createTcpServer((socket) => {
    connections += 1
    const onward = connect(Number(port), host)
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      from.on('error', () => undefined).on('close', () => to.destroy())
      from.pipe(to)
    }
  }).listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  const own = (tcp.address() as AddressInfo).port
  const udp = createSocket('udp4')
  udp.on('message', (query, from) => {
    asked.push(performance.now())
    if (toDrop > 0) {
      toDrop -= 1
      return
    }
    const onward = createSocket('udp4')
    onward.once('message', (answer) => {
      onward.close()
      udp.send(answer, from.port, from.address)
    })
    onward.unref().send(query, Number(port), host)
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
    drop: (count) => {
      toDrop = count
    },
  }
}
