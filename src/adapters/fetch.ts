import type { Dispatcher } from 'undici'
import { OptionError } from '../errors.js'

/**
 * Node's own `fetch`, on a dispatcher of the mesh. What goes wrong with a connection is the `cause` of the TypeError that
 * it rejects with, as always with `fetch`.
 */
export function meshFetch(dispatcher: () => Dispatcher): typeof globalThis.fetch {
  return async (input, init) => {
    if (init?.dispatcher !== undefined) {
      const instead =
        'none, since it has its own; undici’s own fetch takes any, such as service.dispatcher().compose(…)'
      throw new OptionError('dispatcher', instead, 'another one')
    }
    // The undici that is built into Node takes ours, and its types have its own.
    const ours: object = { dispatcher: dispatcher() }
    return globalThis.fetch(input, { ...init, ...ours })
  }
}
