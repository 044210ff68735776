// What the demo asks of the agent's HTTP API besides what consul-connect does: intentions, and a new CA.
import { generateKeyPairSync } from 'node:crypto'

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

  async setIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const existing = (await this.#ask('GET', '/v1/connect/intentions')) as
      { SourceName: string; DestinationName: string }[] | null
    if (existing?.some((one) => one.SourceName === source && one.DestinationName === destination) === true) {
      throw new Error(
        `the agent has an intention from ${source} to ${destination} already: this demo would change it`,
      )
    }
    const body = { SourceName: source, DestinationName: destination, SourceType: 'consul', Action: action }
    const { ID } = (await this.#ask('POST', '/v1/connect/intentions', body)) as { ID: string }
    this.#intentions.push(ID)
  }

  /** Changes the intention that was made last. */
  async turnLastIntention(source: string, destination: string, action: 'allow' | 'deny'): Promise<void> {
    const id = this.#intentions.at(-1) ?? ''
    const body = { SourceName: source, DestinationName: destination, SourceType: 'consul', Action: action }
    await this.#ask('PUT', `/v1/connect/intentions/${id}`, body)
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

  async hasInstances(service: string): Promise<boolean> {
    return ((await this.#ask('GET', `/v1/catalog/service/${service}`)) as unknown[]).length > 0
  }

  /** Takes back every intention that was made here. */
  async tidyUp(): Promise<void> {
    for (const id of this.#intentions.splice(0)) await this.#ask('DELETE', `/v1/connect/intentions/${id}`)
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
