import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { isIP, isIPv6 } from 'node:net'
import { AUTHORITATIVE_ANSWER, decode, encode, type Answer, type Packet, type Question } from 'dns-packet'
import { formatHostPort } from '../base/host-port.js'
import type { Instance } from './state/catalog.js'
import type { Gate } from './state/changes.js'
import { shuffled } from './state/queries.js'
import type { State } from './state/state.js'

/** RFC 1035, 4.1.1. */
const RCODE = { NOERROR: 0, NXDOMAIN: 3, REFUSED: 5 } as const
const NAME = /^([^.]+)\.(service|connect)(?:\.([^.]+))?\.consul$/

/** The part of a response that depends on the state. */
type Reply = Pick<Packet, 'flags' | 'answers' | 'additionals'>

/** Serves the DNS interface of Consul over UDP. Answers have any size: clients are on loopback. */
export class DnsServer {
  readonly #host: string
  readonly #state: () => State
  readonly #gate: Gate
  #port: number
  #socket: Socket | undefined

  /** @param gate - holds answers back while the agent is paused */
  constructor(options: { host: string; port?: number }, state: () => State, gate: Gate) {
    this.#host = options.host
    this.#port = options.port ?? 0
    this.#state = state
    this.#gate = gate
  }

  /** `host:port`. */
  get address(): string {
    return formatHostPort({ host: this.#host, port: this.#port })
  }

  async listen(): Promise<void> {
    const socket = createSocket(isIPv6(this.#host) ? 'udp6' : 'udp4')
    socket.on('message', (message, client) => {
      void this.#answer(socket, message, client)
    })
    socket.bind({ address: this.#host, port: this.#port, exclusive: true })
    await once(socket, 'listening')
    // An unreachable client is not an error of the server.
    socket.on('error', () => undefined)
    this.#socket = socket
    this.#port = socket.address().port
  }

  async stop(): Promise<void> {
    const socket = this.#socket
    this.#socket = undefined
    if (!socket) return
    socket.close()
    await once(socket, 'close')
  }

  async #answer(socket: Socket, message: Buffer, { address, port }: RemoteInfo): Promise<void> {
    const packet = parse(message)
    const question = packet?.questions?.[0]
    // A malformed query gets no answer.
    if (!packet || !question) return
    await this.#gate.open
    const reply = answerQuestion(this.#state(), question)
    const response = encode({ type: 'response', id: packet.id ?? 0, questions: [question], ...reply })
    if (socket === this.#socket) socket.send(response, port, address, () => undefined)
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
 */
function answerQuestion(state: State, { name, type }: Question): Reply {
  const reply = (code: number, answers: Answer[] = [], additionals: Answer[] = []): Reply => ({
    flags: AUTHORITATIVE_ANSWER | code,
    answers,
    additionals,
  })
  if (!/(^|\.)consul$/i.test(name)) return reply(RCODE.REFUSED)
  const instances = find(state, name.toLowerCase())
  if (instances.length === 0) return reply(RCODE.NXDOMAIN)
  if (type === 'SRV') return reply(RCODE.NOERROR, ...serviceRecords(state, name, instances))
  const addresses = new Set(instances.map(hostOf))
  const records = [...addresses].flatMap((address) => addressRecords(name, address))
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
): [answers: Answer[], additionals: Answer[]] {
  const answers: Answer[] = []
  const additionals = new Map<string, Answer[]>()
  for (const instance of instances) {
    const { Port: port, Weights } = instance.service
    const host = hostOf(instance)
    const target = isIP(host) === 0 ? host : `${hex(host)}.addr.${datacenter}.consul`
    const weight = catalog.isPassing(instance) ? Weights.Passing : Weights.Warning
    answers.push({ type: 'SRV', name, data: { priority: 1, weight, port, target } })
    additionals.set(target, addressRecords(target, host))
  }
  return [answers, [...additionals.values()].flat()]
}

function hostOf({ service }: Instance): string {
  return service.Address === '' ? '127.0.0.1' : service.Address
}

/** Returns the record of an IP address; none for a host name. */
function addressRecords(name: string, address: string): Answer[] {
  const family = isIP(address)
  if (family === 0) return []
  return [{ type: family === 6 ? 'AAAA' : 'A', name, data: address }]
}

/** Returns the bytes of an IP address in hexadecimal, as in Consul's `addr` names. */
function hex(address: string): string {
  // The data of the only record is at the end of the message.
  const message = encode({ answers: addressRecords('.', address) })
  return message.subarray(isIP(address) === 6 ? -16 : -4).toString('hex')
}
