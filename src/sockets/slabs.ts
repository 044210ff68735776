/** The size of a slab. */
export const SLAB_BYTES: number = 128 * 1024
/** How many unused slabs are kept for later. */
const MAX_SPARE = 16

const spare: Buffer[] = []

/** Returns a buffer for bytes that are about to be written; idle connections hold none. */
export function takeSlab(): Buffer {
  return spare.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
}

/** Takes a slab back whose bytes were written. */
export function returnSlab(slab: Buffer): void {
  if (slab.length === SLAB_BYTES && spare.length < MAX_SPARE) spare.push(slab)
}
