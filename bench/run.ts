// `npm run bench` runs every benchmark, `npm run bench -- handshake` one. Each prints a table and writes JSON.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import type { Benchmark } from './measure.js'

const names = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.bench.ts'))
  .map((file) => file.slice(0, -'.bench.ts'.length))
const wanted = process.argv.length > 2 ? process.argv.slice(2) : names

for (const name of wanted) {
  if (!names.includes(name)) {
    console.error(`no benchmark ${name}; there are ${names.join(', ')}`)
    process.exit(1)
  }
  const benchmark = ((await import(`./${name}.bench.js`)) as { default: Benchmark }).default
  const { question } = benchmark
  const machine = `node ${process.version}, OpenSSL ${process.versions.openssl}, ${cpus().length} × ${cpus()[0]?.model ?? '?'}`
  console.log(`\n${name}: ${question}\n${machine}`)
  const rows = await benchmark.run()
  console.table(rows)
  mkdirSync('bench/results', { recursive: true })
  writeFileSync(
    `bench/results/${name}.json`,
    `${JSON.stringify({ name, question, machine, rows }, undefined, 2)}\n`,
  )
}
