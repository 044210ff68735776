import type { Log } from 'consul-connect-proxy/log'
import { proxyIdOf } from '../agent/proxy-registration.js'
import type { Configuration } from '../configuration/configuration.js'
import {
  type DefinitionContext,
  type ServiceDefinition,
  applyDefaults,
  readDefinition,
} from '../configuration/definition.js'
import { ConfigurationError } from '../configuration/error.js'
import { valueOf } from '../configuration/keys.js'
import type { ManagedBlock } from '../configuration/managed.js'
import type { Json } from '../configuration/parse.js'
import { findProgram } from '../process/launch.js'

/** Looks up which ids are already in use. */
export interface Ids {
  /** The id of the service whose managed proxy has this id; undefined if there is none. */
  ownerOf(proxyId: string): string | undefined
  isService(id: string): boolean
}

/** Service definitions that were registered by HTTP and are in no configuration file. */
export class RequestedServices {
  /** Unparsed, so that a definition this version rejects is kept for a later version. */
  #requests: readonly Json[]
  readonly #context: DefinitionContext
  readonly #ids: Ids

  constructor(saved: readonly Json[], log: Log, ids: Ids) {
    this.#requests = saved
    this.#ids = ids
    this.#context = {
      origin: 'the request',
      isForeign: true,
      // A request has no directory, so a relative command cannot be resolved.
      folder: undefined,
      warn: (message) => {
        log.warn(message)
      },
    }
  }

  get saved(): readonly Json[] {
    return this.#requests
  }

  /**
   * Parses and validates a request without storing it.
   * @param path - value of `PATH`, to check that the command exists
   * @throws ConfigurationError
   */
  read(request: Json, configuration: Configuration, path?: string): ServiceDefinition {
    const service = this.#applyDefaults(request, configuration)
    this.expectFree(service.id, configuration)
    if (service.managed === undefined) return service
    this.#expectFreeProxyId(service.id, configuration)
    expectProgram(service.managed, path)
    return service
  }

  /**
   * Checks that clients may register or deregister this id: it belongs neither to a configuration file nor to a
   * managed proxy.
   * @throws ConfigurationError
   */
  expectFree(id: string, { services }: Configuration): void {
    expectNotOfFile(id, services)
    const owner = this.#ids.ownerOf(id)
    if (owner !== undefined) throw new ConfigurationError(`${id} is the managed proxy of ${owner}`)
  }

  #expectFreeProxyId(serviceId: string, { services }: Configuration): void {
    const id = proxyIdOf(serviceId)
    expectNotOfFile(id, services)
    if (!this.#ids.isService(id)) return
    throw new ConfigurationError(`service ${id} already has the id of the managed proxy of ${serviceId}`)
  }

  /** Stores a request. Replaces an earlier one with the same id. */
  add(id: string, request: Json): void {
    this.remove(id)
    this.#requests = [...this.#requests, request]
  }

  /**
   * Removes a request.
   * @returns whether the id was known
   */
  remove(id: string): boolean {
    const before = this.#requests.length
    this.#requests = this.#requests.filter((request) => idOf(request) !== id)
    return this.#requests.length < before
  }

  /** The token with which a service was registered; undefined for none and for an unknown id. */
  tokenOf(id: string): string | undefined {
    const request = this.#requests.find((each) => idOf(each) === id)
    return (request && textOf(request, 'token')) || undefined
  }

  /**
   * Parses all stored requests with the current settings. A service whose proxy is no longer allowed or valid stays
   * registered, without its proxy.
   */
  definitions(configuration: Configuration): readonly ServiceDefinition[] {
    return this.#requests.flatMap((request) => {
      try {
        return [this.#allowed(request, configuration)]
      } catch (error) {
        this.#context.warn((error as Error).message)
        return []
      }
    })
  }

  #allowed(request: Json, configuration: Configuration): ServiceDefinition {
    const service = readDefinition(request, this.#context)
    if (service.managed === undefined) return service
    const { warn } = this.#context
    if (!configuration.allowManagedApiRegistration) {
      warn(
        `${service.id}: allow_managed_api_registration is off; no proxy is started for a service registered by HTTP`,
      )
      return { ...service, managed: undefined }
    }
    try {
      return this.#applyDefaults(request, configuration)
    } catch (error) {
      warn(`${service.id}: no proxy is started: ${(error as Error).message}`)
      return { ...service, managed: undefined }
    }
  }

  #applyDefaults(request: Json, { defaults }: Configuration): ServiceDefinition {
    return applyDefaults(readDefinition(request, this.#context), defaults, this.#context.warn)
  }
}

/** Returns the id of a request, even if this version rejects the request, so that it can be removed. */
function idOf(request: Json): string | undefined {
  const [id, name] = [textOf(request, 'id'), textOf(request, 'name')]
  return id === undefined || id === '' ? name : id
}

function textOf(request: Json, key: string): string | undefined {
  const value = valueOf(request, key)
  return typeof value === 'string' ? value : undefined
}

function expectNotOfFile(id: string, services: readonly ServiceDefinition[]): void {
  if (!services.some((service) => service.id === id)) return
  throw new ConfigurationError(`service ${id} is defined in a configuration file; change it there`)
}

function expectProgram({ command, folder }: ManagedBlock, path: string | undefined): void {
  try {
    if (command?.[0] !== undefined) findProgram(command[0], folder, path)
  } catch (cause) {
    throw new ConfigurationError((cause as Error).message, { cause })
  }
}
