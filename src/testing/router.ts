import { empty, text, type Answer, type Call, type Handler } from './http.js'

type Method = 'GET' | 'PUT' | 'POST' | 'DELETE'

/** Handlers by path, then method. A path that ends in a slash also takes everything below it, as `rest`. */
export type Routes = Record<string, Partial<Record<Method, Handler>>>

/** Finds the handler for a path as Go's ServeMux does: exact paths first, then the longest prefix. */
export class Router {
  readonly #routes: Routes
  readonly #prefixes: string[]

  constructor(...tables: Routes[]) {
    this.#routes = Object.fromEntries(tables.flatMap((table) => Object.entries(table)))
    this.#prefixes = Object.keys(this.#routes)
      .filter((path) => path.endsWith('/'))
      .sort((a, b) => b.length - a.length)
  }

  async handle(call: Call): Promise<Answer> {
    const path = decodePath(call.path)
    const route =
      path === undefined || path in this.#routes
        ? path
        : this.#prefixes.find((prefix) => path.startsWith(prefix))
    const methods = route === undefined ? undefined : this.#routes[route]
    if (path === undefined || route === undefined || !methods) return empty(404)
    const allow = ['OPTIONS', ...Object.keys(methods)].join(',')
    if (call.method === 'OPTIONS') return empty(200, { Allow: allow })
    const handler = Object.entries(methods).find(([method]) => method === call.method)?.[1]
    if (!handler) return text(405, `method ${call.method} not allowed`, { Allow: allow })
    return await handler({ ...call, rest: path.slice(route.length) })
  }
}

function decodePath(path: string): string | undefined {
  try {
    return decodeURIComponent(path)
  } catch {
    return undefined
  }
}
