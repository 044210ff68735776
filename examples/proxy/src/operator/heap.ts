// Import this module first in each process, before the heap grows.
import { setFlagsFromString } from 'node:v8'

/**
 * First Node.js version with the flag. Since Node.js 24, V8 grows the young generation up to 128 MiB. A burst of
 * connections grows it to that size, which the proxy does not need afterwards, and each collection then pauses the proxy for
 * tens of milliseconds. A growth factor of 1 keeps the initial size without a loss of throughput. Node.js 20 has a smaller
 * maximum and is slower with this setting.
 */
const MIN_NODE_MAJOR = 24

if (Number(process.versions.node.split('.', 1)[0]) >= MIN_NODE_MAJOR) {
  setFlagsFromString('--semi-space-growth-factor=1')
}
