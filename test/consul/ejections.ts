// What becomes of instances that fail, as the debug log of the dials tells it, beside what src/resolve/balancer.ts
// promises.
import type { TestContext } from 'node:test'
import { log } from '../../src/base/log.js'
import type { SteadyDials } from './steady-dials.js'

const FIRST_EJECTION_MS = 1_000
/** Of five. */
const MOST_EJECTED = 2
/** With a chance of a fifth, the one on trial is passed over by so many dials once in 10^9 times. */
const MOST_PASSING_OVER = Math.log(1e-9) / Math.log(1 - 1 / 5)

/** What came of one attempt of a dial. */
interface Attempt {
  /** By `performance.now`. */
  readonly at: number
  /** `host:port` of the instance. */
  readonly address: string
  readonly connected: boolean
}

/** Listens to the debug log of the dials, in place of whoever reads it. */
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

interface Course {
  readonly problems: string[]
  /** How long each trial came after the ejection before it, in milliseconds. */
  readonly pauses: number[]
  readonly ejections: number
  /** Failures of one that was not ejected, since as many were as may be. */
  readonly spared: number
}

/** Follows each of five instances through the attempts. */
export function followEjections(attempts: readonly Attempt[], dials: SteadyDials): Course {
  const problems: string[] = []
  const pauses: number[] = []
  const out = new Map<string, { readonly since: number; readonly times: number }>()
  let [ejections, spared] = [0, 0]
  for (const { at, address, connected } of attempts) {
    const ejected = out.get(address)
    if (ejected === undefined) {
      if (connected) continue
      if (out.size >= MOST_EJECTED) spared += 1
      else {
        out.set(address, { since: at, times: 1 })
        ejections += 1
      }
      continue
    }
    if (at <= dials.underWayUntil(ejected.since)) {
      // It was on its way before, and brings it back if it has arrived.
      if (connected) out.delete(address)
      continue
    }
    const pause = at - ejected.since
    pauses.push(pause)
    const shortest = FIRST_EJECTION_MS * 2 ** (ejected.times - 1)
    // The library's clock counts whole milliseconds.
    if (pause < shortest - 2) problems.push(`${address}: tried after ${pause} ms, not ${shortest} or more`)
    const passing = dials.begunBetween(ejected.since + 1.5 * shortest, at)
    if (passing > MOST_PASSING_OVER) problems.push(`${address}: on trial only after ${passing} others`)
    if (connected) out.delete(address)
    else out.set(address, { since: at, times: ejected.times + 1 })
  }
  return { problems, pauses, ejections, spared }
}
