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

/** How long each try over UDP waits; a datagram may be lost. */
const UDP_TRIES_MS = [500, 1_000, 2_000]
const TCP_TIMEOUT_MS = 3_000
/** RFC 1035, section 4.2.2: two bytes of length before each message. */
const LENGTH_BYTES = 2

/** Asks one DNS server, over UDP with EDNS and, when the answer does not fit, over TCP. */
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
   * One question. An answer that there is no such name is an answer.
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
      const told: { last?: Error } = {}
      try {
        return await withDeadline('DNS', { signal, timeoutMs, clock: this.#clock }, (within) =>
          this.#exchange(question, i, told, within),
        )
      } catch (error) {
        if (signal.aborted) throw error
        problem = told.last ?? problem
        if (error instanceof TimeoutError) continue
        // What the network says at once it would say again; a name may have another address.
        if (isIP(this.#host) !== 0) throw this.#failure(question, 'there is no answer', error)
        problem = toError(error)
      }
    }
    throw this.#failure(question, `there was no usable answer in ${UDP_TRIES_MS.length} tries`, problem)
  }

  /** A datagram there and one back. One that answers something else is not the end: it may be forged. */
  async #exchange(
    question: DnsQuestion,
    tryNumber: number,
    told: { last?: Error },
    signal: AbortSignal,
  ): Promise<DnsMessage> {
    const addresses = await lookup(this.#host, { all: true })
    const { address, family } = addresses[tryNumber % addresses.length] ?? { address: this.#host, family: 4 }
    // A socket for each exchange, so that its port cannot be guessed (RFC 5452).
    const socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    try {
      return await new Promise<DnsMessage>((resolve, reject) => {
        onAbort(signal, reject)
        socket.on('error', reject)
        socket.on('message', (bytes) => {
          try {
            resolve(decodeAnswer(bytes, question))
          } catch (error) {
            told.last = toError(error)
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
      throw this.#failure(question, 'the answer did not fit into UDP, and there is none over TCP', error)
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
          reject(new Error('the server closed the connection in the middle of its answer'))
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
      // A reset may still come; nobody waits for it.
      socket.on('error', () => undefined)
      socket.destroy()
    }
  }

  #failure({ name, type }: DnsQuestion, problem: string, cause: unknown): DnsError {
    return new DnsError(this.server, `${type} ${name}`, problem, { cause })
  }
}

/** Connected, so that the kernel drops what comes from anybody else. */
function send(
  socket: UdpSocket,
  to: { port: number; address: string },
  message: Buffer,
  onFailed: (error: Error) => void,
): void {
  // Node calls back with the error when the network refuses; its published types do not say so.
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
