const PRIME_1 = 0x9e3779b185ebca87n
const PRIME_2 = 0xc2b2ae3d27d4eb4fn
const PRIME_3 = 0x165667b19e3779f9n
const PRIME_4 = 0x85ebca77c2b2ae63n
const PRIME_5 = 0x27d4eb2f165667c5n
/** Inputs of this length and more are hashed in four lanes. */
const STRIPE_BYTES = 32

/**
 * Computes the 64-bit xxHash (XXH64) of bytes, or of a text in UTF-8.
 * @see https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
 */
export function xxHash64(text: string | Uint8Array, seed = 0n): bigint {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let at = 0
  let hash: bigint
  if (bytes.length >= STRIPE_BYTES) {
    let [a, b, c, d] = [seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1]
    for (; at + STRIPE_BYTES <= bytes.length; at += STRIPE_BYTES) {
      a = round(a, view.getBigUint64(at, true))
      b = round(b, view.getBigUint64(at + 8, true))
      c = round(c, view.getBigUint64(at + 16, true))
      d = round(d, view.getBigUint64(at + 24, true))
    }
    hash = rotate(a, 1n) + rotate(b, 7n) + rotate(c, 12n) + rotate(d, 18n)
    hash = merge(merge(merge(merge(hash, a), b), c), d)
  } else {
    hash = seed + PRIME_5
  }
  hash = u64(hash + BigInt(bytes.length))
  for (; at + 8 <= bytes.length; at += 8) {
    hash = u64(rotate(hash ^ round(0n, view.getBigUint64(at, true)), 27n) * PRIME_1 + PRIME_4)
  }
  if (at + 4 <= bytes.length) {
    hash = u64(rotate(hash ^ u64(BigInt(view.getUint32(at, true)) * PRIME_1), 23n) * PRIME_2 + PRIME_3)
    at += 4
  }
  for (; at < bytes.length; at += 1) {
    hash = u64(rotate(hash ^ u64(BigInt(view.getUint8(at)) * PRIME_5), 11n) * PRIME_1)
  }
  hash = u64((hash ^ (hash >> 33n)) * PRIME_2)
  hash = u64((hash ^ (hash >> 29n)) * PRIME_3)
  return hash ^ (hash >> 32n)
}

function round(lane: bigint, input: bigint): bigint {
  return u64(rotate(u64(lane + input * PRIME_2), 31n) * PRIME_1)
}

function merge(hash: bigint, lane: bigint): bigint {
  return u64((hash ^ round(0n, lane)) * PRIME_1 + PRIME_4)
}

function rotate(value: bigint, bits: bigint): bigint {
  return u64((value << bits) | (u64(value) >> (64n - bits)))
}

function u64(value: bigint): bigint {
  return BigInt.asUintN(64, value)
}
