import { expectShallow } from './depth.js'
import { ConfigurationError } from './error.js'
import {
  expectBoolean,
  expectName,
  expectObject,
  expectPort,
  expectSecret,
  expectString,
  foldKey,
  MAX_WARNINGS,
  keysOf,
  take,
} from './keys.js'
import { expectListedUpstreams } from './listed-upstreams.js'
import { type ManagedBlock, checkConfig, readManaged, saysApplication, withDefaults } from './managed.js'
import type { Json } from './parse.js'
import { toRequest, upstreamRequest } from './request.js'
import { closestKey } from './typos.js'

/** The keys of a service definition in Consul 1.2 to 1.22. An agent rejects others. */
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

/** A service as somebody defined it. */
export interface ServiceDefinition {
  readonly id: string
  readonly name: string
  /** Where its application listens; undefined when the definition has no port. */
  readonly port: number | undefined
  /** Undefined for the node's. */
  readonly address: string | undefined
  readonly sender: Sender
  /** What the agent is sent: everything but what is meant for us. */
  readonly body: Json
  /** Undefined for a service without a managed proxy. */
  readonly managed: ManagedBlock | undefined
  /** The file that it came from, or who asked for it. */
  readonly origin: string
}

/** With whose rights a service is registered. */
export interface Sender {
  /** An ACL token of its own. */
  readonly token: string | undefined
  /** Whether it has no rights of ours where it has no token: it came from somebody else. */
  readonly isForeign: boolean
}

export interface DefinitionContext {
  /** Whether it comes from somebody who is not the operator. @default false */
  readonly isForeign?: boolean
  readonly origin: string
  /** Against what relative commands are taken; undefined where none may be. */
  readonly folder: string | undefined
  readonly warn: (message: string) => void
}

/**
 * Reads a service definition, in the spelling of files or that of requests.
 * @throws ConfigurationError
 */
export function readDefinition(
  value: unknown,
  { origin, folder, warn, isForeign = false }: DefinitionContext,
): ServiceDefinition {
  expectShallow(`${origin}: service`, value)
  const given = keysOf(`${origin}: service`, value)
  const name = take(`${origin}: service`, given, 'name', expectName)
  if (name === undefined) throw new ConfigurationError(`${origin}: service: expected a name, found none`)
  const place = `${origin}: service ${name}`
  warnUnknown(place, given, SERVICE_KEYS, warn)
  // Consul takes an empty id for none.
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
 * The same with the defaults of all, checked as a whole.
 * @throws ConfigurationError
 */
export function complete(
  definition: ServiceDefinition,
  defaults: ManagedBlock,
  warn: (message: string) => void,
): ServiceDefinition {
  if (definition.managed === undefined) return definition
  const managed = withDefaults(definition.managed, defaults)
  const place = `${definition.origin}: service ${definition.name}: connect.proxy`
  if (definition.port === undefined && !saysApplication(managed)) {
    throw new ConfigurationError(
      `${place}: expected a port in the service, or local_service_address in config: the proxy must know where the application is`,
    )
  }
  // An agent would be told of a mistake in them later.
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
    throw new ConfigurationError(`${place}: expected an ordinary service, and this one is a proxy itself`)
  }
  if (take(place, connect, 'native', expectBoolean) === true) {
    throw new ConfigurationError(
      `${place}: expected either native or a managed proxy: a native service needs no proxy`,
    )
  }
}

function without(from: Json, keys: readonly string[]): Json {
  return Object.fromEntries(Object.entries(from).filter(([key]) => !keys.includes(key)))
}
