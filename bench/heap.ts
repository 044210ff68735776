import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** The size of the heap after a garbage collection, in bytes. */
export function heapUsed(): number {
  collect()
  return process.memoryUsage().heapUsed
}
