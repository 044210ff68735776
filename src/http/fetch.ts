import type { Dispatcher } from 'undici'
import { OptionError } from '../base/errors.js'
import { fetchDispatcher } from './redirect.js'

/**
 * The `fetch` of Node.js. Saved at load: a polyfill or mock may ignore the dispatcher, and its requests would leave the
 * mesh.
 */
const nodeFetch = globalThis.fetch

/**
 * Returns a `fetch` that uses a dispatcher of the mesh. As with every `fetch`, a connection error is the `cause` of a
 * TypeError.
 */
export function meshFetch(dispatcher: () => Dispatcher): typeof globalThis.fetch {
  return async (input, init) => {
    if (init?.dispatcher !== undefined) {
      const instead =
        'none, since it has its own; undici’s own fetch takes any, such as service.dispatcher().compose(…)'
      throw new OptionError('dispatcher', instead, 'another one')
    }
    // A Request reads all members of `init`, which may be a Request itself; a spread would lose some.
    const request = new Request(input, init)
    // The undici in Node.js accepts our dispatcher, although its types differ.
    const ours: object = { dispatcher: fetchDispatcher(dispatcher()) }
    return nodeFetch(request, ours)
  }
}
