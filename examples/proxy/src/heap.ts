// Imported first by each process.
import { setFlagsFromString } from 'node:v8'

/**
 * From Node.js 24 on V8 lets the space for new objects grow to 128 MiB. A proxy that takes many connections grows it to
 * that, never uses it again, and stops for tens of milliseconds each time it is swept. As small as it begins, it costs no
 * speed there; Node.js 20 is slower for it, and has a smaller one anyway.
 */
const SINCE = 24

if (Number(process.versions.node.split('.', 1)[0]) >= SINCE) {
  setFlagsFromString('--semi-space-growth-factor=1')
}
