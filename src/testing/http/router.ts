import { empty, text, type Answer, type Call } from './http.js'
import type { State } from '../state/state.js'

export type Handler = (call: Call, state: State) => Answer | Promise<Answer>

/** Handlers by path and method. A path that ends with a slash also matches all paths below it. */
export type Routes = Record<string, Partial<Record<'GET' | 'PUT' | 'POST' | 'DELETE', Handler>>>

/** Finds the handler of a request like Go's ServeMux: by the exact path, or by the longest prefix. */
export class Router {
  readonly #routes: Routes
  readonly #prefixes: string[]

  constructor(...tables: Routes[]) {
    this.#routes = Object.fromEntries(tables.flatMap((table) => Object.entries(table)))
    this.#prefixes = Object.keys(this.#routes)
      .filter((path) => path.endsWith('/'))
      .sort((a, b) => b.length - a.length)
  }

  async handle(call: Call, state: State): Promise<Answer> {
    const path = decodeURIComponent(call.path)
    const isExact = Object.hasOwn(this.#routes, path)
    const route = isExact ? path : this.#prefixes.find((prefix) => path.startsWith(prefix))
    const methods = route === undefined ? undefined : this.#routes[route]
    if (route === undefined || !methods) return empty(404)
    const Allow = ['OPTIONS', ...Object.keys(methods)].join(',')
    if (call.method === 'OPTIONS') return { status: 200, headers: { Allow } }
    const handler = Object.entries(methods).find(([method]) => method === call.method)?.[1]
    if (handler) return await handler({ ...call, rest: path.slice(route.length) }, state)
    return text(405, `method ${call.method} not allowed`, { Allow })
  }
}
