import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { elapsed } from '../time.js'
import type { PortRange } from '../configuration/configuration.js'

export interface PortSearch {
  readonly range: PortRange
  /** Ports reserved for other proxies and services, whether or not anything listens there. */
  readonly taken: ReadonlySet<number>
  readonly address: string
  readonly random?: () => number
}

/**
 * Chooses a free port at random, as Consul did, so that two supervisors rarely collide.
 * @throws Error when no port is free
 */
export async function findPort({ range, taken, address, random = Math.random }: PortSearch): Promise<number> {
  const { min, max } = range
  const candidates = Array.from({ length: max - min + 1 }, (_, i) => min + i).filter(
    (port) => !taken.has(port),
  )
  let busy = 0
  while (candidates.length > 0) {
    const [port = 0] = candidates.splice(Math.floor(random() * candidates.length), 1)
    if (await isFree(port, address)) return port
    busy += 1
  }
  const others = busy === 0 ? '' : ` (other programs use ${busy} of them)`
  throw new Error(
    `no free port from ${min} to ${max}${others}; enlarge the range (ports { proxy_min_port, proxy_max_port })`,
  )
}

const PROBE_POLL_MS = 50
const PROBE_MS = 1_000

/**
 * Waits until something accepts connections at an address.
 * @returns true once a connection succeeds; false when `signal` is aborted first
 */
export async function accepts(port: number, host: string, signal: AbortSignal): Promise<boolean> {
  do {
    const probe = connect({ port, host })
    try {
      await once(probe, 'connect', { signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_MS)]) })
      return true
    } catch {
      // Connection refused or timed out; try again.
    } finally {
      probe.on('error', () => undefined)
      probe.destroy()
    }
  } while (await elapsed(PROBE_POLL_MS, signal))
  return false
}

/**
 * Whether a listener could be opened on a port.
 * @throws Error when this machine does not have the address
 */
export async function isFree(port: number, address: string): Promise<boolean> {
  const server = createServer()
  try {
    server.listen({ port, host: address, exclusive: true })
    await once(server, 'listening')
    return true
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EADDRINUSE' || code === 'EACCES') return false
    throw new Error(
      `bind_address: expected an address of this machine, got ${address} (${code ?? 'unknown'})`,
      {
        cause,
      },
    )
  } finally {
    server.close()
  }
}
