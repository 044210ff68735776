import { randomUUID } from 'node:crypto'
import type { TokenRules } from './acl.js'
import type { TestCa } from './ca.js'
import type { IssuedCertificate, IssueOptions } from './ca-options.js'
import type { ConnectCa } from './connect-ca.js'
import { DnsServer, type DnsQuery } from './dns.js'
import { Gate } from './gate.js'
import { hostAndPort } from './host-port.js'
import type { Call } from './http.js'
import type { IntentionAction, ServiceName } from './intentions.js'
import { FieldReader } from './json.js'
import type { TestAgentOptions } from './options.js'
import { readQuery, type QueryDefinition } from './queries.js'
import { Faults, Requests, type FaultAnswer, type RequestMatch } from './requests.js'
import { Router } from './router.js'
import { aclRoutes } from './routes/acl.js'
import { agentRoutes } from './routes/agent.js'
import { connectRoutes } from './routes/connect.js'
import { healthRoutes } from './routes/health.js'
import { intentionRoutes } from './routes/intentions.js'
import { keyValueRoutes } from './routes/kv.js'
import { managedProxyRoutes } from './routes/managed-proxy.js'
import { queryRoutes } from './routes/query.js'
import { AgentServer } from './server.js'
import { readRegistration, type ServiceRegistration } from './service.js'
import { createState, type State } from './state.js'

/**
 * A Consul agent in memory, for development and tests only: one process, one node, one datacenter, no data on disk. It
 * serves the HTTP API that Connect needs, and DNS, on real ports, and issues real certificates. The other methods change
 * its state or make it fail.
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
  readonly #gate = new Gate()
  readonly #dns: DnsServer | undefined
  #state: State
  #router: Router

  private constructor(options: TestAgentOptions) {
    const trustDomain = options.trustDomain ?? `${randomUUID()}.consul`
    this.#options = { ...options, trustDomain }
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
        gate: this.#gate,
      },
    )
    if (options.dns) {
      const dns = { host: options.host ?? '127.0.0.1', ...options.dns }
      this.#dns = new DnsServer(dns, { state: () => this.#state, gate: this.#gate })
    }
  }

  /**
   * Starts an agent. Rejects with the system's error if the port is in use.
   * @example
   * ```ts
   * await using agent = await TestAgent.start({ acl: { enabled: true, defaultPolicy: 'deny' } })
   * const token = agent.createToken({ services: { web: 'write' } })
   * const tested = connect.service('web', { agent: { address: agent.address, token } })
   * await tested.ready()
   * await tested.close()
   * ```
   */
  static async start(options: TestAgentOptions = {}): Promise<TestAgent> {
    const agent = new TestAgent(options)
    await agent.#listen()
    return agent
  }

  /** `host:port`, or `unix://path`: a value for `CONSUL_HTTP_ADDR`. */
  get address(): string {
    const { host = '127.0.0.1', socketPath } = this.#options
    if (socketPath !== undefined) return `unix://${socketPath}`
    return hostAndPort(host, this.#server.port)
  }

  /** `host:port` of DNS over UDP and TCP; undefined without the option `dns`. */
  get dnsAddress(): string | undefined {
    const { host = '127.0.0.1', dns } = this.#options
    return this.#dns && hostAndPort(dns?.host ?? host, this.#dns.port)
  }

  /** The address with its scheme. */
  get url(): string {
    if (this.#options.socketPath !== undefined) return this.address
    return `${this.#options.tls ? 'https' : 'http'}://${this.address}`
  }

  get trustDomain(): string {
    return this.#connect.trustDomain
  }

  /** The CA that signs leaves. A rotation replaces it. */
  get ca(): TestCa {
    return this.#connect.ca
  }

  /** Secret of the first management token; undefined if ACLs are off. */
  get managementToken(): string | undefined {
    return this.#options.acl?.enabled ? this.#options.acl.managementToken : undefined
  }

  /** Closes the listeners and all connections, and stops all timers. */
  async close(): Promise<void> {
    this.#state.catalog.stop()
    this.#gate.reset()
    await Promise.all([this.#server.stop(), this.#dns?.stop()])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Registers a service as `PUT /v1/agent/service/register` does. Throws the error of that request. */
  registerService(definition: ServiceRegistration): void {
    const registration = readRegistration(new FieldReader({ ...definition }))
    this.#state.catalog.register(registration, { replaceChecks: false })
  }

  deregisterService(id: string): void {
    this.#state.catalog.deregister(id)
  }

  /** Creates a prepared query as `POST /v1/query` does and returns its ID. Throws the error of that request. */
  createQuery(definition: QueryDefinition): string {
    return this.#state.queries.put(readQuery(new FieldReader({ ...definition })))
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
    }
    intentions.put({ ...rule, action, description: '', meta: {} }, old?.id)
  }

  deleteIntention(source: string, destination: string): void {
    const old = this.#state.intentions.exact(inDefault(source), inDefault(destination))
    if (old) this.#state.intentions.delete(old.id)
  }

  /** Creates a token and returns its secret. */
  createToken(rules: TokenRules): string {
    return this.#state.acl.create({ rules }).secretId
  }

  /**
   * Issues a certificate from the CA of the mesh that the agent does not serve: for a simulated peer, or a hostile
   * certificate by `options`.
   */
  issueLeaf(service: string, options: IssueOptions = {}): IssuedCertificate {
    return this.ca.issue({ service, datacenter: this.#state.datacenter, ...options })
  }

  /**
   * Replaces the root that signs; the old root stays in the list of roots. Watched leaves are renewed at once. As in
   * Consul, a GET without an index still returns the old leaf.
   *
   * @param options.crossSign - add the new root, signed by the old root, to leaves. Default true.
   */
  rotateCa(options: { crossSign?: boolean } = {}): void {
    this.#connect.rotate({ crossSign: options.crossSign ?? true })
  }

  /** Ends a rotation: removes all roots but the one that signs. */
  dropOldRoot(): void {
    this.#connect.dropOldRoots()
  }

  /** Sets the lifetime of leaves that are issued later, in milliseconds. */
  setLeafTtl(ms: number): void {
    this.#connect.leafTtlMs = ms
  }

  /** Issues a new leaf for the service now. */
  renewLeaf(service: string): void {
    this.#connect.renew(service)
  }

  /** Accepts requests and DNS queries without answering them until `resume`. */
  pause(): void {
    this.#gate.close()
  }

  /** Answers again, including what arrived during the pause. */
  resume(): void {
    this.#gate.release()
  }

  /** Closes every open connection; new connections are accepted. */
  dropConnections(): void {
    this.#server.dropConnections()
    this.#dns?.dropConnections()
  }

  /** Closes all connections and refuses new ones. The state stays for `restart`. */
  async stop(): Promise<void> {
    await this.close()
  }

  /**
   * Stops the agent if it runs, and listens on the same address again.
   *
   * @param options.forget - drop all state except the name of the trust domain: no services, a new CA, indexes from
   * the start. Default false.
   */
  async restart(options: { forget?: boolean } = {}): Promise<void> {
    await this.close()
    if (options.forget) {
      this.#state = createState(this.#options)
      this.#router = createRouter(this.#state)
    }
    this.#state.catalog.start()
    await this.#listen()
  }

  /**
   * Changes the answers to matching requests, including requests that wait in a blocking query. The newest fault that
   * matches applies.
   *
   * @returns a function that removes the fault
   */
  fault(match: RequestMatch, answer: FaultAnswer): () => void {
    return this.#faults.add(match, answer)
  }

  /** Removes every fault. */
  clearFaults(): void {
    this.#faults.clear()
  }

  /** Counts the requests among the last 10 000 that match. */
  requestCount(match?: RequestMatch): number {
    return this.#requests.seen(match)
  }

  /** Resolves once `count` matching requests have arrived since the start. */
  waitForRequests(match: RequestMatch, count: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.seen(match) >= count, options.signal)
  }

  /** Counts the DNS queries among the last 10 000 that match; all of them by default. */
  dnsQueryCount(match: (query: DnsQuery) => boolean = () => true): number {
    return this.#dns?.queries.filter(match).length ?? 0
  }

  /** Resolves once at least `count` matching requests wait in a blocking query. */
  waitForBlocked(match: RequestMatch, count = 1, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.blocked(match) >= count, options.signal)
  }

  async #listen(): Promise<void> {
    await this.#server.listen()
    try {
      await this.#dns?.listen()
    } catch (error) {
      await this.close()
      throw error
    }
  }

  get #connect(): ConnectCa {
    if (this.#state.connect) return this.#state.connect
    throw new Error('Connect is disabled on this agent')
  }
}

function commonHeaders(state: State): Record<string, string> {
  const testing = { 'X-Consul-Connect-Testing': '1' }
  if (state.version === '1.8') return testing
  return { ...testing, 'X-Consul-Default-ACL-Policy': state.defaultPolicy }
}

function createRouter(state: State): Router {
  return new Router(
    aclRoutes(state),
    agentRoutes(state),
    connectRoutes(state),
    healthRoutes(state),
    intentionRoutes(state),
    keyValueRoutes(state),
    managedProxyRoutes(state),
    queryRoutes(state),
  )
}

function inDefault(name: string): ServiceName {
  return { namespace: 'default', name }
}
