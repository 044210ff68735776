// Instances of one service that die and come back, each on an address of its own, as on a machine of its own.
import { once } from 'node:events'
import { type Server, createServer } from 'node:net'
import type { TestContext } from 'node:test'
import { freePorts } from '../fixtures/free-ports.js'
import type { Listener, Service } from '../../src/index.js'

import { type RealAgent } from './real-agent.js'
import { agentJson, register, until } from './service-mesh.js'
import { answerAs } from './steady-dials.js'

/** What somebody finds who dials a dead one: a closed port, a connection that is closed at once, or silence. */
export type Death = 'refuses' | 'closes' | 'says nothing'

/** One instance. It stays registered while it is dead. */
export class Instance {
  readonly name: string
  readonly host: string
  readonly port: number
  /** When it was called while it was dead, by `performance.now`. */
  readonly calls: number[] = []
  readonly deaths: number[] = []
  readonly #service: Service
  #listener: Listener | undefined
  #grave: Server | undefined

  constructor(service: Service, name: string, host: string, port: number) {
    this.#service = service
    this.name = name
    this.host = host
    this.port = port
  }

  get address(): string {
    return `${this.host}:${this.port}`
  }

  get isAlive(): boolean {
    return this.#listener !== undefined
  }

  /** Opens its port, also after a death. */
  async live(): Promise<void> {
    this.#bury()
    const { host, port } = this
    this.#listener = await this.#service.listen({ host, port }, answerAs(this.name))
  }

  /** Cuts its connections and closes its port; as a grave it may answer there in the service's place. */
  async die(death: Death): Promise<void> {
    this.deaths.push(performance.now())
    this.#listener?.destroy()
    this.#listener = undefined
    if (death === 'refuses') return
    const { host, port } = this
    const grave = createServer((socket) => {
      this.calls.push(performance.now())
      // A reset, or the end of the test.
      socket.on('error', () => undefined)
      if (death === 'closes') socket.destroy()
      else grave.once('bury', () => socket.destroy())
    })
    this.#grave = grave
    grave.listen({ host, port })
    await once(grave, 'listening')
  }

  end(): void {
    this.#bury()
    this.#listener?.destroy()
  }

  #bury(): void {
    this.#grave?.emit('bury')
    this.#grave?.close()
    this.#grave = undefined
  }
}

/** So many instances of a service, alive and registered; `define` may say more of each, from 1 on. */
export async function fleet(
  t: TestContext,
  consul: RealAgent,
  service: Service,
  count: number,
  define: (i: number, name: string) => object = () => ({}),
): Promise<Instance[]> {
  const instances = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      // Connections go out from 127.0.0.1, and never take the port of a dead one.
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
      await instance.live()
      const { name, host, port } = instance
      const definition = { Name: service.name, ID: name, Address: host, Port: port }
      await register(consul, { ...definition, Connect: { Native: true }, ...define(i + 1, name) })
    }),
  )
  await until('all are known', async () => {
    const path = `/v1/health/connect/${encodeURIComponent(service.name)}`
    return (await agentJson<unknown[]>(consul, path)).length === count
  })
  return instances
}
