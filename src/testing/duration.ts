const units: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
}

/** A Go duration (`1h30m`, `100ms`, `-1.5s`) in milliseconds, or undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  const match = /^([+-]?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0)$/.exec(text)
  if (!match) return undefined
  let total = 0
  for (const [, number = '', unit = ''] of (match[2] ?? '').matchAll(/([\d.]+)([a-zµ]+)/g)) {
    total += Number(number) * (units[unit] ?? 0)
  }
  return match[1] === '-' ? -total : total
}

/** Milliseconds as the shortest whole Go duration: `72h`, `90m`, `1500ms`. */
export function formatDuration(ms: number): string {
  if (ms % 3_600_000 === 0) return `${ms / 3_600_000}h`
  if (ms % 60_000 === 0) return `${ms / 60_000}m`
  return ms % 1_000 === 0 ? `${ms / 1_000}s` : `${ms}ms`
}
