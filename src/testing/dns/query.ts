import { decode } from 'dns-packet'

/** A DNS query as the agent got it; what hooks and counters see. */
export interface DnsQuery {
  id: number
  /** The name that is asked for, as the client wrote it and without the last dot. */
  name: string
  /** `A`, `SRV`, or `TYPE123` for one that has no name here. */
  type: string
  transport: 'udp' | 'tcp'
  /** How much the client takes over UDP, if it said so by EDNS. */
  udpPayloadSize: number | undefined
  /** The whole message. */
  message: Buffer
}

/** A query with what its answer must repeat. */
export interface ReceivedQuery extends DnsQuery {
  flags: number
  /** The question section, byte by byte. */
  question: Buffer
}

/** What is no query gets an answer of a header only, or none. */
export type Received = { query: ReceivedQuery } | { reply: Buffer } | { reply: undefined }

export const flag = {
  response: 0x8000,
  opcode: 0x7800,
  authoritative: 0x0400,
  truncated: 0x0200,
  recursionDesired: 0x0100,
  recursionAvailable: 0x0080,
  checkingDisabled: 0x0010,
} as const

export const rcode = { noError: 0, formErr: 1, servFail: 2, nxDomain: 3, notImp: 4, refused: 5 } as const

const types: Record<number, string> = {
  1: 'A',
  2: 'NS',
  5: 'CNAME',
  6: 'SOA',
  12: 'PTR',
  15: 'MX',
  16: 'TXT',
  28: 'AAAA',
  33: 'SRV',
  252: 'AXFR',
  255: 'ANY',
}

const headerBytes = 12

/** Takes anything that a socket may give; treats what is not a proper query as Consul does. */
export function readQuery(message: Buffer, transport: 'udp' | 'tcp'): Received {
  if (message.length < headerBytes) return { reply: undefined }
  const flags = message.readUInt16BE(2)
  if (flags & flag.response) return { reply: undefined }
  const opcode = (flags & flag.opcode) >> 11
  const isKnown = opcode === 0 || opcode === 4
  if (!isKnown) return { reply: headerOnly(message, rcode.notImp) }
  const [questions = 0, answers = 0, authorities = 0, additionals = 0] = counts(message)
  if (questions !== 1 || answers > 1 || authorities > 1 || additionals > 2)
    return { reply: headerOnly(message, rcode.formErr) }
  // Nothing follows although it is announced.
  if (message.length === headerBytes) return { reply: headerOnly(message, rcode.refused) }
  const question = readQuestion(message)
  if (!question) return { reply: headerOnly(message, rcode.formErr) }
  const query: ReceivedQuery = {
    id: message.readUInt16BE(0),
    name: question.name,
    type: types[question.type] ?? `TYPE${question.type}`,
    transport,
    udpPayloadSize: readPayloadSize(message),
    message,
    flags,
    question: message.subarray(headerBytes, question.end),
  }
  return { query }
}

function counts(message: Buffer): number[] {
  return [4, 6, 8, 10].map((offset) => message.readUInt16BE(offset))
}

function headerOnly(message: Buffer, code: number): Buffer {
  const reply = Buffer.alloc(headerBytes)
  message.copy(reply, 0, 0, 2)
  reply.writeUInt16BE(flag.response | (message.readUInt16BE(2) & flag.opcode) | code, 2)
  return reply
}

function readQuestion(message: Buffer): { name: string; type: number; end: number } | undefined {
  const labels: string[] = []
  let offset = headerBytes
  for (;;) {
    const length = message[offset]
    // There is nothing before a question that it could point to.
    if (length === undefined || length > 63 || offset > headerBytes + 255) return undefined
    offset++
    if (length === 0) break
    labels.push(message.subarray(offset, offset + length).toString('latin1'))
    offset += length
  }
  if (message.length < offset + 4) return undefined
  return { name: labels.join('.'), type: message.readUInt16BE(offset), end: offset + 4 }
}

function readPayloadSize(message: Buffer): number | undefined {
  if (message.readUInt16BE(10) === 0) return undefined
  try {
    const option = decode(message).additionals?.find(({ type }) => type === 'OPT')
    return option && 'udpPayloadSize' in option ? option.udpPayloadSize : undefined
  } catch {
    return undefined
  }
}
