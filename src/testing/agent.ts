import { randomUUID } from 'node:crypto'
import type { TokenRules } from './state/acl.js'
import type { TestCa } from './pki/ca.js'
import type { IssuedCertificate, IssueOptions } from './pki/ca-options.js'
import type { ConnectCa } from './pki/connect-ca.js'
import { DnsServer } from './dns.js'
import { Faults, type FaultAnswer } from './http/faults.js'
import { Gate } from './state/changes.js'
import type { IntentionAction, IntentionPermission } from './state/intentions.js'
import type { TestAgentOptions } from './options.js'
import { readQuery, type QueryDefinition } from './state/queries.js'
import { Requests, type RequestMatch } from './http/requests.js'
import { router } from './routes/index.js'
import { AgentServer } from './http/server.js'
import { readRegistration, type ServiceRegistration } from './state/service.js'
import { State } from './state/state.js'

/**
 * A Consul agent in memory, for development and tests only. It has one node and one datacenter, and writes nothing to disk.
 * It serves the part of the HTTP API that Connect needs, and DNS, on real ports, and issues real certificates. The other
 * methods change its state and simulate faults.
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

  private constructor(options: TestAgentOptions) {
    const { host = '127.0.0.1', trustDomain = `${randomUUID()}.consul`, acl, dns } = options
    // Names and secrets that were not set stay the same over `restart({ forget: true })`.
    this.#options = {
      ...options,
      trustDomain,
      ...(acl && { acl: { managementToken: randomUUID(), ...acl } }),
    }
    this.#state = new State(this.#options)
    this.#server = new AgentServer(options, {
      handle: (call) => router.handle(call, this.#state),
      headers: () => commonHeaders(this.#state),
      requests: this.#requests,
      faults: this.#faults,
      gate: this.#gate,
    })
    this.#dns = dns && new DnsServer({ host, ...dns }, () => this.#state, this.#gate)
  }

  /**
   * Starts an agent.
   * @throws the error of Node.js if the agent cannot listen, for example with code `EADDRINUSE`
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

  /** The address of the HTTP API: `host:port` or `unix://path`, as in `CONSUL_HTTP_ADDR`. */
  get address(): string {
    return this.#server.address
  }

  /** `host:port` of DNS over UDP. Undefined without the option `dns`. */
  get dnsAddress(): string | undefined {
    return this.#dns?.address
  }

  /** The address of the HTTP API with its scheme. */
  get url(): string {
    if (this.#options.socketPath !== undefined) return this.address
    return `${this.#options.tls ? 'https' : 'http'}://${this.address}`
  }

  /** @throws Error if Connect is disabled, as all members that use the CA */
  get trustDomain(): string {
    return this.#connect.trustDomain
  }

  /** The CA that signs leaves. `rotateCa` replaces it. */
  get ca(): TestCa {
    return this.#connect.ca
  }

  /** Secret of the first management token; undefined if ACLs are disabled. */
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

  /**
   * Registers a service, like `PUT /v1/agent/service/register`.
   * @throws Error with the message of Consul for an invalid registration
   */
  registerService(definition: ServiceRegistration): void {
    this.#state.catalog.register(readRegistration(definition, ''), { replaceChecks: false })
  }

  /** Deregisters a service and its checks. Does nothing for an unknown ID. */
  deregisterService(id: string): void {
    this.#state.catalog.deregister(id)
  }

  /**
   * Creates a prepared query, like `POST /v1/query`, and returns its ID.
   * @throws Error with the message of Consul for an invalid definition
   */
  createQuery(definition: QueryDefinition): string {
    return this.#state.queries.create(readQuery(definition, ''))
  }

  /**
   * Creates or changes the intention between two services; `*` stands for all services.
   * @param rule - an action, or permissions that decide each HTTP request
   */
  setIntention(
    source: string,
    destination: string,
    rule: IntentionAction | readonly IntentionPermission[],
  ): void {
    const ends = { SourceName: source, DestinationName: destination }
    const { intentions } = this.#state
    const decided =
      typeof rule === 'string' ? { Action: rule } : { Action: '' as const, Permissions: [...rule] }
    intentions.put({ ...ends, ...decided, Description: '', Meta: {} }, intentions.exact(ends)?.ID)
  }

  /** Deletes the intention between two services, if there is one. */
  deleteIntention(source: string, destination: string): void {
    const old = this.#state.intentions.exact({ SourceName: source, DestinationName: destination })
    if (old) this.#state.intentions.delete(old.ID)
  }

  /** Creates a token and returns its secret. */
  createToken(rules: TokenRules): string {
    return this.#state.acl.create({ rules }).SecretID
  }

  /**
   * Issues a certificate from the CA of the mesh. The agent does not serve it. Use it for a simulated peer, or with
   * `options` for an invalid certificate.
   */
  issueLeaf(service: string, options: IssueOptions = {}): IssuedCertificate {
    return this.ca.issue({ service, datacenter: this.#state.datacenter, ...options })
  }

  /**
   * Rotates the root: a new root signs from now on, and the old root stays in the list. Renews watched leaves at once. As
   * in Consul, a request without an index still returns the old leaf.
   * @param options.crossSign - add the new root, signed by the old root, to leaves. Default true.
   */
  rotateCa(options: { crossSign?: boolean } = {}): void {
    this.#connect.rotate({ crossSign: options.crossSign ?? true })
  }

  /** Ends a rotation: removes all roots except the root that signs. */
  dropOldRoot(): void {
    this.#connect.dropOldRoots()
  }

  /** Sets the lifetime of leaves that are issued later, in milliseconds. */
  setLeafTtl(ms: number): void {
    this.#connect.leafTtlMs = ms
  }

  /** Issues a new leaf for the service. */
  renewLeaf(service: string): void {
    this.#connect.renew(service)
  }

  /** Accepts requests and DNS queries, but does not answer them until `resume`. */
  pause(): void {
    this.#gate.close()
  }

  /** Ends a pause, and answers the requests and queries that arrived during it. */
  resume(): void {
    this.#gate.release()
  }

  /** Closes all connections. New connections are accepted. */
  dropConnections(): void {
    this.#server.dropConnections()
  }

  /** Closes all connections and refuses new ones. The state stays for `restart`. */
  async stop(): Promise<void> {
    await this.close()
  }

  /**
   * Stops the agent if it runs, and listens on the same address again.
   * @param options.forget - drop the state: no services, a new CA, indexes from the start. The trust domain and the
   * management token stay. Default false.
   */
  async restart(options: { forget?: boolean } = {}): Promise<void> {
    await this.close()
    if (options.forget) {
      this.#state = new State(this.#options)
    }
    this.#state.catalog.start()
    await this.#listen()
  }

  /**
   * Changes the answers to matching requests, including requests that wait in a blocking query. The newest fault that
   * matches applies.
   * @returns a function that removes the fault
   */
  fault(match: RequestMatch, answer: FaultAnswer): () => void {
    return this.#faults.add(match, answer)
  }

  /** Counts the matching requests, by default all, among the last 10,000. */
  requestCount(match?: RequestMatch): number {
    return this.#requests.countSeen(match)
  }

  /**
   * Resolves when `count` matching requests have arrived since the start.
   * @throws the reason of the signal when it is aborted
   */
  waitForRequests(match: RequestMatch, count: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.countSeen(match) >= count, options.signal)
  }

  /**
   * Resolves when at least `count` matching requests wait in a blocking query.
   * @throws the reason of the signal when it is aborted
   */
  waitForBlocked(match: RequestMatch, count = 1, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#requests.until(() => this.#requests.countBlocked(match) >= count, options.signal)
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
    throw new Error('connect: disabled on this agent; start it without `connect: false`')
  }
}

function commonHeaders(state: State): Record<string, string> {
  const testing = { 'X-Consul-Connect-Testing': '1' }
  if (state.version === '1.8') return testing
  return { ...testing, 'X-Consul-Default-ACL-Policy': state.defaultPolicy }
}
