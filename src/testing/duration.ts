const MS_PER_UNIT: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
}

/** Converts a Go duration such as `1h30m`, `100ms`, or `-1.5s` to milliseconds. Returns undefined for another text. */
export function parseDuration(text: string): number | undefined {
  const match = /^([+-]?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0)$/.exec(text)
  if (!match) return undefined
  let total = 0
  for (const [, number = '', unit = ''] of (match[2] ?? '').matchAll(/([\d.]+)([a-zµ]+)/g)) {
    total += Number(number) * (MS_PER_UNIT[unit] ?? 0)
  }
  return match[1] === '-' ? -total : total
}
