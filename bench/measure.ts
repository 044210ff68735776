/** A benchmark. */
export interface Benchmark {
  /** What the benchmark measures, as a question. */
  readonly question: string
  /** Runs the benchmark. Returns a table: rows by name, with columns by name. */
  run(): Promise<Record<string, Record<string, number>>>
}

export interface Sample {
  /** Completed calls per second. */
  readonly perSecond: number
  /** Processor time of this process per call, user and system, in milliseconds. */
  readonly cpuMs: number
  /** Median and 99th percentile of the duration of a call, in milliseconds. */
  readonly p50: number
  readonly p99: number
}

/** Calls `work` `count` times, `concurrency` at a time. */
export async function sample(count: number, concurrency: number, work: () => Promise<void>): Promise<Sample> {
  let left = count
  const times: number[] = []
  const worker = async (): Promise<void> => {
    while (left > 0) {
      left -= 1
      const begin = performance.now()
      await work()
      times.push(performance.now() - begin)
    }
  }
  const cpu = process.cpuUsage()
  const start = performance.now()
  await Promise.all(Array.from({ length: concurrency }, worker))
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return { perSecond: count / seconds, cpuMs: (user + system) / 1000 / count, ...percentiles(times) }
}

/** The median and the 99th percentile. */
export function percentiles(times: readonly number[]): { readonly p50: number; readonly p99: number } {
  const sorted = [...times].sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.ceil(sorted.length * share) - 1] ?? NaN
  return { p50: at(0.5), p99: at(0.99) }
}

/**
 * Calls `work` at a fixed rate. Returns the duration of each call in milliseconds from when it was due, so that waiting
 * for a connection counts.
 */
export async function atRate(
  perSecond: number,
  seconds: number,
  work: () => Promise<void>,
): Promise<number[]> {
  const times: number[] = []
  const pending: Promise<void>[] = []
  const start = performance.now()
  const count = perSecond * seconds
  for (let i = 0; i < count;) {
    const due = Math.min(count, Math.floor(((performance.now() - start) * perSecond) / 1_000))
    for (; i < due; i += 1) {
      const dueAt = start + (i * 1_000) / perSecond
      const index = i
      pending.push(
        work().then(() => {
          times[index] = performance.now() - dueAt
        }),
      )
    }
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  await Promise.all(pending)
  return times
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const [low, high] = [sorted[sorted.length % 2 === 0 ? middle - 1 : middle], sorted[middle]]
  return low === undefined || high === undefined ? NaN : (low + high) / 2
}

export function round(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}
