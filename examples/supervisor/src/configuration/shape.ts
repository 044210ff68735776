import { expectShallow } from './depth.js'
import { ConfigurationError } from './error.js'
import type { Json } from './parse.js'

/** Where several blocks are several things; everywhere else there is one block, which is one object. */
const LISTS: readonly RegExp[] = [
  /^services?$/,
  /^services?\.checks$/,
  /(^|\.)upstreams$/,
  /\.sidecar_service\.checks$/,
  /\.expose\.paths$/,
]

/** Where there can be one only. Elsewhere, several are for whoever understands them. */
const SINGLE: readonly RegExp[] = [
  /^(connect|ports)$/,
  /^connect\.(proxy|proxy_defaults)(\.config)?$/,
  /^services?\.(connect|check|weights|meta|proxy|tagged_addresses)$/,
  /^services?\.connect\.(proxy|sidecar_service)$/,
  /^services?\.connect\.proxy\.config$/,
  /^services?\.proxy\.config$/,
]

/** The keys that the supervisor reads; other keys belong to the agent. */
export const TOP_LEVEL = [
  'service',
  'services',
  'connect',
  'ports',
  'data_dir',
  'log_level',
  'log_json',
  'bind_addr',
] as const

/**
 * In HCL a block and a list with one object are the same. Makes objects of the blocks where one is meant, as Consul does
 * by its own table, and leaves lists where there may be several.
 * @throws ConfigurationError
 */
export function unblock(path: string, content: Json): Json {
  const known: readonly string[] = TOP_LEVEL
  expectShallow(path, content)
  return Object.fromEntries(
    Object.entries(content)
      .filter(([key]) => known.includes(snakeCase(key)))
      .map(([key, value]) => [key, shaped(path, snakeCase(key), value)]),
  )
}

function shaped(file: string, place: string, value: unknown): unknown {
  if (Array.isArray(value)) {
    const items: readonly unknown[] = value
    if (!items.every(isObject) || items.length === 0) return items
    if (LISTS.some((list) => list.test(place))) return items.map((item) => shaped(file, place, item))
    if (items.length === 1) return shaped(file, place, items[0])
    if (!SINGLE.some((single) => single.test(place))) return items.map((item) => shaped(file, place, item))
    throw new ConfigurationError(`${file}: ${place}: expected one block, found ${items.length}`)
  }
  if (!isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, shaped(file, `${place}.${snakeCase(key)}`, inner)]),
  )
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Converts the spelling of requests to that of files: `LocalBindPort` becomes `local_bind_port`. Linear in the length. */
export function snakeCase(key: string): string {
  return key.replaceAll(/(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])/g, '_').toLowerCase()
}
