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
  times.sort((a, b) => a - b)
  const at = (share: number): number => times[Math.ceil(times.length * share) - 1] ?? NaN
  return {
    perSecond: count / seconds,
    cpuMs: (user + system) / 1000 / count,
    p50: at(0.5),
    p99: at(0.99),
  }
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
