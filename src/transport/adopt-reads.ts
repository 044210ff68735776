import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/**
 * The versions on which this was tried: all of it is Node's own business, and may be another in the next. On others
 * a socket is read as any stream is.
 */
const TRIED = { from: 20, to: 26 }

/** What Node keeps with a socket that has the option `onread`, by the names of its symbols. */
const NAMES = ['kBuffer', 'kBufferCb', 'kBufferGen'] as const

interface Handle {
  useUserBuffer?(buffer: Uint8Array): void
}

/**
 * Gives a socket what the option `onread` gives to those that are connected. Node has no such option for sockets that
 * are accepted, which half of a proxy's are; and to make a buffer for each read costs a pump a third of its speed.
 *
 * Returns whether it could be done; where not, nothing has changed.
 */
export function adoptReads(socket: Duplex, buffer: Buffer, callback: (size: number) => boolean): boolean {
  const major = Number(process.versions.node.split('.', 1)[0])
  if (!(socket instanceof Socket) || major < TRIED.from || major > TRIED.to) return false
  const symbols = Object.getOwnPropertySymbols(socket)
  const [kBuffer, kBufferCb, kBufferGen] = NAMES.map((name) =>
    symbols.find(({ description }) => description === name),
  )
  const { _handle: handle } = socket as { _handle?: Handle | null }
  if (kBuffer === undefined || kBufferCb === undefined || kBufferGen === undefined) return false
  if (typeof handle?.useUserBuffer !== 'function') return false
  const own = socket as unknown as Record<symbol, unknown>
  // One that has the option already, from whoever opened it.
  if (own[kBuffer] !== null || own[kBufferGen] !== null) return false
  own[kBuffer] = buffer
  own[kBufferCb] = callback
  handle.useUserBuffer(buffer)
  return true
}
