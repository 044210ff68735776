// Runs the benchmarks: `npm run bench`, `npm run bench -- handshake dial`, `npm run bench -- -help`.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import type { Benchmark } from './measure.js'

const names = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.bench.ts'))
  .map((file) => file.slice(0, -'.bench.ts'.length))
const args = process.argv.slice(2)

if (args.some((arg) => ['-h', '-help', '--help'].includes(arg))) {
  console.log(await usage())
  process.exit()
}
const unknown = args.find((arg) => !names.includes(arg))
if (unknown !== undefined) {
  console.error(`unknown benchmark: ${unknown}; expected one of ${names.join(', ')}`)
  process.exit(1)
}

for (const name of args.length > 0 ? args : names) {
  const benchmark = await load(name)
  const { question } = benchmark
  const machine = `Node.js ${process.version}, OpenSSL ${process.versions.openssl}, ${cpus().length} × ${cpus()[0]?.model ?? '?'}`
  console.log(`\n${name}: ${question}\n${machine}`)
  const rows = await benchmark.run()
  console.table(rows)
  mkdirSync('bench/results', { recursive: true })
  writeFileSync(
    `bench/results/${name}.json`,
    `${JSON.stringify({ name, question, machine, rows }, undefined, 2)}\n`,
  )
}

async function load(name: string): Promise<Benchmark> {
  return ((await import(`./${name}.bench.js`)) as { default: Benchmark }).default
}

async function usage(): Promise<string> {
  const width = Math.max(...names.map(({ length }) => length))
  const lines = await Promise.all(
    names.map(async (name) => `  ${name.padEnd(width)}  ${(await load(name)).question}`),
  )
  return `Usage: npm run bench [-- NAME...]

Runs the named benchmarks, or all. Each prints a table, and writes bench/results/NAME.json.

${lines.join('\n')}`
}
