import type { DnsRecord } from './records.js'

const plainUdpBytes = 512
/** Consul never gives more answers to those who do not speak EDNS. */
const plainUdpAnswers = 8
const udpHeaderBytes = 8
const maxTcpBytes = 65_523

export interface Sections {
  answers: DnsRecord[]
  authorities: DnsRecord[]
  additionals: DnsRecord[]
}

export interface Limits {
  transport: 'udp' | 'tcp'
  udpPayloadSize: number | undefined
  /** How many answers to give over UDP without EDNS. */
  udpAnswerLimit: number
  /** The size of the message with these sections, without EDNS. */
  measure: (sections: Sections, compressed: boolean) => number
}

/** Leaves answers out until the message fits; one is always left. */
export function trim(sections: Sections, limits: Limits): Sections {
  const { transport, udpPayloadSize = 0, udpAnswerLimit, measure } = limits
  const { answers } = sections
  const isPlain = transport === 'udp' && udpPayloadSize <= plainUdpBytes
  // Consul leaves room for the header of the datagram, but none for EDNS, which it adds in the end.
  const maxBytes =
    transport === 'tcp' ? maxTcpBytes : Math.max(udpPayloadSize, plainUdpBytes) - udpHeaderBytes
  const maxAnswers = isPlain ? Math.min(plainUdpAnswers, udpAnswerLimit) : Infinity
  // To those who do not speak EDNS not even the message without compression is too large.
  const compressed = answers.length <= maxAnswers
  let trimmed = compressed ? sections : cut(sections, maxAnswers)
  if (measure(trimmed, compressed) > maxBytes) trimmed = { ...trimmed, authorities: [] }
  while (trimmed.answers.length > 1 && measure(trimmed, compressed) > maxBytes) {
    trimmed = cut(trimmed, trimmed.answers.length - 1)
  }
  return trimmed
}

/** Keeps so many answers, and of the rest the first record for the target of each. */
function cut({ answers, authorities, additionals }: Sections, count: number): Sections {
  const kept = answers.slice(0, count)
  const targets = kept.flatMap((record) => (record.type === 'SRV' ? [record.data.target.toLowerCase()] : []))
  const needed = [...new Set(targets)].flatMap((target) => {
    const record = additionals.find(({ name }) => name.toLowerCase() === target)
    return record ? [record] : []
  })
  return { answers: kept, authorities, additionals: needed }
}
