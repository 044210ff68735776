import { expectShallow } from './depth.js'
import { ConfigurationError } from './error.js'
import type { Json } from './parse.js'
import { foldKey, snakeCase } from './spelling.js'

/** Paths at which repeated blocks form a list. Elsewhere a block is a single object. */
const LISTS: readonly RegExp[] = [
  /^services?$/,
  /^services?\.checks$/,
  /(^|\.)upstreams$/,
  /\.sidecar_service\.checks$/,
  /\.expose\.paths$/,
]

/** Paths at which repeated blocks are an error. At other paths, repeated blocks are passed on as a list. */
const SINGLE: readonly RegExp[] = [
  /^(connect|ports)$/,
  /^connect\.(proxy|proxy_defaults)(\.config)?$/,
  /^services?\.(connect|check|weights|meta|proxy|tagged_addresses)$/,
  /^services?\.connect\.(proxy|sidecar_service)$/,
  /^services?\.connect\.proxy\.config$/,
  /^services?\.proxy\.config$/,
]

/** Keys that the supervisor reads. The agent reads the others. */
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
 * Converts HCL blocks, which the parser returns as lists, to objects where a single block is expected. Consul uses a
 * similar table. Leaves out the keys that the agent reads.
 * @throws ConfigurationError
 */
export function unwrapBlocks(path: string, content: Json): Json {
  expectShallow(path, content)
  return Object.fromEntries(
    Object.entries(content).flatMap(([key, value]) => {
      const place = TOP_LEVEL.find((known) => foldKey(known) === foldKey(key))
      return place === undefined ? [] : [[key, shaped(path, place, value)]]
    }),
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
