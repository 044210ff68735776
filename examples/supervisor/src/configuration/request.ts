import { ConfigurationError } from './error.js'
import { foldKey } from './keys.js'
import type { Json } from './parse.js'
import { snakeCase } from './shape.js'

/**
 * A service definition as the agent's HTTP API takes it. Go reads JSON's keys without regard to their case, so that it is
 * enough to leave the underscores out; what has a name of its own there is in the tables.
 * @throws ConfigurationError
 */
export function toRequest(place: string, service: Json): Json {
  return named(place, () => withDestination(convert(service, SERVICE)))
}

/**
 * Moves the destination of an unmanaged proxy to where agents since 1.6 expect it; they reject `ProxyDestination`, the
 * key of Consul 1.2.
 */
function withDestination({ ProxyDestination: destination, ...service }: Json): Json {
  if (destination === undefined || destination === null || destination === '') return service
  if (service['Kind'] !== 'connect-proxy' || typeof destination !== 'string') {
    throw new ConfigurationError(
      `proxy_destination: expected the name of a service, and kind "connect-proxy" beside it`,
    )
  }
  const proxy = service['Proxy'] ?? {}
  const other = (proxy as Json)['DestinationServiceName'] ?? destination
  if (typeof proxy !== 'object' || other !== destination) {
    throw new ConfigurationError(
      'proxy_destination: expected the same service as in proxy.destination_service_name',
    )
  }
  return { ...service, Proxy: { ...proxy, DestinationServiceName: destination } }
}

/** Says where it is that something is wrong. */
function named(place: string, act: () => Json): Json {
  try {
    return act()
  } catch (cause) {
    throw cause instanceof ConfigurationError ? new ConfigurationError(`${place}: ${cause.message}`) : cause
  }
}

/** How the keys of an object are written: `as is` for an object whose keys are the user's. */
interface Shape {
  readonly names?: Readonly<Record<string, string>>
  readonly inside?: Readonly<Record<string, Shape | 'as is' | 'named'>>
}

const CHECK: Shape = { names: { id: 'CheckID' }, inside: { header: 'as is' } }
const UPSTREAM: Shape = {
  // Consul 1.2 had another word for it.
  names: { destination_datacenter: 'Datacenter' },
  inside: { config: 'as is' },
}
const PROXY: Shape = { inside: { config: 'as is', upstreams: UPSTREAM } }
const PLAIN: Shape = {}
const SERVICE: Shape = {
  names: { id: 'ID' },
  inside: {
    meta: 'as is',
    // Its keys are names, and what they lead to is not.
    tagged_addresses: 'named',
    check: CHECK,
    checks: CHECK,
    proxy: PROXY,
    connect: {
      inside: {
        // A definition inside a definition.
        get sidecar_service() {
          return SERVICE
        },
      },
    },
  },
}

function convert(from: Json, { names = {}, inside = {} }: Shape): Json {
  const seen = new Map<string, string>()
  for (const key of Object.keys(from)) {
    const other = seen.get(foldKey(key))
    if (other !== undefined) throw new ConfigurationError(`${other} and ${key} are one key to an agent`)
    seen.set(foldKey(key), key)
  }
  return Object.fromEntries(
    Object.entries(from).map(([key, value]) => {
      const name = spelled(names, key)
      const shape = spelled(inside, key)
      return [
        (name === undefined ? undefined : names[name]) ?? pascalCase(snakeCase(key)),
        converted(value, (shape === undefined ? undefined : inside[shape]) ?? PLAIN),
      ]
    }),
  )
}

/** The key of a table that an agent takes for the same. */
function spelled(table: object, key: string): string | undefined {
  const folded = foldKey(key)
  return Object.keys(table).find((each) => foldKey(each) === folded)
}

function converted(value: unknown, shape: Shape | 'as is' | 'named'): unknown {
  if (shape === 'as is') return value
  if (Array.isArray(value)) return value.map((item) => converted(item, shape))
  if (typeof value !== 'object' || value === null) return value
  if (shape !== 'named') return convert(value as Json, shape)
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, converted(inner, PLAIN)]))
}

function pascalCase(key: string): string {
  return key.replaceAll(/(?:^|_)([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

/** Keys of our proxy that an agent accepts only in an upstream's `config`. */
const TUNING = ['connect_timeout_ms', 'idle_timeout_ms', 'tags', 'filter', 'near']

/**
 * An upstream as the API takes it.
 * @throws ConfigurationError
 */
export function upstreamRequest(place: string, upstream: Json): Json {
  const tuning = Object.entries(upstream).filter(([key]) => TUNING.includes(snakeCase(key)))
  const rest = Object.entries(upstream).filter(([key]) => !TUNING.includes(snakeCase(key)))
  const request = named(place, () => convert(Object.fromEntries(rest), UPSTREAM))
  if (tuning.length === 0) return request
  const own = request['Config']
  const config = typeof own === 'object' && own !== null ? own : {}
  return {
    ...request,
    Config: { ...Object.fromEntries(tuning.map(([key, value]) => [snakeCase(key), value])), ...config },
  }
}
