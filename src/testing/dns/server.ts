import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, isIPv6, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Gate } from '../gate.js'
import { failure, type DnsAnswerer } from './answer.js'
import type { DnsFaults } from './faults.js'
import type { DnsSettings } from './options.js'
import type { DnsQueries } from './queries.js'
import { rcode, readQuery, type ReceivedQuery } from './query.js'
import { replyTo } from './reply.js'

interface DnsServices {
  answerer: () => DnsAnswerer
  queries: DnsQueries
  faults: DnsFaults
  gate: Gate
}

type Outcome = Buffer | 'nothing' | 'reset'

/** How often to look for a port that is free for both UDP and TCP. */
const portAttempts = 20

/** The DNS side of the agent: sockets, framing, pauses and faults. */
export class DnsServer {
  readonly #settings: DnsSettings
  readonly #services: DnsServices
  readonly #connections = new Set<Socket>()
  #port: number
  #udp: UdpSocket | undefined
  #tcp: Server | undefined

  constructor(settings: DnsSettings, services: DnsServices) {
    this.#settings = settings
    this.#services = services
    this.#port = settings.port
  }

  get port(): number {
    return this.#port
  }

  async listen(): Promise<void> {
    if (this.#udp) return
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#listen()
        return
      } catch (error) {
        await this.stop()
        const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
        if (!isTaken || this.#port !== 0 || attempt === portAttempts) throw error
      }
    }
  }

  async stop(): Promise<void> {
    const [udp, tcp] = [this.#udp, this.#tcp]
    this.#udp = undefined
    this.#tcp = undefined
    const closed: Promise<unknown>[] = []
    if (udp) closed.push(new Promise<void>((resolve) => udp.close(resolve)))
    if (tcp?.listening) {
      closed.push(once(tcp, 'close'))
      tcp.close()
    }
    this.dropConnections()
    await Promise.all(closed)
  }

  dropConnections(): void {
    for (const connection of this.#connections) connection.destroy()
  }

  async #listen(): Promise<void> {
    const { host } = this.#settings
    const tcp = createServer((connection) => {
      this.#accept(connection)
    })
    tcp.listen({ host, port: this.#port })
    await once(tcp, 'listening')
    this.#tcp = tcp
    const { port } = tcp.address() as AddressInfo
    const udp = createSocket(isIPv6(host) ? 'udp6' : 'udp4')
    udp.on('message', (message, client) => {
      void this.#receive(udp, message, client)
    })
    this.#udp = udp
    udp.bind({ address: host, port, exclusive: true })
    await once(udp, 'listening')
    // An unreachable client is nothing to fail of.
    udp.on('error', () => undefined)
    this.#port = port
  }

  async #receive(udp: UdpSocket, message: Buffer, { address, port }: RemoteInfo): Promise<void> {
    const outcome = await this.#handle(message, 'udp')
    if (Buffer.isBuffer(outcome) && udp === this.#udp) udp.send(outcome, port, address, () => undefined)
  }

  #accept(connection: Socket): void {
    this.#connections.add(connection)
    connection.on('close', () => this.#connections.delete(connection))
    connection.on('error', () => undefined)
    void this.#converse(connection)
  }

  /** Answers one message after the other, each with its length before it (RFC 1035, 4.2.2). */
  async #converse(connection: Socket): Promise<void> {
    let received = Buffer.alloc(0)
    try {
      for await (const chunk of connection) {
        if (Buffer.isBuffer(chunk)) received = Buffer.concat([received, chunk])
        while (received.length >= 2) {
          const end = 2 + received.readUInt16BE(0)
          if (received.length < end) break
          const outcome = await this.#handle(received.subarray(2, end), 'tcp')
          received = received.subarray(end)
          if (outcome === 'reset') connection.resetAndDestroy()
          else if (outcome !== 'nothing') connection.write(framed(outcome))
        }
      }
    } catch {
      // The client went away.
    }
    connection.end()
  }

  async #handle(message: Buffer, transport: 'udp' | 'tcp'): Promise<Outcome> {
    const { queries, faults, gate } = this.#services
    const received = readQuery(message, transport)
    if ('reply' in received) return received.reply ?? 'nothing'
    const { query } = received
    queries.record(query)
    await gate.open
    const answer = this.#answer(query)
    return await faults.strike(query, answer)
  }

  #answer(query: ReceivedQuery): Buffer {
    try {
      return replyTo(query, this.#services.answerer().answer(query), this.#settings)
    } catch {
      return replyTo(query, failure(rcode.servFail), this.#settings)
    }
  }
}

function framed(message: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(message.length)
  return Buffer.concat([length, message])
}
