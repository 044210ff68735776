import { once } from 'node:events'
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'

/** Far more than any file of a configuration takes. */
const TIMEOUT_MS = 10_000

/**
 * The parser is Consul's own, HCL 1, compiled from Go. It changes global settings and takes a megabyte and a half of code,
 * and a file that is nested too deep exhausts its stack: in a thread of its own nothing of that stays.
 */
const PARSE = `
  const { parentPort, workerData } = require('node:worker_threads')
  parentPort.postMessage(require(workerData.parser).parse(workerData.text))
`

/**
 * HCL as JSON, or words about what is wrong with it.
 * @throws Error when the parser itself fails
 */
export async function hclToJson(text: string): Promise<string> {
  const parser = createRequire(import.meta.url).resolve('js-hcl-parser')
  const worker = new Worker(PARSE, { eval: true, workerData: { parser, text }, stdout: true, stderr: true })
  try {
    const [parsed] = (await once(worker, 'message', { signal: AbortSignal.timeout(TIMEOUT_MS) })) as [string]
    return parsed
  } finally {
    await worker.terminate()
  }
}
