import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, isIP, isIPv6, type AddressInfo, type Server, type Socket } from 'node:net'
import {
  AUTHORITATIVE_ANSWER,
  decode,
  encode,
  TRUNCATED_RESPONSE,
  type Answer,
  type Packet,
  type Question,
} from 'dns-packet'
import { formatHostPort } from '../base/host-port.js'
import type { Instance } from './state/catalog.js'
import type { Gate } from './http/gate.js'
import type { TestAgentDnsOptions } from './options.js'
import { shuffled } from './state/queries.js'
import type { State } from './state/state.js'

/** A DNS query that the agent received. */
export interface DnsQuery {
  /** The name as the client wrote it, without the last dot. */
  name: string
  /** Record type, for example `SRV`. */
  type: string
  transport: 'udp' | 'tcp'
}

/** Number of attempts to find a port that is free for both UDP and TCP. */
const PORT_ATTEMPTS = 20
/** Size of a UDP answer for clients without EDNS (RFC 1035, 4.2.1). */
const PLAIN_UDP_BYTES = 512
const MAX_RECORDED_QUERIES = 10_000

/** RFC 1035, 4.1.1. */
const RCODE = { NOERROR: 0, NXDOMAIN: 3, REFUSED: 5 } as const
const NAME = /^([^.]+)\.(service|connect)(?:\.([^.]+))?\.consul$/

/** The part of a response that depends on the state. */
interface Reply {
  readonly flags: number
  readonly answers: Answer[]
  readonly additionals: Answer[]
}

/** Serves the DNS interface of Consul over UDP and TCP. */
export class DnsServer {
  readonly #host: string
  readonly #ttl: number
  readonly #state: () => State
  readonly #gate: Gate
  readonly #connections = new Set<Socket>()
  readonly #queries: DnsQuery[] = []
  #port: number
  #udp: UdpSocket | undefined
  #tcp: Server | undefined

  /** @param gate - holds answers back while the agent is paused */
  constructor(options: TestAgentDnsOptions & { host: string }, state: () => State, gate: Gate) {
    this.#host = options.host
    this.#port = options.port ?? 0
    this.#ttl = Math.floor((options.serviceTtlMs ?? 0) / 1_000)
    this.#state = state
    this.#gate = gate
  }

  /** `host:port` for UDP and TCP. */
  get address(): string {
    return formatHostPort({ host: this.#host, port: this.#port })
  }

  /** The last queries, oldest first. */
  get queries(): readonly DnsQuery[] {
    return this.#queries
  }

  async listen(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#listen()
        return
      } catch (error) {
        await this.stop()
        const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
        if (!isTaken || this.#port !== 0 || attempt === PORT_ATTEMPTS) throw error
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
    const tcp = createServer((connection) => {
      this.#connections.add(connection)
      connection.on('close', () => this.#connections.delete(connection))
      connection.on('error', () => undefined)
      void this.#serveConnection(connection)
    })
    tcp.listen({ host: this.#host, port: this.#port })
    await once(tcp, 'listening')
    this.#tcp = tcp
    const { port } = tcp.address() as AddressInfo
    const udp = createSocket(isIPv6(this.#host) ? 'udp6' : 'udp4')
    udp.on('message', (message, client) => {
      void this.#serveDatagram(udp, message, client)
    })
    this.#udp = udp
    udp.bind({ address: this.#host, port, exclusive: true })
    await once(udp, 'listening')
    // An unreachable client is not an error of the server.
    udp.on('error', () => undefined)
    this.#port = port
  }

  async #serveDatagram(udp: UdpSocket, message: Buffer, { address, port }: RemoteInfo): Promise<void> {
    const reply = await this.#reply(message, 'udp')
    if (reply && udp === this.#udp) udp.send(reply, port, address, () => undefined)
  }

  /** Answers the messages of a connection in order. Each message follows its length (RFC 1035, 4.2.2). */
  async #serveConnection(connection: Socket): Promise<void> {
    let received = Buffer.alloc(0)
    try {
      for await (const chunk of connection as AsyncIterable<Buffer>) {
        received = Buffer.concat([received, chunk])
        while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
          const end = 2 + received.readUInt16BE(0)
          const reply = await this.#reply(received.subarray(2, end), 'tcp')
          received = received.subarray(end)
          const length = Buffer.alloc(2)
          length.writeUInt16BE(reply?.length ?? 0)
          if (reply) connection.write(Buffer.concat([length, reply]))
        }
      }
    } catch {
      // The client closed the connection.
    }
    connection.end()
  }

  /** @returns undefined for a malformed query, which gets no answer */
  async #reply(message: Buffer, transport: 'udp' | 'tcp'): Promise<Buffer | undefined> {
    const packet = parse(message)
    const question = packet?.questions?.[0]
    if (!packet || !question) return undefined
    this.#queries.push({ name: question.name, type: question.type, transport })
    if (this.#queries.length > MAX_RECORDED_QUERIES) this.#queries.shift()
    await this.#gate.open
    const answer = answerQuestion(this.#state(), question, this.#ttl)
    const header: Packet = { type: 'response', id: packet.id ?? 0, questions: [question] }
    const reply = encode({ ...header, ...answer })
    const option = packet.additionals?.find(({ type }) => type === 'OPT')
    const size = option && 'udpPayloadSize' in option ? option.udpPayloadSize : PLAIN_UDP_BYTES
    if (transport === 'tcp' || reply.length <= size) return reply
    return encode({ ...header, flags: answer.flags | TRUNCATED_RESPONSE })
  }
}

function parse(message: Buffer): ReturnType<typeof decode> | undefined {
  try {
    const packet = decode(message)
    return packet.type === 'query' ? packet : undefined
  } catch {
    return undefined
  }
}

/**
 * Answers a question for SRV, A, or AAAA records of `NAME.service.consul` or `NAME.connect.consul`, with or without the
 * datacenter. Leaves out instances with critical checks.
 * @param ttl - TTL of the records in seconds
 */
function answerQuestion(state: State, { name, type }: Question, ttl: number): Reply {
  const reply = (code: number, answers: Answer[] = [], additionals: Answer[] = []): Reply => ({
    flags: AUTHORITATIVE_ANSWER | code,
    answers,
    additionals,
  })
  if (!/(^|\.)consul$/i.test(name)) return reply(RCODE.REFUSED)
  const instances = find(state, name.toLowerCase())
  if (instances.length === 0) return reply(RCODE.NXDOMAIN)
  if (type === 'SRV') return reply(RCODE.NOERROR, ...serviceRecords(state, name, instances, ttl))
  const addresses = new Set(instances.map(hostOf))
  const records = [...addresses].flatMap((address) => addressRecords(name, address, ttl))
  return reply(
    RCODE.NOERROR,
    records.filter((record) => record.type === type),
  )
}

function find({ acl, catalog, shuffle, ...state }: State, name: string): Instance[] {
  const [, service, kind, datacenter = state.datacenter] = NAME.exec(name) ?? []
  if (service === undefined || datacenter !== state.datacenter) return []
  // DNS has no tokens: the anonymous token applies.
  const permissions = acl.permissions()
  const found = catalog
    .instancesOf(service, kind === 'connect' ? 'connect' : 'service')
    .filter((instance) => permissions.service(instance.service.Name, 'read') && !catalog.isCritical(instance))
  return shuffle ? shuffled(found) : found
}

function serviceRecords(
  { catalog, datacenter }: State,
  name: string,
  instances: Instance[],
  ttl: number,
): [answers: Answer[], additionals: Answer[]] {
  const answers: Answer[] = []
  const additionals = new Map<string, Answer[]>()
  for (const instance of instances) {
    const { Port: port, Weights } = instance.service
    const host = hostOf(instance)
    const target = isIP(host) === 0 ? host : `${hex(host)}.addr.${datacenter}.consul`
    const weight = catalog.isPassing(instance) ? Weights.Passing : Weights.Warning
    answers.push({ type: 'SRV', name, ttl, data: { priority: 1, weight, port, target } })
    additionals.set(target, addressRecords(target, host, ttl))
  }
  return [answers, [...additionals.values()].flat()]
}

function hostOf({ service }: Instance): string {
  return service.Address === '' ? '127.0.0.1' : service.Address
}

/** Returns the record of an IP address; none for a host name. */
function addressRecords(name: string, address: string, ttl: number): Answer[] {
  const family = isIP(address)
  if (family === 0) return []
  return [{ type: family === 6 ? 'AAAA' : 'A', name, ttl, data: address }]
}

/** Returns the bytes of an IP address in hexadecimal, as in Consul's `addr` names. */
function hex(address: string): string {
  // The data of the only record is at the end of the message.
  const message = encode({ answers: addressRecords('.', address, 0) })
  return message.subarray(isIP(address) === 6 ? -16 : -4).toString('hex')
}
