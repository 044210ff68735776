import { AsyncLocalStorage } from 'node:async_hooks'
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { Dispatcher } from 'undici'
import { RedirectError } from '../base/errors.js'
import { type Upstream, isResolver, parseUpstream } from '../resolve/upstream.js'
import { valueOf } from './header-lines.js'
import { type HostSettings, findUpstream } from './mesh-url.js'

/** Statuses that clients follow (Fetch standard, "redirect status"). */
const REDIRECT_STATUSES: ReadonlySet<unknown> = new Set([301, 302, 303, 307, 308])

export interface RedirectSettings {
  readonly hosts: HostSettings
  readonly crossServiceRedirects: boolean
}

/**
 * Throws if a redirect leads from one service of the mesh to another. A host outside the mesh passes: connecting to it
 * fails anyway.
 * @throws RedirectError
 */
function checkRedirect(from: string, to: string, { hosts, crossServiceRedirects }: RedirectSettings): void {
  if (crossServiceRedirects) return
  const source = identify(from, hosts)
  const target = identify(to, hosts)
  if (source === undefined || target === undefined || source.key === target.key) return
  throw new RedirectError(source.name, target.name)
}

/** Returns a key that is equal for all hosts of a service, in any datacenter, and the name of the upstream. */
function identify(
  hostname: string,
  hosts: HostSettings,
): { readonly key: Upstream; readonly name: string } | undefined {
  const upstream = findUpstream(hostname, hosts)
  if (upstream === undefined) return undefined
  if (isResolver(upstream)) return { key: upstream, name: upstream.name }
  const parsed = parseUpstream(upstream)
  const { namespace = '', partition = '' } = parsed
  const name = parsed.kind === 'query' ? parsed.query : parsed.service
  return { key: JSON.stringify([parsed.kind === 'query', name, namespace, partition]), name }
}

/** The requests of one call of a client: the first one, and those for redirects. */
interface Call {
  /** Host of the first request. */
  hostname?: string
  readonly isMeshFetch: boolean
}

/** The key of the call in the options of a request. Interceptors copy it to later requests. */
const CALL: unique symbol = Symbol('consul-connect.call')

type CallOptions = Dispatcher.DispatchOptions & { readonly [CALL]?: Call }

/** A dispatcher for one call of `fetch`: each request after the first one follows a redirect. */
export function fetchDispatcher(dispatcher: Dispatcher): Pick<Dispatcher, 'dispatch'> {
  const call: Call = { isMeshFetch: true }
  return { dispatch: (options, handler) => dispatcher.dispatch(withCall(options, call), handler) }
}

/** The outermost interceptor of a composed dispatcher: marks the request from which redirects start. */
export const trackRedirects: Dispatcher.DispatcherComposeInterceptor = (dispatch) => (options, handler) =>
  dispatch(CALL in options ? options : withCall(options, { isMeshFetch: false }), handler)

function withCall(options: Dispatcher.DispatchOptions, call: Call): CallOptions {
  return { ...options, [CALL]: call }
}

/**
 * Checks a request of a dispatcher against the first one of its call.
 * @returns the handler to dispatch with
 * @throws RedirectError
 */
export function guardDispatch(
  options: CallOptions,
  origin: string,
  handler: Dispatcher.DispatchHandler,
  settings: RedirectSettings,
): Dispatcher.DispatchHandler {
  const { hostname } = new URL(origin)
  const call = options[CALL]
  if (call?.hostname !== undefined) checkRedirect(call.hostname, hostname, settings)
  else if (call !== undefined) call.hostname = hostname
  if (call?.isMeshFetch === true || !isFetch(options)) return handler
  return guardResponse(handler, (status, location) => {
    const to = redirectTarget(status, location, hostname)
    if (to !== undefined) checkRedirect(hostname, to.hostname, settings)
  })
}

/** Whether a request comes from an implementation of `fetch`: only they set these two options. */
function isFetch(options: Dispatcher.DispatchOptions & { readonly maxRedirections?: unknown }): boolean {
  return options.maxRedirections === 0 && 'upgrade' in options
}

/**
 * Returns a handler that fails if `check` rejects the response. `fetch` follows a redirect by an independent request,
 * so that only the response can be rejected.
 */
function guardResponse(
  handler: Dispatcher.DispatchHandler,
  check: (status: number, location: unknown) => void,
): Dispatcher.DispatchHandler {
  return new Proxy(handler, {
    get(target, key): unknown {
      const value: unknown = Reflect.get(target, key)
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => {
        // Handlers of undici 7 have `onResponseStart`; fetch of Node.js 20 to 24 has `onHeaders` of undici 6.
        if (key === 'onResponseStart') check(args[1] as number, (args[2] as { location?: unknown }).location)
        if (key === 'onHeaders') check(args[0] as number, valueOf(args[1] as readonly Buffer[], 'location'))
        return Reflect.apply(value, target, args)
      }
    },
    set: (target, key, value) => Reflect.set(target, key, value),
  })
}

/** The redirect of the current asynchronous context, for listeners of `response` and their continuations. */
const currentRedirect = new AsyncLocalStorage<{ readonly from: string; readonly to: URL }>()

/**
 * Checks a request of `node:http`. Libraries follow a redirect in the `response` event, or in a continuation of it, by
 * a new request for the URL that the response names.
 * @throws RedirectError
 */
export function guardRequest(request: ClientRequest, settings: RedirectSettings): void {
  const hostname = request.host
  const redirect = currentRedirect.getStore()
  if (redirect?.to.hostname === hostname.toLowerCase() && pathOf(redirect.to) === request.path) {
    checkRedirect(redirect.from, hostname, settings)
  }
  const emit = request.emit.bind(request) as (event: string | symbol, ...args: unknown[]) => boolean
  request.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    if (event !== 'response') return emit(event, ...args)
    const { statusCode, headers } = args[0] as IncomingMessage
    const to = redirectTarget(statusCode, headers.location, hostname)
    return to === undefined
      ? emit(event, ...args)
      : currentRedirect.run({ from: hostname, to }, emit, event, ...args)
  }
}

function pathOf({ pathname, search }: URL): string {
  return pathname + search
}

/** Returns the redirect target of a response, if it is another host. */
function redirectTarget(status: unknown, location: unknown, hostname: string): URL | undefined {
  if (!REDIRECT_STATUSES.has(status) || typeof location !== 'string') return undefined
  try {
    const to = new URL(location, `http://${hostname}/`)
    return to.hostname === hostname.toLowerCase() ? undefined : to
  } catch {
    // Clients do not follow an invalid URL.
    return undefined
  }
}
