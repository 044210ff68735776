// Instances of one service that fail and recover, each on its own loopback address.
import { once } from 'node:events'
import { type Server, createServer } from 'node:net'
import type { TestContext } from 'node:test'
import type { Listener, Service } from '../../src/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import type { RealAgent } from './real-agent.js'
import { agentJson, register, until } from './service-mesh.js'
import { answerAs } from './steady-dials.js'

/** The behavior of a failed instance: it refuses connections, closes them at once, or accepts them and stays silent. */
export type Failure = 'refuses' | 'closes' | 'stays silent'

/** One instance. It stays registered while it fails. */
export class Instance {
  readonly name: string
  readonly host: string
  readonly port: number
  /** The times of connections during a failure, by `performance.now`. */
  readonly calls: number[] = []
  /** The times of `fail()`, by `performance.now`. */
  readonly failedAt: number[] = []
  readonly #service: Service
  #listener: Listener | undefined
  #substitute: Server | undefined

  constructor(service: Service, name: string, host: string, port: number) {
    this.#service = service
    this.name = name
    this.host = host
    this.port = port
  }

  get address(): string {
    return `${this.host}:${this.port}`
  }

  /** Starts or recovers the instance. */
  async serve(): Promise<void> {
    this.#endFailure()
    const { host, port } = this
    this.#listener = await this.#service.listen({ host, port }, answerAs(this.name))
  }

  /** Destroys the connections and closes the port, or replaces the listener with one that fails. */
  async fail(failure: Failure): Promise<void> {
    this.failedAt.push(performance.now())
    this.#listener?.destroy()
    this.#listener = undefined
    if (failure === 'refuses') return
    const { host, port } = this
    const substitute = createServer((socket) => {
      this.calls.push(performance.now())
      socket.on('error', () => undefined)
      if (failure === 'closes') socket.destroy()
      else substitute.once('recover', () => socket.destroy())
    })
    // Each silent connection waits for the recovery.
    substitute.setMaxListeners(0)
    this.#substitute = substitute
    await once(substitute.listen({ host, port }), 'listening')
  }

  end(): void {
    this.#endFailure()
    this.#listener?.destroy()
  }

  #endFailure(): void {
    this.#substitute?.emit('recover')
    this.#substitute?.close()
    this.#substitute = undefined
  }
}

/** A `define` option of `fleet`: a passing TTL check with the name of the instance as its ID. */
export function withTtlCheck(_: number, name: string): object {
  return { Check: { CheckID: name, TTL: '600s', Status: 'passing' } }
}

/**
 * Starts and registers instances of a service.
 * @param define - returns further fields of the registration of each instance, whose numbers start at 1
 */
export async function fleet(
  t: TestContext,
  consul: RealAgent,
  service: Service,
  count: number,
  define: (i: number, name: string) => object = () => ({}),
): Promise<Instance[]> {
  const instances = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      // Outbound connections use 127.0.0.1, so that they cannot take the port of a failed instance.
      const host = `127.0.1.${i + 1}`
      const [port = 0] = await freePorts(1, host)
      return new Instance(service, `${service.name}-${i + 1}`, host, port)
    }),
  )
  t.after(() => {
    for (const instance of instances) instance.end()
  })
  await Promise.all(
    instances.map(async (instance, i) => {
      await instance.serve()
      const { name, host, port } = instance
      const definition = { Name: service.name, ID: name, Address: host, Port: port }
      await register(consul, { ...definition, Connect: { Native: true }, ...define(i + 1, name) })
    }),
  )
  await until('all instances are in the catalog', async () => {
    const path = `/v1/health/connect/${encodeURIComponent(service.name)}`
    return (await agentJson<unknown[]>(consul, path)).length === count
  })
  return instances
}
