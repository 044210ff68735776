import { randomInt } from 'node:crypto'
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

/** Names of DNS have no case, and may end in a dot. */
export function canonicalName(name: string): string {
  return name.replace(/\.$/, '').toLowerCase()
}

/** A DNS name that can be asked for and told of: labels of 1 to 63 letters, digits, `-` and `_`, 253 in all. */
export function isDnsName(name: string): boolean {
  return name.length <= 254 && /^(?=.{1,253}\.?$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?$/i.test(name)
}

export function isSrv(record: Answer): record is SrvAnswer {
  return record.type === 'SRV'
}

export function isSoa(record: Answer): record is SoaAnswer {
  return record.type === 'SOA'
}

/** An address, of either family. */
export function isAddress(record: Answer): record is StringAnswer {
  return record.type === 'A' || record.type === 'AAAA'
}
