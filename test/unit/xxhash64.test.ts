import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { xxHash64 } from '../../src/base/xxhash64.js'

/** The seed and the input of the self-test of the reference implementation. */
const PRIME = 2_654_435_761
const SANITY_INPUT = sanityInput(222)

/** The vectors of the self-test: the length of the input, and its hashes with the seeds 0 and `PRIME`. */
const OFFICIAL: [length: number, hash: bigint, seeded: bigint][] = [
  [0, 0xef46db3751d8e999n, 0xac75fda2929b17efn],
  [1, 0x4fce394cc88952d8n, 0x739840cb819fa723n],
  [14, 0xcffa8db881bc3a3dn, 0x5b9611585efcc9cbn],
  [222, 0x9dd507880debb03dn, 0xdc515172b8ee0600n],
]

/** The hashes of the repeated alphabet up to a length with the seeds 0 and 1, from xxhash for Python. */
const ALPHABET: [length: number, hash: bigint, seeded: bigint][] = [
  [1, 0xd24ec4f1a98c6e5bn, 0xdec2bc81c3cd46c6n],
  [3, 0x44bc2cf5ad770999n, 0xbea9ca8199328908n],
  [4, 0xde0327b0d25d92ccn, 0xf5dcbd6dee3c9553n],
  [7, 0x1860940e2902822dn, 0x3a5719489f8358b9n],
  [8, 0x3ad351775b4634b7n, 0x8305125710212a61n],
  [11, 0x814e257441cf78e0n, 0x72db49acb5ed2264n],
  [12, 0x4b09b7d3a233d4b3n, 0x864d2aa7e89bd8bn],
  [16, 0x71ce8137ca2dd53dn, 0xedb8849850777563n],
  [20, 0xfccc974985dbdc9en, 0xf6fa9da7313caee8n],
  [31, 0xf7d421c242541ac9n, 0x6fe65fa4a95f7862n],
  [32, 0x4da6cbe536cf55c7n, 0x964721c663054492n],
  [33, 0x9ac581034b031f72n, 0xcafe7be41fe85ff8n],
  [36, 0x9562677485a720b3n, 0xfd0261669a8f2a21n],
  [40, 0x32c28ae5016aa493n, 0x16b03b53bf490512n],
  [63, 0xa12b47d9d143a6bcn, 0xf91c800e7e77ad46n],
  [64, 0x14696b774542d718n, 0xc1345f8198abce9n],
  [65, 0xd7cebcc4da5d749en, 0x6186887cfb20ce74n],
  [127, 0x7ff39f60e90698efn, 0x8abac66c7016e041n],
  [300, 0x8d9460f4746dcfan, 0xa2817cc5f50bb615n],
]

/** Hashes of UTF-8 with the seed 0, from xxhash for Python. */
const TEXTS: [text: string, hash: bigint][] = [
  ['127.0.0.1', 0xc08b1587df65b7a7n],
  ['10.0.0.1:8080_0', 0x23a29ae775dfd4a3n],
  ['[::1]:80_17', 0x35f139080fe35c51n],
  ['größe', 0xe6bebd6647f502a5n],
  ['日本語', 0x7179a19f3719f5e1n],
  ['😀', 0x9025b8abaae87b80n],
  ['\0', 0xe934a84adb052768n],
]

describe('xxHash64', () => {
  it('computes the vectors of the reference implementation', () => {
    for (const [length, hash, seeded] of OFFICIAL) {
      const input = SANITY_INPUT.subarray(0, length)
      assert.equal(xxHash64(input), hash, String(length))
      assert.equal(xxHash64(input, BigInt(PRIME)), seeded, String(length))
    }
  })

  it('computes what another implementation computes, for inputs of any length', () => {
    for (const [length, hash, seeded] of ALPHABET) {
      const text = alphabet(length)
      assert.equal(xxHash64(text), hash, String(length))
      assert.equal(xxHash64(text, 1n), seeded, String(length))
    }
    assert.equal(xxHash64(alphabet(300), 2n ** 64n - 1n), 0x108545ce2c880263n)
  })

  it('hashes texts in UTF-8', () => {
    for (const [text, hash] of TEXTS) {
      assert.equal(xxHash64(text), hash, text)
      assert.equal(xxHash64(new TextEncoder().encode(text)), hash, text)
    }
  })

  it('hashes only the bytes of a view', () => {
    const bytes = new TextEncoder().encode(`---${alphabet(40)}---`)
    assert.equal(xxHash64(bytes.subarray(3, 43)), xxHash64(alphabet(40)))
  })
})

function sanityInput(length: number): Uint8Array {
  let state = PRIME
  return Uint8Array.from({ length }, () => {
    const byte = state >>> 24
    state = Math.imul(state, state) >>> 0
    return byte
  })
}

function alphabet(length: number): string {
  return 'abcdefghijklmnopqrstuvwxyz'.repeat(Math.ceil(length / 26)).slice(0, length)
}
