const MS_PER_UNIT = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const

/** Longer than any duration that Go formats. */
const MAX_LENGTH = 64

/**
 * Converts a duration in the format of Go, such as `1h30m`, `100ms`, or `-1.5s`, to milliseconds.
 * @returns undefined for any other text
 */
export function parseGoDuration(text: string): number | undefined {
  if (text.length > MAX_LENGTH) return undefined
  const [, sign, amounts = ''] = /^([+-]?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0)$/.exec(text) ?? []
  if (sign === undefined) return undefined
  let total = 0
  for (const [, amount, unit] of amounts.matchAll(/([\d.]+)([a-zµ]+)/g)) {
    total += Number(amount) * MS_PER_UNIT[unit as keyof typeof MS_PER_UNIT]
  }
  return sign === '-' ? -total : total
}
