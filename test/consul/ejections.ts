// Compares the ejections in the debug log of dials with the guarantees of src/resolve/balancing/balancer.ts.
import type { TestContext } from 'node:test'
import { log } from '../../src/base/log.js'
import type { SteadyDials } from './steady-dials.js'

const FIRST_EJECTION_MS = 1_000
/** Of five instances. */
const MAX_EJECTED = 2
/** With a chance of 1/5, an instance on trial is not chosen by this number of dials once in 10^9 times. */
const MAX_SKIPPING_DIALS = Math.log(1e-9) / Math.log(1 - 1 / 5)

/** One attempt of a dial. */
interface Attempt {
  /** By `performance.now`. */
  readonly at: number
  /** `host:port` of the instance. */
  readonly address: string
  readonly connected: boolean
}

/** Collects the attempts from the debug log of dials until the end of the test. */
export function attemptsOf(t: TestContext): readonly Attempt[] {
  const attempts: Attempt[] = []
  const { dial } = log
  const before = dial.log
  dial.enabled = true
  dial.log = (format: string, address: unknown): void => {
    if (typeof address !== 'string' || !/^[\d.]+:\d+$/.test(address)) return
    attempts.push({ at: performance.now(), address, connected: format.includes('connected to') })
  }
  t.after(() => {
    dial.enabled = false
    dial.log = before
  })
  return attempts
}

interface EjectionReport {
  readonly problems: string[]
  /** The time between each ejection and its trial, in milliseconds. */
  readonly pauses: number[]
  readonly ejections: number
  /** Failures without an ejection, because MAX_EJECTED instances were ejected already. */
  readonly spared: number
}

/** Reconstructs the ejections of five instances from the attempts. */
export function followEjections(attempts: readonly Attempt[], dials: SteadyDials): EjectionReport {
  const problems: string[] = []
  const pauses: number[] = []
  const ejectedInstances = new Map<string, { readonly since: number; readonly times: number }>()
  let [ejections, spared] = [0, 0]
  for (const { at, address, connected } of attempts) {
    const ejected = ejectedInstances.get(address)
    if (ejected === undefined) {
      if (connected) continue
      if (ejectedInstances.size >= MAX_EJECTED) spared += 1
      else {
        ejectedInstances.set(address, { since: at, times: 1 })
        ejections += 1
      }
      continue
    }
    const shortest = FIRST_EJECTION_MS * 2 ** (ejected.times - 1)
    const pause = at - ejected.since
    // On a slow machine, a dial of before the ejection can end long after its first trial.
    if (pause < shortest && at <= dials.pendingUntil(ejected.since)) {
      // The attempt began before the ejection, and ends it if it succeeds.
      if (connected) ejectedInstances.delete(address)
      continue
    }
    pauses.push(pause)
    // The clock of the library has a resolution of 1 ms.
    if (pause < shortest - 2) problems.push(`${address}: tried after ${pause} ms, not ${shortest} or more`)
    const skipping = dials.startedBetween(ejected.since + 1.5 * shortest, at)
    if (skipping > MAX_SKIPPING_DIALS)
      problems.push(`${address}: trial only after ${skipping} dials to other instances`)
    if (connected) ejectedInstances.delete(address)
    else ejectedInstances.set(address, { since: at, times: ejected.times + 1 })
  }
  return { problems, pauses, ejections, spared }
}
