import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseGoDuration } from '../../src/base/duration.js'

describe('parseGoDuration', () => {
  const cases: [text: string, ms: number][] = [
    ['0', 0],
    ['0s', 0],
    ['10s', 10_000],
    ['1m', 60_000],
    ['2h', 7_200_000],
    ['1ms', 1],
    ['1us', 0.001],
    ['1µs', 0.001],
    ['1ns', 0.000001],
    ['1.5s', 1_500],
    ['0.5h', 1_800_000],
    ['1m30s', 90_000],
    ['1h0m0s', 3_600_000],
    ['1h2m3s4ms', 3_723_004],
    ['1.s', 1_000],
    ['+10s', 10_000],
    ['-10s', -10_000],
    ['-1.5s', -1_500],
    ['2562047h47m16.854775807s', 9_223_372_036_854.775807],
  ]
  for (const [text, ms] of cases) {
    it(`reads ${text}`, () => {
      const found = parseGoDuration(text)
      assert.ok(found !== undefined && Math.abs(found - ms) <= Math.abs(ms) * 1e-12, String(found))
    })
  }

  const INVALID = '10 s --10s +-10s 10S 10sec 1d .5s 1.2.3s 1e3s 0x10s ٣s 10s! !10s 1 -1 NaN'
  for (const text of [...INVALID.split(' '), '', '10 s', '10s ', ' 10s', '10s\n']) {
    it(`rejects ${JSON.stringify(text)}`, () => {
      assert.equal(parseGoDuration(text), undefined)
    })
  }
})
