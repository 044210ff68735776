import type { Log } from 'consul-connect-proxy/log'
import type { Configuration } from './configuration/configuration.js'
import {
  type DefinitionContext,
  type ServiceDefinition,
  complete,
  readDefinition,
} from './configuration/definition.js'
import type { Json } from './configuration/parse.js'

/** Definitions that came by HTTP, and are in no file. */
export class RequestedServices {
  /** As they came: one that cannot be read today may be read by whoever comes next. */
  #requests: readonly Json[]
  readonly #context: DefinitionContext

  constructor(saved: readonly Json[], log: Log) {
    this.#requests = saved
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
   * @throws ConfigurationError
   */
  read(request: Json, { defaults }: Configuration): ServiceDefinition {
    return complete(readDefinition(request, this.#context), defaults, this.#context.warn)
  }

  /** Keeps it, in the place of one with the same id. */
  keep(id: string, request: Json): void {
    this.remove(id)
    this.#requests = [...this.#requests, request]
  }

  /** @returns whether there was one */
  remove(id: string): boolean {
    const before = this.#requests.length
    this.#requests = this.#requests.filter((request) => this.#idOf(request) !== id)
    return this.#requests.length < before
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
      return this.read(request, configuration)
    } catch (error) {
      warn(`${service.id}: it gets no proxy: ${(error as Error).message}`)
      return { ...service, managed: undefined }
    }
  }

  #idOf(request: Json): string | undefined {
    try {
      return readDefinition(request, this.#context).id
    } catch {
      return undefined
    }
  }
}
