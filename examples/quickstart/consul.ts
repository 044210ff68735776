// Calls of Consul's HTTP API that consul-connect has no functions for: intentions, CA rotation, and cleanup.
import { generateKeyPairSync } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Marks intentions and registrations of the demo, so that the next run can delete those of a killed run. */
export const DEMO_MARK = 'consul-connect quickstart demo'

/** Time for the programs of a killed run to leave the mesh. */
const LEAVE_MS = 5_000
/** Timeout for connecting to an instance. */
const PROBE_MS = 1_000

interface Intention {
  readonly ID: string
  readonly Description: string
  readonly SourceName: string
  readonly DestinationName: string
}

interface Instance {
  readonly ID: string
  readonly Address: string
  readonly Port: number
  readonly Meta: Readonly<Record<string, string>> | null
}

export class Consul {
  readonly #url: string
  readonly #token: string | undefined
  readonly #intentions: string[] = []

  constructor(address: string, token: string | undefined) {
    this.#url = address.includes('://') ? address : `http://${address}`
    this.#token = token
  }

  /** Whether the agent was started with `-dev`. */
  async isDevAgent(): Promise<boolean> {
    const self = (await this.#request('GET', '/v1/agent/self')) as { DebugConfig?: { DevMode?: boolean } }
    return self.DebugConfig?.DevMode === true
  }

  /**
   * Verifies that no other program provides a service of the demo. Instances that accept no connections are ignored, and
   * deregistered if an earlier run of the demo registered them.
   * @throws Error if an instance accepts connections
   */
  async claimService(service: string): Promise<void> {
    const deadline = performance.now() + LEAVE_MS
    for (const { Node, Service } of await this.#instances(service)) {
      const isLeftover = Service.Meta?.['demo'] === DEMO_MARK
      const [host, port] = [Service.Address || Node.Address, Service.Port]
      while (await acceptsConnections(host, port)) {
        if (isLeftover && performance.now() < deadline) {
          await sleep(100)
          continue
        }
        const owner = isLeftover ? 'another run of this demo' : 'another program'
        throw new Error(
          `${owner} offers the service ${service} at ${host}:${port}; stop it, or start another agent`,
        )
      }
      if (isLeftover && (await this.isRegistered(Service.ID))) await this.#deregister(Service.ID)
    }
  }

  /**
   * Creates an intention. Replaces one of an earlier run.
   * @throws Error if the agent has an intention for these services that the demo has not created
   */
  async setIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const existing = ((await this.#request('GET', '/v1/connect/intentions')) ?? []) as Intention[]
    for (const { ID, Description, SourceName, DestinationName } of existing) {
      if (SourceName !== source || DestinationName !== destination) continue
      if (Description !== DEMO_MARK) {
        throw new Error(
          `the agent has an intention from ${source} to ${destination}, which this demo would change; delete it, or start another agent`,
        )
      }
      await this.#request('DELETE', `/v1/connect/intentions/${ID}`)
    }
    const body = intention(source, destination, action)
    const { ID } = (await this.#request('POST', '/v1/connect/intentions', body)) as { ID: string }
    this.#intentions.push(ID)
  }

  /** Changes the action of the intention that was created last. */
  async changeLastIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const id = this.#intentions.at(-1) ?? ''
    await this.#request('PUT', `/v1/connect/intentions/${id}`, intention(source, destination, action))
  }

  /** Sets a new key of the CA, which creates a new root certificate. */
  async rotateCa(): Promise<void> {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
    const PrivateKey = privateKey.export({ type: 'sec1', format: 'pem' })
    const { Provider, Config } = (await this.#request('GET', '/v1/connect/ca/configuration')) as {
      Provider: string
      Config: object
    }
    await this.#request('PUT', '/v1/connect/ca/configuration', {
      Provider,
      Config: { ...Config, PrivateKey, RootCert: '' },
    })
  }

  /** Whether a service with this ID is registered with the agent. */
  async isRegistered(id: string): Promise<boolean> {
    return Object.hasOwn((await this.#request('GET', '/v1/agent/services')) as object, id)
  }

  /** Deletes the intentions that were created by this object. */
  async deleteIntentions(): Promise<void> {
    for (const id of this.#intentions.splice(0)) await this.#request('DELETE', `/v1/connect/intentions/${id}`)
  }

  async #instances(service: string): Promise<{ Node: { Address: string }; Service: Instance }[]> {
    return (await this.#request('GET', `/v1/health/service/${service}`)) as {
      Node: { Address: string }
      Service: Instance
    }[]
  }

  async #deregister(id: string): Promise<void> {
    await this.#request('PUT', `/v1/agent/service/deregister/${encodeURIComponent(id)}`)
  }

  async #request(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(this.#url + path, {
      method,
      headers: this.#token === undefined ? {} : { 'x-consul-token': this.#token },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(10_000),
    }).catch((error: unknown) => {
      throw new Error(`no response from ${this.#url}; is a Consul agent running there?`, { cause: error })
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: agent returned ${response.status} ${text.trim()}`)
    return text === '' ? undefined : (JSON.parse(text) as unknown)
  }
}

function intention(source: string, destination: string, action: 'allow' | 'deny'): object {
  return {
    SourceName: source,
    DestinationName: destination,
    SourceType: 'consul',
    Action: action,
    Description: DEMO_MARK,
  }
}

function acceptsConnections(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port })
    const settle = (isAccepted: boolean): void => {
      socket.destroy()
      resolve(isAccepted)
    }
    socket.setTimeout(PROBE_MS, () => {
      settle(false)
    })
    socket.once('connect', () => {
      settle(true)
    })
    socket.once('error', () => {
      settle(false)
    })
  })
}
