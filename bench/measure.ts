/** One question about speed, and how it is answered. */
export interface Benchmark {
  readonly question: string
  /** A row for each thing that is compared, by its name. */
  run(): Promise<Record<string, Record<string, number>>>
}

export interface Sample {
  /** How many units of work a second. */
  readonly perSecond: number
  /** Processor time of this process for one unit of work, user and system, in milliseconds. */
  readonly cpuMs: number
  /** How long one unit took, in milliseconds: the median, and what 99 of 100 stayed below. */
  readonly p50: number
  readonly p99: number
}

/** Runs `work` `count` times, `concurrency` at a time. */
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
