/** How many bytes at the start of a slab are left free, so that a frame head can be written before the contents. */
export const HEAD_ROOM: number = 64
/** The size of a slab. */
export const SLAB_BYTES: number = 128 * 1024 + HEAD_ROOM
/** How many unused slabs are kept for later. */
const MAX_SPARE = 16

const spare: Buffer[] = []
const slabMemory = new WeakSet<ArrayBufferLike>()

/** Returns a buffer for bytes that are about to be written; idle connections hold none. */
export function takeSlab(): Buffer {
  const known = spare.pop()
  if (known !== undefined) return known
  const slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
  slabMemory.add(slab.buffer)
  return slab
}

/** Whether bytes lie in a slab. */
export function isInSlab({ buffer }: Buffer): boolean {
  return slabMemory.has(buffer)
}

/** Takes a slab back whose bytes were written. */
export function returnSlab(slab: Buffer): void {
  if (slab.length === SLAB_BYTES && spare.length < MAX_SPARE) spare.push(slab)
}
