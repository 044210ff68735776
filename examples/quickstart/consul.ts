// Calls of the agent's HTTP API that consul-connect does not make: intentions, a new CA, and the removal of leftovers.
import { generateKeyPairSync } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Marks the intentions and registrations of the demo, so that a later run can remove those of a run that was killed. */
export const DEMO_MARK = 'consul-connect quickstart demo'

/** How long the programs of a run that was killed may take to leave the mesh. */
const LEAVE_MS = 5_000
/** How long an instance may take to accept a connection. */
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

  /** Whether this is an agent that was started to play with. */
  async isForDevelopment(): Promise<boolean> {
    const self = (await this.#ask('GET', '/v1/agent/self')) as { DebugConfig?: { DevMode?: boolean } }
    return self.DebugConfig?.DevMode === true
  }

  /**
   * Makes sure that no other program is reached by the name of a service of the demo. Instances that accept no connection
   * are ignored, and removed if they are leftovers of an earlier run.
   * @throws Error when an instance accepts connections
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

  /** @throws Error when there is such an intention that the demo has not made */
  async setIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const existing = ((await this.#ask('GET', '/v1/connect/intentions')) ?? []) as Intention[]
    for (const { ID, Description, SourceName, DestinationName } of existing) {
      if (SourceName !== source || DestinationName !== destination) continue
      if (Description !== DEMO_MARK) {
        throw new Error(
          `the agent has an intention from ${source} to ${destination}, which this demo would change; delete it, or start another agent`,
        )
      }
      await this.#ask('DELETE', `/v1/connect/intentions/${ID}`)
    }
    const body = intention(source, destination, action)
    const { ID } = (await this.#ask('POST', '/v1/connect/intentions', body)) as { ID: string }
    this.#intentions.push(ID)
  }

  /** Changes the intention that was made last. */
  async turnLastIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const id = this.#intentions.at(-1) ?? ''
    await this.#ask('PUT', `/v1/connect/intentions/${id}`, intention(source, destination, action))
  }

  /** Gives the mesh's CA a new key, and so a new root. */
  async rotateCa(): Promise<void> {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
    const PrivateKey = privateKey.export({ type: 'sec1', format: 'pem' })
    const { Provider, Config } = (await this.#ask('GET', '/v1/connect/ca/configuration')) as {
      Provider: string
      Config: object
    }
    await this.#ask('PUT', '/v1/connect/ca/configuration', {
      Provider,
      Config: { ...Config, PrivateKey, RootCert: '' },
    })
  }

  /** Whether the agent has a registration with this id. */
  async isRegistered(id: string): Promise<boolean> {
    return Object.hasOwn((await this.#ask('GET', '/v1/agent/services')) as object, id)
  }

  /** Takes back every intention that was made here. */
  async tidyUp(): Promise<void> {
    for (const id of this.#intentions.splice(0)) await this.#ask('DELETE', `/v1/connect/intentions/${id}`)
  }

  async #instances(service: string): Promise<{ Node: { Address: string }; Service: Instance }[]> {
    return (await this.#ask('GET', `/v1/health/service/${service}`)) as {
      Node: { Address: string }
      Service: Instance
    }[]
  }

  async #deregister(id: string): Promise<void> {
    await this.#ask('PUT', `/v1/agent/service/deregister/${encodeURIComponent(id)}`)
  }

  async #ask(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(this.#url + path, {
      method,
      headers: this.#token === undefined ? {} : { 'x-consul-token': this.#token },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(10_000),
    }).catch((error: unknown) => {
      throw new Error(`no answer from ${this.#url}: is a Consul agent running there?`, { cause: error })
    })
    const text = await response.text()
    if (!response.ok)
      throw new Error(`${method} ${path}: the agent answered ${response.status} ${text.trim()}`)
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
