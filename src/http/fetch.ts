import type { Dispatcher } from 'undici'
import { OptionError } from '../base/errors.js'
import { fetchDispatcher } from './redirect.js'

/**
 * As it was when this was loaded: a later one, of a polyfill or a mock, may know nothing of dispatchers, and what it was
 * given would leave the mesh.
 */
const nodeFetch = globalThis.fetch

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
    // A Request reads everything that `init` has, also what a spread would lose: it may be a Request itself.
    const request = new Request(input, init)
    // The undici that is built into Node takes ours, and its types have its own.
    const ours: object = { dispatcher: fetchDispatcher(dispatcher()) }
    return nodeFetch(request, ours)
  }
}
