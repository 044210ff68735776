import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { type Benchmark, median, round } from './measure.js'

const ROUNDS = 15
const MIB = 1024 * 1024

/** Measures the import of the package as it is published. */
const benchmark: Benchmark = {
  question:
    'How long does the import of the package take, and how much memory and how many packages does it add?',
  run: () =>
    Promise.resolve({
      'Node.js alone': imported(undefined),
      undici: imported('undici'),
      'consul-connect': { ...imported('consul-connect'), packages: packages() },
    }),
}
export default benchmark

function imported(name: string | undefined): Record<string, number> {
  const program = `
    const begin = performance.now()
    ${name === undefined ? '' : `await import(${JSON.stringify(name)})`}
    const ms = performance.now() - begin
    globalThis.gc()
    console.log(JSON.stringify({ ms, heap: process.memoryUsage().heapUsed, rss: process.memoryUsage().rss }))`
  const rounds = Array.from({ length: ROUNDS }, () => {
    const args = ['--expose-gc', '--input-type=module', '-e', program]
    return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as Measured
  })
  const medianOf = (figure: keyof Measured): number => median(rounds.map((measured) => measured[figure]))
  return {
    'import, ms': round(medianOf('ms'), 1),
    'heap, MiB': round(medianOf('heap') / MIB, 1),
    'resident, MiB': round(medianOf('rss') / MIB, 1),
  }
}

interface Measured {
  readonly ms: number
  readonly heap: number
  readonly rss: number
}

/** The number of packages that an installation adds besides consul-connect. */
function packages(): number {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as {
    packages: Record<string, { dependencies?: Record<string, string> }>
  }
  const found = new Set<string>()
  const visit = (dependencies: Record<string, string> = {}): void => {
    for (const name of Object.keys(dependencies)) {
      if (found.has(name)) continue
      found.add(name)
      visit(lock.packages[`node_modules/${name}`]?.dependencies)
    }
  }
  visit(lock.packages['']?.dependencies)
  return found.size
}
