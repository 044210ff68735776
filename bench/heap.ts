import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** What is in use on the heap when all that can be collected is, in bytes. */
export function heapUsed(): number {
  collect()
  return process.memoryUsage().heapUsed
}
