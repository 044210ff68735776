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
  readonly #requests = new Map<string, Json>()
  readonly #context: DefinitionContext

  constructor(saved: readonly Json[], log: Log) {
    this.#context = {
      origin: 'a request',
      // They come from anywhere: there is no folder to take a command against.
      folder: undefined,
      warn: (message) => {
        log.warn(message)
      },
    }
    for (const request of saved) {
      const service = this.#attempt(() => readDefinition(request, this.#context))
      if (service !== undefined) this.#requests.set(service.id, request)
    }
  }

  get saved(): readonly Json[] {
    return [...this.#requests.values()]
  }

  /**
   * @returns the service's id
   * @throws ConfigurationError
   */
  add(request: Json): string {
    const { id } = readDefinition(request, this.#context)
    this.#requests.set(id, request)
    return id
  }

  /** @returns whether there was one */
  remove(id: string): boolean {
    return this.#requests.delete(id)
  }

  /** As they mean it under these settings: what was taken once may be refused under others. */
  definitions({ defaults, allowManagedApiRegistration }: Configuration): readonly ServiceDefinition[] {
    const { warn } = this.#context
    return this.saved.flatMap((request) => {
      const service = this.#attempt(() => complete(readDefinition(request, this.#context), defaults, warn))
      if (service?.managed === undefined || allowManagedApiRegistration) return service ?? []
      warn(`${service.id}: it came by HTTP, and allow_managed_api_registration is off: it gets no proxy`)
      return { ...service, managed: undefined }
    })
  }

  #attempt(read: () => ServiceDefinition): ServiceDefinition | undefined {
    try {
      return read()
    } catch (error) {
      this.#context.warn((error as Error).message)
      return undefined
    }
  }
}
