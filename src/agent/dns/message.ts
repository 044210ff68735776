import { randomInt } from 'node:crypto'
import { isIP } from 'node:net'
import {
  type Answer,
  type DecodedPacket,
  type SoaAnswer,
  type SrvAnswer,
  type StringAnswer,
  RECURSION_DESIRED,
  TRUNCATED_RESPONSE,
  decode,
  encode,
} from 'dns-packet'

export type { Answer, SrvAnswer } from 'dns-packet'

export type QuestionType = 'SRV' | 'A' | 'AAAA'

/** A question, with the ID that its response must have. */
export interface DnsQuestion {
  readonly id: number
  readonly name: string
  readonly type: QuestionType
}

/** A response to a question. Its records are not authenticated. */
export interface DnsMessage {
  readonly rcode: string
  readonly isTruncated: boolean
  readonly answers: readonly Answer[]
  readonly authorities: readonly Answer[]
  readonly additionals: readonly Answer[]
}

/** The maximum response size over UDP that we announce. Larger responses are truncated and requested over TCP. */
const UDP_PAYLOAD_BYTES = 4096
const QR_RESPONSE = 'response'

/** Creates a question with an unpredictable ID (RFC 5452). */
export function dnsQuestion(name: string, type: QuestionType): DnsQuestion {
  return { id: randomInt(0x10000), name, type }
}

export function encodeQuestion({ id, name, type }: DnsQuestion): Buffer {
  return encode({
    type: 'query',
    id,
    flags: RECURSION_DESIRED,
    questions: [{ name, type }],
    // EDNS (RFC 6891)
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: UDP_PAYLOAD_BYTES,
        flags: 0,
        options: [],
        extendedRcode: 0,
        ednsVersion: 0,
        flag_do: false,
      },
    ],
  })
}

/**
 * Decodes a message and verifies that it answers the question.
 * @throws Error that says what is wrong with the message
 */
export function decodeAnswer(bytes: Buffer, question: DnsQuestion): DnsMessage {
  expectWhole(bytes)
  const packet: DecodedPacket & { rcode?: string } = decode(bytes)
  const { id, type, flags = 0, questions = [] } = packet
  if ((type as string | undefined) !== QR_RESPONSE) throw new Error('the message is not a response')
  if (id !== question.id) throw new Error('the response answers another question: its ID differs')
  const [asked, ...others] = questions
  if (
    asked === undefined ||
    others.length > 0 ||
    !isSameName(asked.name, question.name) ||
    asked.type !== question.type ||
    asked.class !== 'IN'
  ) {
    throw new Error('the response answers another question')
  }
  return {
    rcode: packet.rcode ?? 'UNKNOWN',
    isTruncated: (flags & TRUNCATED_RESPONSE) !== 0,
    answers: packet.answers ?? [],
    authorities: packet.authorities ?? [],
    additionals: packet.additionals ?? [],
  }
}

export function isSameName(a: string, b: string): boolean {
  return canonicalName(a) === canonicalName(b)
}

const HEADER_BYTES = 12
/** After a name follow type and class in a question, and also TTL and length in a record (RFC 1035, section 4.1). */
const QUESTION_BYTES = 4
const RECORD_BYTES = 10

/** Verifies the lengths in a message: the decoder would read beyond its end. */
function expectWhole(bytes: Buffer): void {
  if (bytes.length < HEADER_BYTES) throw new Error('the message is shorter than a header')
  const counts = [4, 6, 8, 10].map((at) => bytes.readUInt16BE(at))
  let offset = HEADER_BYTES
  for (const [section, count] of counts.entries()) {
    for (let i = 0; i < count; i += 1) {
      offset = afterName(bytes, offset) + (section === 0 ? QUESTION_BYTES : RECORD_BYTES)
      if (offset > bytes.length) throw new Error('the message is truncated')
      if (section > 0) offset += bytes.readUInt16BE(offset - 2)
    }
  }
  if (offset > bytes.length) throw new Error('the message is shorter than its length fields say')
}

function afterName(bytes: Buffer, start: number): number {
  let offset = start
  for (;;) {
    const length = bytes[offset]
    if (length === undefined) throw new Error('the message is truncated in a name')
    // A pointer to an earlier name ends this one.
    if (length >= 0xc0) return offset + 2
    offset += 1 + length
    if (length === 0) return offset
  }
}

/** DNS names are case-insensitive and may end in a dot. */
export function canonicalName(name: string): string {
  return name.replace(/\.$/, '').toLowerCase()
}

/** Whether a text is a DNS name: labels of 1 to 63 letters, digits, `-`, and `_`; at most 253 characters. */
export function isDnsName(name: string): boolean {
  return name.length <= 254 && /^(?=.{1,253}\.?$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?$/i.test(name)
}

// The decoder omits properties of malformed records, contrary to its types.

export function isSrv(record: Answer): record is SrvAnswer {
  if (record.type !== 'SRV') return false
  const data = record.data as Partial<SrvAnswer['data']> | undefined
  return typeof data?.target === 'string' && Number.isInteger(data.port)
}

export function isSoa(record: Answer): record is SoaAnswer {
  return record.type === 'SOA' && typeof (record.data as unknown) === 'object'
}

/** Whether a record is an IPv4 or IPv6 address. */
export function isAddress(record: Answer): record is StringAnswer {
  return (record.type === 'A' || record.type === 'AAAA') && isIP(record.data) !== 0
}
