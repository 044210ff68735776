import { systemClock } from '../base/clock.js'
import { onceDestroyed } from '../sockets/destruction.js'
import type { MeshStream } from './stream.js'

/** A stream is idle if the peer sent the last byte at least this long ago, so that no response is pending. */
const IDLE_MS = 1_000
const LOOK_MS = 100

/** Tracks the open streams of a service, so that idle connection pools do not delay its close. */
export class OpenStreams {
  readonly #streams = new Set<MeshStream>()

  add(stream: MeshStream): void {
    this.#streams.add(stream)
    onceDestroyed(stream, () => this.#streams.delete(stream))
  }

  /** Destroys each stream as soon as it is idle. @returns a function that stops this */
  endIdle(): () => void {
    let cancel = (): void => undefined
    const look = (): void => {
      for (const stream of this.#streams) if (stream.isIdleFor(IDLE_MS)) stream.destroy()
      cancel = systemClock.after(LOOK_MS, look)
    }
    look()
    return () => {
      cancel()
    }
  }
}
