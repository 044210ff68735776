/** How many bytes of a slab come before those of its user, so that a head can be put before them. */
export const HEAD_ROOM: number = 64
/** The size of a slab. */
export const SLAB_BYTES: number = 128 * 1024 + HEAD_ROOM
/** How many unused slabs are kept for later. */
const MAX_SPARE = 16

const spare: Buffer[] = []
const all = new WeakSet<ArrayBufferLike>()

/** Returns a buffer for bytes that are about to be written; idle connections hold none. */
export function takeSlab(): Buffer {
  const known = spare.pop()
  if (known !== undefined) return known
  const slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
  all.add(slab.buffer)
  return slab
}

/** Whether bytes lie in a slab. */
export function isInSlab({ buffer }: Buffer): boolean {
  return all.has(buffer)
}

/** Takes a slab back whose bytes were written. */
export function returnSlab(slab: Buffer): void {
  if (slab.length === SLAB_BYTES && spare.length < MAX_SPARE) spare.push(slab)
}
