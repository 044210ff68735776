import { randomUUID } from 'node:crypto'
import type { TokenRules } from './acl.js'
import type { TestCa } from './ca.js'
import type { IssuedCertificate, IssueOptions } from './ca-options.js'
import type { ConnectCa } from './connect-ca.js'
import { Faults, type FaultAnswer } from './faults.js'
import type { Call } from './http.js'
import type { IntentionAction, ServiceName } from './intentions.js'
import { FieldReader } from './json.js'
import type { TestAgentOptions } from './options.js'
import { Requests, type RequestMatch } from './requests.js'
import { Router } from './router.js'
import { aclRoutes } from './routes/acl.js'
import { agentRoutes } from './routes/agent.js'
import { connectRoutes } from './routes/connect.js'
import { healthRoutes } from './routes/health.js'
import { intentionRoutes } from './routes/intentions.js'
import { keyValueRoutes } from './routes/kv.js'
import { AgentServer } from './server.js'
import { readRegistration, type ServiceRegistration } from './service.js'
import { createState, type State } from './state.js'

/**
 * A Consul agent in memory, for development and tests only: one process, one node, no data on disk, no gossip.
 * It speaks the HTTP API that Connect needs on a real port and issues real certificates; the other methods
 * change what it knows, or make it fail.
 *
 * ```ts
 * await using agent = await TestAgent.start()
 * agent.setIntention('web', 'db', 'deny')
 * ```
 */
export class TestAgent {
  readonly #options: TestAgentOptions
  readonly #server: AgentServer
  readonly #requests = new Requests()
  readonly #faults = new Faults()
  #state: State
  #router: Router

  private constructor(options: TestAgentOptions) {
    this.#options = { ...options, trustDomain: options.trustDomain ?? `${randomUUID()}.consul` }
    if (options.acl) {
      this.#options.acl = { ...options.acl, managementToken: options.acl.managementToken ?? randomUUID() }
    }
    this.#state = createState(this.#options)
    this.#router = createRouter(this.#state)
    this.#server = new AgentServer(
      {
        host: options.host ?? '127.0.0.1',
        port: options.port ?? 0,
        socketPath: options.socketPath,
        tls: options.tls,
      },
      {
        handle: (call: Call) => this.#router.handle(call),
        headers: () => commonHeaders(this.#state),
        requests: this.#requests,
        faults: this.#faults,
      },
    )
  }

  /** Resolves once it listens; rejects with the system's error when the port is taken. */
  static async start(options: TestAgentOptions = {}): Promise<TestAgent> {
    const agent = new TestAgent(options)
    await agent.#server.listen()
    return agent
  }

  /** `host:port`, or `unix://path`: a value for `CONSUL_HTTP_ADDR`. */
  get address(): string {
    const { host = '127.0.0.1', socketPath } = this.#options
    if (socketPath !== undefined) return `unix://${socketPath}`
    return `${host.includes(':') ? `[${host}]` : host}:${this.#server.port}`
  }

  /** The address with its scheme. */
  get url(): string {
    if (this.#options.socketPath !== undefined) return this.address
    return `${this.#options.tls ? 'https' : 'http'}://${this.address}`
  }

  get trustDomain(): string {
    return this.#connect.trustDomain
  }

  /** The CA that signs now: another one after a rotation. */
  get ca(): TestCa {
    return this.#connect.ca
  }

  /** Secret of the first management token; undefined while ACLs are off. */
  get managementToken(): string | undefined {
    return this.#options.acl?.enabled ? this.#options.acl.managementToken : undefined
  }

  /** Ends the listener, every connection and every timer. */
  async close(): Promise<void> {
    this.#state.catalog.stop()
    await this.#server.stop()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Registers as `PUT /v1/agent/service/register` does, and throws what that would answer. */
  registerService(definition: ServiceRegistration): void {
    const registration = readRegistration(new FieldReader({ ...definition }))
    this.#state.catalog.register(registration, { replaceChecks: false })
  }

  deregisterService(id: string): void {
    this.#state.catalog.deregister(id)
  }

  /** Creates or changes the intention between two services; `*` stands for all. */
  setIntention(source: string, destination: string, action: IntentionAction): void {
    const { intentions } = this.#state
    const old = intentions.exact(inDefault(source), inDefault(destination))
    const rule = {
      sourceNs: 'default',
      sourceName: source,
      destinationNs: 'default',
      destinationName: destination,
      action,
      description: '',
      meta: {},
    }
    intentions.put(rule, old?.id)
  }

  deleteIntention(source: string, destination: string): void {
    const old = this.#state.intentions.exact(inDefault(source), inDefault(destination))
    if (old) this.#state.intentions.delete(old.id)
  }

  /** Makes a token, and returns its secret. */
  createToken(rules: TokenRules): string {
    return this.#state.acl.create({ rules }).secretId
  }

  /**
   * A certificate from the mesh's own CA, which the agent does not hand out itself: a hostile one by `options`,
   * or that of a peer which is not there.
   */
  issueLeaf(service: string, options: IssueOptions = {}): IssuedCertificate {
    return this.ca.issue({ service, datacenter: this.#state.datacenter, ...options })
  }

  /**
   * A new root signs from now on, and the old one stays listed. Leaves that somebody watches are issued anew at
   * once; a plain GET goes on getting the old one, as from Consul.
   *
   * @param options.crossSign Give leaves the old root's word for the new one. Default true.
   */
  rotateCa(options: { crossSign?: boolean } = {}): void {
    this.#connect.rotate({ crossSign: options.crossSign ?? true })
  }

  /** Ends a rotation: only the root that signs stays listed. */
  dropOldRoot(): void {
    this.#connect.dropOldRoots()
  }

  /** The life of leaves from the next one on. */
  setLeafTtl(ms: number): void {
    this.#connect.leafTtlMs = ms
  }

  /** Issues a new leaf for the service now. */
  renewLeaf(service: string): void {
    this.#connect.renew(service)
  }

  /** Takes requests and answers none until `resume`. */
  pause(): void {
    this.#server.pause()
  }

  /** Answers again, first what came in during the pause. */
  resume(): void {
    this.#server.resume()
  }

  /** Cuts every open connection; new ones are taken. */
  dropConnections(): void {
    this.#server.dropConnections()
  }

  /** Goes away: connections are cut and new ones refused. The state stays. */
  async stop(): Promise<void> {
    await this.close()
  }

  /**
   * Stops if need be and listens on the same address again.
   *
   * @param options.forget Begin with nothing but the trust domain's name: no services, a new CA, indexes from
   * the start. Default false.
   */
  async restart(options: { forget?: boolean } = {}): Promise<void> {
    await this.close()
    if (options.forget) {
      this.#state = createState(this.#options)
      this.#router = createRouter(this.#state)
    }
    this.#state.catalog.start()
    await this.#server.listen()
  }

  /**
   * Spoils the answers to matching requests, those included that hang in a blocking query now. The newest rule
   * that matches strikes.
   *
   * @returns the function that undoes it
   */
  fault(match: RequestMatch, answer: FaultAnswer): () => void {
    return this.#faults.add(match, answer)
  }

  /** Undoes every fault. */
  clearFaults(): void {
    this.#faults.clear()
  }

  /** How many of the last 10 000 requests match. */
  requestCount(match?: RequestMatch): number {
    return this.#requests.seen(match)
  }

  /** Resolves when so many matching requests have come since the start. */
  waitForRequests(match: RequestMatch, count: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.seen(match) >= count, options.signal)
  }

  /** Resolves when at least so many matching requests hang in a blocking query. */
  waitForBlocked(match: RequestMatch, count = 1, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.blocked(match) >= count, options.signal)
  }

  get #connect(): ConnectCa {
    if (this.#state.connect) return this.#state.connect
    throw new Error('Connect is disabled on this agent')
  }
}

function commonHeaders(state: State): Record<string, string> {
  const testing = { 'X-Consul-Connect-Testing': '1' }
  return state.version === '1.8'
    ? testing
    : { ...testing, 'X-Consul-Default-ACL-Policy': state.defaultPolicy }
}

function createRouter(state: State): Router {
  return new Router(
    aclRoutes(state),
    agentRoutes(state),
    connectRoutes(state),
    healthRoutes(state),
    intentionRoutes(state),
    keyValueRoutes(state),
  )
}

function inDefault(name: string): ServiceName {
  return { namespace: 'default', name }
}
