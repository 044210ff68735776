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

/** A question on its way, with the id that its answer must have. */
export interface DnsQuestion {
  readonly id: number
  readonly name: string
  readonly type: QuestionType
}

/** An answer to the question that was asked; its records are still anybody's word. */
export interface DnsMessage {
  readonly rcode: string
  readonly isTruncated: boolean
  readonly answers: readonly Answer[]
  readonly authorities: readonly Answer[]
  readonly additionals: readonly Answer[]
}

/** What we say that we can take over UDP. Answers beyond it come truncated, and are asked for again over TCP. */
const UDP_PAYLOAD_BYTES = 4096
const QR_RESPONSE = 'response'

/** A question with an id that cannot be guessed (RFC 5452). */
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
 * Takes a message apart, and makes sure that it answers the question.
 * @throws Error that says what is wrong with it
 */
export function decodeAnswer(bytes: Buffer, question: DnsQuestion): DnsMessage {
  expectWhole(bytes)
  const packet: DecodedPacket & { rcode?: string } = decode(bytes)
  const { id, type, flags = 0, questions = [] } = packet
  if ((type as string | undefined) !== QR_RESPONSE) throw new Error('it is not an answer')
  if (id !== question.id) throw new Error('it answers another question: its id differs')
  const [asked, ...others] = questions
  if (
    asked === undefined ||
    others.length > 0 ||
    !isSameName(asked.name, question.name) ||
    asked.type !== question.type ||
    asked.class !== 'IN'
  ) {
    throw new Error('it answers another question')
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
/** What follows a name: type and class in a question; those, a TTL and a length in a record (RFC 1035, section 4.1). */
const QUESTION_BYTES = 4
const RECORD_BYTES = 10

/** The decoder reads over the end of a message whose lengths lie, and makes something of what is not there. */
function expectWhole(bytes: Buffer): void {
  if (bytes.length < HEADER_BYTES) throw new Error('it is shorter than the header of a message')
  const counts = [4, 6, 8, 10].map((at) => bytes.readUInt16BE(at))
  let offset = HEADER_BYTES
  for (const [section, count] of counts.entries()) {
    for (let i = 0; i < count; i += 1) {
      offset = afterName(bytes, offset) + (section === 0 ? QUESTION_BYTES : RECORD_BYTES)
      if (offset > bytes.length) throw new Error('it ends in the middle')
      if (section > 0) offset += bytes.readUInt16BE(offset - 2)
    }
  }
  if (offset > bytes.length) throw new Error('it says that it is longer than it is')
}

function afterName(bytes: Buffer, start: number): number {
  let offset = start
  for (;;) {
    const length = bytes[offset]
    if (length === undefined) throw new Error('it ends in the middle of a name')
    // A pointer to an earlier name is the end of this one.
    if (length >= 0xc0) return offset + 2
    offset += 1 + length
    if (length === 0) return offset
  }
}

/** Names of DNS have no case, and may end in a dot. */
export function canonicalName(name: string): string {
  return name.replace(/\.$/, '').toLowerCase()
}

/** A DNS name that can be asked for and told of: labels of 1 to 63 letters, digits, `-` and `_`, 253 in all. */
export function isDnsName(name: string): boolean {
  return name.length <= 254 && /^(?=.{1,253}\.?$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?$/i.test(name)
}

// The decoder leaves out what a record has no bytes for, whatever its types say.

export function isSrv(record: Answer): record is SrvAnswer {
  if (record.type !== 'SRV') return false
  const data = record.data as Partial<SrvAnswer['data']> | undefined
  return typeof data?.target === 'string' && Number.isInteger(data.port)
}

export function isSoa(record: Answer): record is SoaAnswer {
  return record.type === 'SOA' && typeof (record.data as unknown) === 'object'
}

/** An address, of either family. */
export function isAddress(record: Answer): record is StringAnswer {
  return (record.type === 'A' || record.type === 'AAAA') && isIP(record.data) !== 0
}
