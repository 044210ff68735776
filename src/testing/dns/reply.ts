import { encode, type Answer } from 'dns-packet'
import type { DnsAnswer } from './answer.js'
import { compress } from './compress.js'
import type { DnsSettings } from './options.js'
import { flag, rcode, type ReceivedQuery } from './query.js'
import { trim, type Sections } from './trim.js'

const headerBytes = 12

/** The message that answers the query: trimmed to what the client takes, and compressed. */
export function replyTo(query: ReceivedQuery, answer: DnsAnswer, settings: DnsSettings): Buffer {
  const trimmed = trim(answer, {
    transport: query.transport,
    udpPayloadSize: query.udpPayloadSize,
    udpAnswerLimit: settings.udpAnswerLimit,
    measure: (sections, compressed) => {
      const bytes = message(query, answer, sections)
      return compressed ? compress(bytes).length : bytes.length
    },
  })
  const isTruncated = settings.enableTruncate && trimmed.answers.length < answer.answers.length
  // Outside its domain Consul refuses before it looks at EDNS.
  const { udpPayloadSize } = query
  const option = udpPayloadSize === undefined || answer.code === rcode.refused ? [] : [edns(udpPayloadSize)]
  return compress(message(query, answer, trimmed, option, isTruncated ? flag.truncated : 0))
}

function message(
  query: ReceivedQuery,
  answer: DnsAnswer,
  sections: Sections,
  option: Answer[] = [],
  moreFlags = 0,
): Buffer {
  const { flags, question } = query
  const repeated = flags & (flag.opcode | flag.recursionDesired | flag.checkingDisabled)
  const own =
    (answer.authoritative ? flag.authoritative : 0) |
    (answer.recursionAvailable ? flag.recursionAvailable : 0)
  const bytes = encode({
    type: 'response',
    id: query.id,
    flags: repeated | own | moreFlags | answer.code,
    answers: sections.answers,
    authorities: sections.authorities,
    additionals: [...sections.additionals, ...option],
  })
  // The question goes back byte by byte, whatever is in it.
  const reply = Buffer.concat([bytes.subarray(0, headerBytes), question, bytes.subarray(headerBytes)])
  reply.writeUInt16BE(1, 4)
  return reply
}

function edns(udpPayloadSize: number): Answer {
  return {
    type: 'OPT',
    name: '.',
    udpPayloadSize,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  }
}
