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
import { hasTags, type Instance } from './catalog.js'
import { parseDuration } from './duration.js'
import type { Gate } from './gate.js'
import { executeQuery, shuffled } from './queries.js'
import type { TestAgentDnsOptions } from './options.js'
import type { State } from './state.js'

/** A DNS question that the agent received. */
export interface DnsQuery {
  /** The name as the client wrote it, without the last dot. */
  name: string
  /** Record type, for example `SRV`. */
  type: string
  transport: 'udp' | 'tcp'
}

interface Found {
  instances: Instance[]
  ttl: number
}

interface DnsServices {
  state: () => State
  /** Holds answers back while the agent is paused. */
  gate: Gate
}

/** Number of attempts to find a port that is free for both UDP and TCP. */
const PORT_ATTEMPTS = 20
/** Size of a UDP answer for clients without EDNS (RFC 1035, 4.2.1). */
const PLAIN_UDP_BYTES = 512
const MAX_RECORDED_QUERIES = 10_000
const RCODE = { NOERROR: 0, NXDOMAIN: 3, REFUSED: 5 } as const

/**
 * Serves Consul's DNS interface over UDP and TCP: SRV, A, and AAAA records of `NAME.service.consul`,
 * `TAG.NAME.service.consul`, `NAME.connect.consul`, and `NAME.query.consul`, with or without the agent's own datacenter.
 */
export class DnsServer {
  readonly #host: string
  readonly #serviceTtlMs: number
  readonly #services: DnsServices
  readonly #connections = new Set<Socket>()
  readonly #queries: DnsQuery[] = []
  #port: number
  #udp: UdpSocket | undefined
  #tcp: Server | undefined

  constructor(
    { host, port = 0, serviceTtlMs = 0 }: TestAgentDnsOptions & { host: string },
    services: DnsServices,
  ) {
    this.#host = host
    this.#port = port
    this.#serviceTtlMs = serviceTtlMs
    this.#services = services
  }

  get port(): number {
    return this.#port
  }

  get queries(): readonly DnsQuery[] {
    return this.#queries
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
      void this.#converse(connection)
    })
    tcp.listen({ host: this.#host, port: this.#port })
    await once(tcp, 'listening')
    this.#tcp = tcp
    const { port } = tcp.address() as AddressInfo
    const udp = createSocket(isIPv6(this.#host) ? 'udp6' : 'udp4')
    udp.on('message', (message, client) => {
      void this.#receive(udp, message, client)
    })
    this.#udp = udp
    udp.bind({ address: this.#host, port, exclusive: true })
    await once(udp, 'listening')
    // An unreachable client is not an error of the server.
    udp.on('error', () => undefined)
    this.#port = port
  }

  async #receive(udp: UdpSocket, message: Buffer, { address, port }: RemoteInfo): Promise<void> {
    const reply = await this.#reply(message, 'udp')
    if (reply && udp === this.#udp) udp.send(reply, port, address, () => undefined)
  }

  /** Answers the messages of a connection in order; each has its length in front (RFC 1035, 4.2.2). */
  async #converse(connection: Socket): Promise<void> {
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
    await this.#services.gate.open
    const { code, ...records } = this.#answer(question)
    const header: Packet = { type: 'response', id: packet.id ?? 0, questions: [question] }
    const reply = encode({ ...header, flags: AUTHORITATIVE_ANSWER | code, ...records })
    const option = packet.additionals?.find(({ type }) => type === 'OPT')
    const size = option && 'udpPayloadSize' in option ? option.udpPayloadSize : PLAIN_UDP_BYTES
    if (transport === 'tcp' || reply.length <= size) return reply
    return encode({ ...header, flags: AUTHORITATIVE_ANSWER | TRUNCATED_RESPONSE | code })
  }

  #answer({ name, type }: Question): { code: number; answers: Answer[]; additionals: Answer[] } {
    const none = { answers: [], additionals: [] }
    if (!/(^|\.)consul$/i.test(name)) return { code: RCODE.REFUSED, ...none }
    const state = this.#services.state()
    const { instances, ttl } = this.#find(state, name.toLowerCase())
    if (instances.length === 0) return { code: RCODE.NXDOMAIN, ...none }
    if (type !== 'SRV') {
      const addresses = new Set(instances.map(hostOf))
      const answers = [...addresses].flatMap((address) => addressRecords(name, address, ttl, type))
      return { code: RCODE.NOERROR, answers, additionals: [] }
    }
    const answers: Answer[] = []
    const additionals = new Map<string, Answer[]>()
    for (const instance of instances) {
      const host = hostOf(instance)
      const target = isIP(host) === 0 ? host : `${hex(host)}.addr.${state.datacenter}.consul`
      const data = { priority: 1, weight: weightOf(state, instance), port: instance.service.port, target }
      answers.push({ type: 'SRV', name, ttl, data })
      additionals.set(target, addressRecords(target, host, ttl))
    }
    return { code: RCODE.NOERROR, answers, additionals: [...additionals.values()].flat() }
  }

  #find(state: State, name: string): Found {
    const [, tag, last = '', kind, datacenter] =
      /^(?:(.+)\.)?([^.]+)\.(service|connect|query)(?:\.([^.]+))?\.consul$/.exec(name) ?? []
    const none: Found = { instances: [], ttl: 0 }
    if (kind === undefined || (datacenter ?? state.datacenter) !== state.datacenter) return none
    if (kind === 'query') {
      const query = state.queries.resolve(tag === undefined ? last : `${tag}.${last}`)
      if (!query) return none
      const ttlMs = query.dnsTtl === '' ? this.#serviceTtlMs : (parseDuration(query.dnsTtl) ?? 0)
      return { instances: executeQuery(state, query), ttl: Math.floor(ttlMs / 1000) }
    }
    const permissions = state.acl.permissions(undefined)
    const instances = state.catalog
      .instancesOf(last, kind === 'connect' ? 'connect' : 'service')
      .filter(({ service }) => permissions.service(service.name, 'read'))
      .filter(({ service }) => kind === 'connect' || hasTags(service.tags, tag === undefined ? [] : [tag]))
      .filter((instance) => !state.catalog.isCritical(instance))
    return {
      instances: state.shuffle ? shuffled(instances) : instances,
      ttl: Math.floor(this.#serviceTtlMs / 1000),
    }
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

function hostOf({ service }: Instance): string {
  return service.address === '' ? '127.0.0.1' : service.address
}

function weightOf({ catalog }: State, instance: Instance): number {
  const { Passing: passing, Warning: warning } = instance.service.weights
  return catalog.isPassing(instance) ? passing : warning
}

/** @param wanted only an address of this type, `A` or `AAAA`; any address by default */
function addressRecords(name: string, address: string, ttl: number, wanted?: string): Answer[] {
  const family = isIP(address)
  const type = family === 6 ? 'AAAA' : 'A'
  return family === 0 || (wanted ?? type) !== type ? [] : [{ type, name, ttl, data: address }]
}

/** The bytes of an address in hexadecimal, as in Consul's `addr` names. */
function hex(address: string): string {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number)).toString('hex')
  const [left = [], right = []] = address
    .split('::')
    .map((half) => half.split(':').filter((group) => group !== ''))
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0')
  return [...left, ...zeros, ...right].map((group) => group.padStart(4, '0')).join('')
}
