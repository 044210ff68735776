import { once } from 'node:events'
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'

/** Upper bound on the time to parse one file. */
const TIMEOUT_MS = 10_000

/**
 * Runs the HCL 1 parser of Consul, compiled from Go. A worker thread isolates the parser: it modifies globals, loads
 * 1.5 MB of code, and overflows its stack on deeply nested input.
 */
const PARSE = `
  const { parentPort, workerData } = require('node:worker_threads')
  parentPort.postMessage(require(workerData.parser).parse(workerData.text))
`

/**
 * Converts HCL to JSON. For invalid HCL, returns the error message of the parser.
 * @throws Error when the parser fails or times out
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
