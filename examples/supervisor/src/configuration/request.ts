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
  return named(place, () => convert(service, SERVICE))
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
      const snake = snakeCase(key)
      const shape = (Object.hasOwn(inside, snake) ? inside[snake] : undefined) ?? PLAIN
      return [
        (Object.hasOwn(names, snake) ? names[snake] : undefined) ?? pascalCase(snake),
        converted(value, shape),
      ]
    }),
  )
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

/** What an agent keeps only in an upstream's `config`. */
const TUNING = ['connect_timeout_ms', 'idle_timeout_ms']

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
