import { systemClock } from '../base/clock.js'
import { onceDestroyed } from '../sockets/open-sockets.js'
import type { MeshStream } from './stream.js'

/** A stream is idle when the peer sent the last byte, at least this long ago: no answer is being waited for. */
const IDLE_MS = 1_000
const LOOK_MS = 100

/** The open streams of a service, so that an idle pool of connections does not hold up its close. */
export class OpenStreams {
  readonly #streams = new Set<MeshStream>()

  add(stream: MeshStream): void {
    this.#streams.add(stream)
    onceDestroyed(stream, () => this.#streams.delete(stream))
  }

  /** Destroys each stream as soon as it is idle. Returns a function that ends this. */
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
