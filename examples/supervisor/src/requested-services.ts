import type { Log } from 'consul-connect-proxy/log'
import { proxyIdOf } from './agent/proxy-registration.js'
import type { Configuration } from './configuration/configuration.js'
import {
  type DefinitionContext,
  type ServiceDefinition,
  complete,
  readDefinition,
} from './configuration/definition.js'
import { ConfigurationError } from './configuration/error.js'
import { foldKey } from './configuration/keys.js'
import type { ManagedBlock } from './configuration/managed.js'
import type { Json } from './configuration/parse.js'
import { findProgram } from './process/launch.js'

/** Whose an id is already. */
export interface Ids {
  /** The service whose managed proxy has it. */
  ownerOf(proxyId: string): string | undefined
  isService(id: string): boolean
}

/** Definitions that came by HTTP, and are in no file. */
export class RequestedServices {
  /** As they came: one that cannot be read today may be read by whoever comes next. */
  #requests: readonly Json[]
  readonly #context: DefinitionContext
  readonly #ids: Ids

  constructor(saved: readonly Json[], log: Log, ids: Ids) {
    this.#requests = saved
    this.#ids = ids
    this.#context = {
      origin: 'the request',
      isForeign: true,
      // They come from anywhere: there is no folder to take a command against.
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
   * What a request means, without keeping it.
   * @param path the folders in which programs are looked for
   * @throws ConfigurationError
   */
  read(request: Json, configuration: Configuration, path?: string): ServiceDefinition {
    const service = this.#complete(request, configuration)
    this.expectFree(service.id, configuration)
    if (service.managed === undefined) return service
    this.#expectFreeProxyId(service.id, configuration)
    expectProgram(service.managed, path)
    return service
  }

  /**
   * Refuses an id that is not for whoever sends requests.
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
    throw new ConfigurationError(`the service ${id} has the id of the managed proxy of ${serviceId}`)
  }

  /** Keeps it, in the place of one with the same id. */
  keep(id: string, request: Json): void {
    this.remove(id)
    this.#requests = [...this.#requests, request]
  }

  /** @returns whether there was one */
  remove(id: string): boolean {
    const before = this.#requests.length
    this.#requests = this.#requests.filter((request) => idOf(request) !== id)
    return this.#requests.length < before
  }

  /** The token with which a service was registered; undefined for none, and for an unknown id. */
  tokenOf(id: string): string | undefined {
    const request = this.#requests.find((each) => idOf(each) === id)
    return (request && textOf(request, 'token')) || undefined
  }

  /**
   * As they mean it under these settings. What was taken once may be refused under others: its service stays, without a
   * proxy.
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
      warn(`${service.id}: it came by HTTP, and allow_managed_api_registration is off: it gets no proxy`)
      return { ...service, managed: undefined }
    }
    try {
      return this.#complete(request, configuration)
    } catch (error) {
      warn(`${service.id}: it gets no proxy: ${(error as Error).message}`)
      return { ...service, managed: undefined }
    }
  }

  #complete(request: Json, { defaults }: Configuration): ServiceDefinition {
    return complete(readDefinition(request, this.#context), defaults, this.#context.warn)
  }
}

/** The id of a request. Also of a request that an older version accepted and this one rejects, so that it can be removed. */
function idOf(request: Json): string | undefined {
  const [id, name] = [textOf(request, 'id'), textOf(request, 'name')]
  return id === undefined || id === '' ? name : id
}

function textOf(request: Json, key: string): string | undefined {
  const value = Object.entries(request).find(([each]) => foldKey(each) === key)?.[1]
  return typeof value === 'string' ? value : undefined
}

function expectNotOfFile(id: string, services: readonly ServiceDefinition[]): void {
  if (!services.some((service) => service.id === id)) return
  throw new ConfigurationError(`the service ${id} is in a file of the supervisor, and is changed there`)
}

function expectProgram({ command, folder }: ManagedBlock, path: string | undefined): void {
  try {
    if (command?.[0] !== undefined) findProgram(command[0], folder, path)
  } catch (cause) {
    throw new ConfigurationError((cause as Error).message, { cause })
  }
}
