import { ConfigurationError } from './error.js'
import type { Json } from './parse.js'
import { foldKey, snakeCase } from './spelling.js'

/**
 * Converts a service definition to the format of the agent's HTTP API. Go ignores case in JSON keys, so that removing
 * underscores is sufficient for most keys. The tables below list the exceptions.
 * @throws ConfigurationError
 */
export function toRequest(place: string, service: Json): Json {
  return withPlace(place, () => withDestination(convert(service, SERVICE)))
}

/** Moves `ProxyDestination` (Consul 1.2) to `Proxy.DestinationServiceName`, which agents require since 1.6. */
function withDestination({ ProxyDestination: destination, ...service }: Json): Json {
  if (destination === undefined || destination === null || destination === '') return service
  if (service['Kind'] !== 'connect-proxy' || typeof destination !== 'string') {
    throw new ConfigurationError(
      `proxy_destination: expected a service name, together with kind = "connect-proxy"`,
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

/** Prefixes errors with the place of the value. */
function withPlace(place: string, act: () => Json): Json {
  try {
    return act()
  } catch (cause) {
    throw cause instanceof ConfigurationError ? new ConfigurationError(`${place}: ${cause.message}`) : cause
  }
}

/**
 * Describes how to convert the keys of an object. `as is`: keep its keys; `named`: keep its keys, convert the values.
 */
interface Shape {
  readonly names?: Readonly<Record<string, string>>
  readonly inside?: Readonly<Record<string, Shape | 'as is' | 'named'>>
}

const CHECK: Shape = { names: { id: 'CheckID' }, inside: { header: 'as is' } }
const UPSTREAM: Shape = {
  // Name of the key in Consul 1.2.
  names: { destination_datacenter: 'Datacenter' },
  inside: { config: 'as is' },
}
const PROXY: Shape = { inside: { config: 'as is', upstreams: UPSTREAM } }
const PLAIN: Shape = {}
const SERVICE: Shape = {
  names: { id: 'ID' },
  inside: {
    meta: 'as is',
    // The keys are user-defined names; the values are structures.
    tagged_addresses: 'named',
    check: CHECK,
    checks: CHECK,
    proxy: PROXY,
    connect: {
      inside: {
        // A sidecar_service is a nested service definition.
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
    if (other !== undefined)
      throw new ConfigurationError(`${other} and ${key} are the same key to an agent; remove one`)
    seen.set(foldKey(key), key)
  }
  return Object.fromEntries(
    Object.entries(from).map(([key, value]) => {
      const name = findKey(names, key)
      const shape = findKey(inside, key)
      return [
        (name === undefined ? undefined : names[name]) ?? pascalCase(snakeCase(key)),
        converted(value, (shape === undefined ? undefined : inside[shape]) ?? PLAIN),
      ]
    }),
  )
}

/** Finds the key of a table that an agent considers equal. */
function findKey(table: object, key: string): string | undefined {
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

/** Keys of `connect-proxy` that an agent accepts only in an upstream's `config`. */
const CONFIG_ONLY_KEYS = ['connect_timeout_ms', 'idle_timeout_ms', 'tags', 'filter', 'near']

/**
 * Converts an upstream to the format of the agent's HTTP API.
 * @throws ConfigurationError
 */
export function upstreamRequest(place: string, upstream: Json): Json {
  const tuning = Object.entries(upstream).filter(([key]) => CONFIG_ONLY_KEYS.includes(snakeCase(key)))
  const rest = Object.entries(upstream).filter(([key]) => !CONFIG_ONLY_KEYS.includes(snakeCase(key)))
  const request = withPlace(place, () => convert(Object.fromEntries(rest), UPSTREAM))
  if (tuning.length === 0) return request
  const own = request['Config']
  const config = typeof own === 'object' && own !== null ? own : {}
  return {
    ...request,
    Config: { ...Object.fromEntries(tuning.map(([key, value]) => [snakeCase(key), value])), ...config },
  }
}
