import { expectShallow } from './depth.js'
import { ConfigurationError } from './error.js'
import {
  expectBoolean,
  expectName,
  expectObject,
  expectPort,
  expectSecret,
  expectString,
  MAX_WARNINGS,
  keysOf,
  take,
} from './keys.js'
import { foldKey } from './spelling.js'
import { expectListedUpstreams } from './listed-upstreams.js'
import { type ManagedBlock, checkConfig, readManaged, setsLocalService, withDefaults } from './managed.js'
import type { Json } from './parse.js'
import { toRequest, upstreamRequest } from './request.js'
import { closestKey } from './typos.js'

/** Keys of a service definition in Consul 1.2 to 1.22. Agents reject other keys. */
const SERVICE_KEYS = [
  'address',
  'check',
  'checks',
  'connect',
  'enable_tag_override',
  'id',
  'kind',
  'locality',
  'meta',
  'name',
  'namespace',
  'partition',
  'port',
  'ports',
  'proxy',
  'proxy_destination',
  'socket_path',
  'tagged_addresses',
  'tags',
  'token',
  'weights',
]
const CONNECT_KEYS = ['native', 'peer_meta', 'proxy', 'sidecar_service']

/** A parsed service definition. */
export interface ServiceDefinition {
  readonly id: string
  readonly name: string
  /** Port of the application; undefined if the definition has none. */
  readonly port: number | undefined
  /** Address of the service; undefined to use the node's. */
  readonly address: string | undefined
  readonly sender: Sender
  /** Registration for the agent: the definition without `connect.proxy` and `token`. */
  readonly body: Json
  /** Undefined for a service without a managed proxy. */
  readonly managed: ManagedBlock | undefined
  /** File that contains the definition, or a description of the request. Used in messages. */
  readonly origin: string
}

/** Credentials with which a service is registered. */
export interface Sender {
  /** ACL token from the definition or the request. */
  readonly token: string | undefined
  /**
   * Whether the service was registered by HTTP. Without a token, such a service is registered anonymously and not
   * with the supervisor's token.
   */
  readonly isForeign: boolean
}

export interface DefinitionContext {
  /** Whether the definition was sent by HTTP and not written by the operator. @default false */
  readonly isForeign?: boolean
  readonly origin: string
  /** Directory against which relative commands are resolved; undefined to reject them. */
  readonly folder: string | undefined
  readonly warn: (message: string) => void
}

/**
 * Parses a service definition, with the keys of files (`snake_case`) or of requests (`PascalCase`).
 * @throws ConfigurationError
 */
export function readDefinition(
  value: unknown,
  { origin, folder, warn, isForeign = false }: DefinitionContext,
): ServiceDefinition {
  expectShallow(`${origin}: service`, value)
  const given = keysOf(`${origin}: service`, value)
  const name = take(`${origin}: service`, given, 'name', expectName)
  if (name === undefined) throw new ConfigurationError(`${origin}: service: missing name`)
  const place = `${origin}: service ${name}`
  warnUnknown(place, given, SERVICE_KEYS, warn)
  // Consul treats an empty id as missing.
  const id = given['id'] === '' ? name : (take(place, given, 'id', expectName) ?? name)
  const connect = given['connect'] === undefined ? {} : keysOf(`${place}: connect`, given['connect'])
  warnUnknown(`${place}: connect`, connect, CONNECT_KEYS, warn)
  const { proxy: block, ...otherConnect } = connect
  const definition = {
    id,
    name,
    port: given['port'] === 0 ? undefined : take(place, given, 'port', expectPort),
    address: given['address'] === '' ? undefined : take(place, given, 'address', expectString),
    sender: {
      token: given['token'] === '' ? undefined : take(place, given, 'token', expectSecret),
      isForeign,
    },
    body: toRequest(place, {
      ...without(given, ['token', 'connect', 'id']),
      id,
      ...(Object.keys(otherConnect).length > 0 && { connect: otherConnect }),
    }),
    origin,
  }
  expectListedUpstreams(place, definition.body, warn)
  if (block === undefined || block === null) return { ...definition, managed: undefined }
  const where = `${place}: connect.proxy`
  expectOrdinary(where, given, otherConnect)
  const managed = readManaged(where, expectObject(where, block), folder, warn)
  return { ...definition, managed }
}

/**
 * Applies the defaults to a definition and validates the result.
 * @throws ConfigurationError
 */
export function applyDefaults(
  definition: ServiceDefinition,
  defaults: ManagedBlock,
  warn: (message: string) => void,
): ServiceDefinition {
  if (definition.managed === undefined) return definition
  const managed = withDefaults(definition.managed, defaults)
  const place = `${definition.origin}: service ${definition.name}: connect.proxy`
  if (definition.port === undefined && !setsLocalService(managed)) {
    throw new ConfigurationError(
      `${place}: address of the application unknown; set port in the service, or local_service_address in config`,
    )
  }
  // Validate upstreams here, because the agent would report errors only at registration.
  for (const [i, upstream] of managed.upstreams.entries())
    upstreamRequest(`${place}: upstreams[${i}]`, upstream)
  if (managed.command === undefined) checkConfig(place, definition, managed, warn)
  return { ...definition, managed }
}

function warnUnknown(
  place: string,
  given: Json,
  known: readonly string[],
  warn: (message: string) => void,
): void {
  const folded = known.map(foldKey)
  const unknown = Object.keys(given).filter((key) => !folded.includes(foldKey(key)))
  for (const key of unknown.slice(0, MAX_WARNINGS)) {
    const meant = closestKey(key, known)
    const advice = meant === undefined ? 'the agent may reject it' : `did you mean ${meant}?`
    warn(`${place}: unknown key ${key}; ${advice}`)
  }
}

function expectOrdinary(place: string, service: Json, connect: Json): void {
  const kind = service['kind']
  if (kind !== undefined && kind !== '') {
    throw new ConfigurationError(
      `${place}: a proxy cannot have a managed proxy; remove connect.proxy or kind`,
    )
  }
  if (take(place, connect, 'native', expectBoolean) === true) {
    throw new ConfigurationError(`${place}: a native service needs no managed proxy; remove native or proxy`)
  }
}

function without(from: Json, keys: readonly string[]): Json {
  return Object.fromEntries(Object.entries(from).filter(([key]) => !keys.includes(key)))
}
