import { Agent, get } from 'node:http'
import { type Socket, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { atRate, percentiles } from './measure.js'
import { run } from './process.js'

/** Throughput and latency in milliseconds, as reported by `wrk`. */
export interface Requests {
  readonly perSecond: number
  readonly count: number
  readonly p50: number
  readonly p99: number
}

/** Transfers bytes at the maximum rate, by `iperf3`. */
export async function iperf(
  port: number,
  { streams, reverse, seconds }: { streams: number; reverse: boolean; seconds: number },
): Promise<{ readonly gigabits: number; readonly gigabytes: number }> {
  const command = [
    'iperf3',
    ...['-c', '127.0.0.1', '-p', String(port), '-t', String(seconds), '-P', String(streams), '-J'],
    ...(reverse ? ['-R'] : []),
  ]
  const deadline = performance.now() + BUSY_MS
  for (;;) {
    const { end, error } = JSON.parse(await run(command)) as IperfReport
    if (end.sum_received !== undefined) {
      const { bytes, seconds: time } = end.sum_received
      return { gigabits: (bytes * 8) / time / 1e9, gigabytes: bytes / 1e9 }
    }
    // The server ends a test a moment after its client.
    if (error?.includes('server is busy') !== true || performance.now() > deadline)
      throw new Error(`iperf3: ${error ?? 'no result'}`)
    await sleep(100)
  }
}

/** How long a server may be busy with the test before, in milliseconds. */
const BUSY_MS = 5_000

interface IperfReport {
  readonly end: { readonly sum_received?: { readonly bytes: number; readonly seconds: number } }
  readonly error?: string
}

/** Sends requests at the maximum rate, 16 at a time, by `wrk`: on persistent connections, or on a new one per request. */
export async function wrk(
  port: number,
  { keepAlive, seconds }: { keepAlive: boolean; seconds: number },
): Promise<Requests> {
  const output = await run([
    'wrk',
    ...['-t', '1', '-c', '16', '-d', `${seconds}s`, '--latency'],
    ...(keepAlive ? [] : ['-H', 'Connection: close']),
    `http://127.0.0.1:${port}/`,
  ])
  const field = (pattern: RegExp): string => {
    const found = pattern.exec(output)?.[1]
    if (found === undefined) throw new Error(`unexpected output of wrk:\n${output}`)
    return found
  }
  return {
    perSecond: Number(field(/Requests\/sec:\s+([\d.]+)/)),
    count: Number(field(/(\d+) requests in/)),
    p50: milliseconds(field(/50%\s+([\d.]+\w+)/)),
    p99: milliseconds(field(/99%\s+([\d.]+\w+)/)),
  }
}

function milliseconds(text: string): number {
  const value = Number.parseFloat(text)
  if (text.endsWith('us')) return value / 1000
  return text.endsWith('ms') ? value : value * 1000
}

/** Requests during this time are not measured, since they include handshakes. */
const WARM_UP_SECONDS = 1

/** Sends requests at a fixed rate, up to 16 at a time. */
export async function steady(
  port: number,
  { perSecond, seconds }: { perSecond: number; seconds: number },
): Promise<{ readonly p50: number; readonly p99: number }> {
  const agent = new Agent({ keepAlive: true, maxSockets: 16 })
  const times = await atRate(perSecond, WARM_UP_SECONDS + seconds, () => request(port, agent))
  agent.destroy()
  return percentiles(times.slice(perSecond * WARM_UP_SECONDS))
}

function request(port: number, agent: Agent): Promise<void> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, agent }, (response) => {
      response.resume().once('end', resolve).once('error', reject)
    }).once('error', reject)
  })
}

/** Opens connections, each with one echoed byte, and keeps them idle. Returns a function that closes them. */
export async function idle(port: number, count: number): Promise<() => Promise<void>> {
  const sockets: Socket[] = []
  const open = async (): Promise<void> => {
    const socket = connect(port, '127.0.0.1')
    sockets.push(socket)
    await new Promise((resolve, reject) => {
      socket.once('data', resolve).once('error', reject)
      socket.once('close', () => {
        reject(new Error('the proxy has closed a connection'))
      })
      socket.write('x')
    })
  }
  const AT_A_TIME = 32
  let left = count
  await Promise.all(
    Array.from({ length: AT_A_TIME }, async () => {
      while (left > 0) {
        left -= 1
        await open()
      }
    }),
  )
  return async () => {
    await Promise.all(
      sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve).destroy())),
    )
  }
}
