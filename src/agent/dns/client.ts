import { type Socket as UdpSocket, createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { connect as tcpConnect, isIP } from 'node:net'
import { withDeadline } from '../../base/deadline.js'
import type { Clock } from '../../base/clock.js'
import { formatHostPort } from '../../base/host-port.js'
import { DnsError, TimeoutError, toError } from '../../base/errors.js'
import {
  type DnsMessage,
  type DnsQuestion,
  type QuestionType,
  decodeAnswer,
  dnsQuestion,
  encodeQuestion,
} from './message.js'

/** The timeouts of the tries over UDP, which may lose datagrams. */
const UDP_TRIES_MS = [500, 1_000, 2_000]
const TCP_TIMEOUT_MS = 3_000
/** Over TCP, two bytes of length precede each message (RFC 1035, section 4.2.2). */
const LENGTH_BYTES = 2

/** Queries one DNS server over UDP with EDNS, and over TCP if the response is truncated. */
export class DnsClient {
  /** `host:port` of the server, for errors. */
  readonly server: string
  readonly #host: string
  readonly #port: number
  readonly #clock: Clock

  constructor(server: { readonly host: string; readonly port: number }, clock: Clock) {
    const { host, port } = server
    this.server = formatHostPort(server)
    this.#host = host
    this.#port = port
    this.#clock = clock
  }

  /**
   * Sends a question. A response without records, such as NXDOMAIN, is not an error.
   * @throws DnsError, AbortError
   */
  async query(name: string, type: QuestionType, signal: AbortSignal): Promise<DnsMessage> {
    const question = dnsQuestion(name, type)
    const answer = await this.#overUdp(question, signal)
    return answer.isTruncated ? this.#overTcp(question, signal) : answer
  }

  async #overUdp(question: DnsQuestion, signal: AbortSignal): Promise<DnsMessage> {
    let problem: Error | undefined
    for (const [i, timeoutMs] of UDP_TRIES_MS.entries()) {
      const rejected: { last?: Error } = {}
      try {
        return await withDeadline('DNS', { signal, timeoutMs, clock: this.#clock }, (within) =>
          this.#exchange(question, i, rejected, within),
        )
      } catch (error) {
        if (signal.aborted) throw error
        problem = rejected.last ?? problem
        if (error instanceof TimeoutError) continue
        // A network error would repeat for the same address; a host name may have another one.
        if (isIP(this.#host) !== 0) throw this.#failure(question, 'no response', error)
        problem = toError(error)
      }
    }
    throw this.#failure(question, `no valid response in ${UDP_TRIES_MS.length} tries`, problem)
  }

  /** Sends a datagram and waits for the response. Invalid responses, which may be forged, are ignored. */
  async #exchange(
    question: DnsQuestion,
    tryNumber: number,
    rejected: { last?: Error },
    signal: AbortSignal,
  ): Promise<DnsMessage> {
    const addresses = await lookup(this.#host, { all: true })
    const { address, family } = addresses[tryNumber % addresses.length] ?? { address: this.#host, family: 4 }
    // A new socket for each exchange makes the port unpredictable (RFC 5452).
    const socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    try {
      return await new Promise<DnsMessage>((resolve, reject) => {
        onAbort(signal, reject)
        socket.on('error', reject)
        socket.on('message', (bytes) => {
          try {
            resolve(decodeAnswer(bytes, question))
          } catch (error) {
            rejected.last = toError(error)
          }
        })
        send(socket, { port: this.#port, address }, encodeQuestion(question), reject)
      })
    } finally {
      socket.close()
    }
  }

  async #overTcp(question: DnsQuestion, signal: AbortSignal): Promise<DnsMessage> {
    const bounds = { signal, timeoutMs: TCP_TIMEOUT_MS, clock: this.#clock }
    try {
      const bytes = await withDeadline('DNS over TCP', bounds, (within) => this.#stream(question, within))
      return decodeAnswer(bytes, question)
    } catch (error) {
      if (signal.aborted) throw error
      throw this.#failure(question, 'the response is truncated over UDP, and there is none over TCP', error)
    }
  }

  async #stream(question: DnsQuestion, signal: AbortSignal): Promise<Buffer> {
    const socket = tcpConnect({ host: this.#host, port: this.#port })
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        let received = Buffer.alloc(0)
        onAbort(signal, reject)
        socket.on('error', reject)
        socket.on('close', () => {
          reject(new Error('the server closed the connection before the end of its response'))
        })
        socket.on('data', (chunk: Buffer) => {
          received = Buffer.concat([received, chunk])
          if (received.length < LENGTH_BYTES) return
          const end = LENGTH_BYTES + received.readUInt16BE(0)
          if (received.length >= end) resolve(received.subarray(LENGTH_BYTES, end))
        })
        const message = encodeQuestion(question)
        const length = Buffer.alloc(LENGTH_BYTES)
        length.writeUInt16BE(message.length)
        socket.write(Buffer.concat([length, message]))
      })
    } finally {
      // A late reset must not end the process.
      socket.on('error', () => undefined)
      socket.destroy()
    }
  }

  #failure({ name, type }: DnsQuestion, problem: string, cause: unknown): DnsError {
    return new DnsError(this.server, `${type} ${name}`, problem, { cause })
  }
}

/** Connects the socket, so that the kernel drops datagrams from other addresses, and sends a message. */
function send(
  socket: UdpSocket,
  to: { port: number; address: string },
  message: Buffer,
  onFailed: (error: Error) => void,
): void {
  // Node.js passes an error to this callback, which its types lack.
  socket.connect(to.port, to.address, (error?: Error) => {
    if (error === undefined) socket.send(message)
    else onFailed(error)
  })
}

function onAbort(signal: AbortSignal, reject: (error: Error) => void): void {
  const abort = (): void => {
    reject(toError(signal.reason))
  }
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
}
