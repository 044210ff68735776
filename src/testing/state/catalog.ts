import { randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { CheckRunner, type Check, type CheckDefinition, type CheckResult } from './checks.js'
import type { JsonObject } from '../http/http.js'
import { connectNameOf, healthServiceJson, type Registration, type Service } from './service.js'

export interface Instance {
  readonly service: Service
  readonly createIndex: number
  readonly modifyIndex: number
}

/** Selects instances by the name of the service, or by the name under which the mesh dials them. */
export type NameKind = 'service' | 'connect'

/** The node of the agent, its services, and the checks that the agent runs for them. */
export class Catalog {
  readonly nodeName = 'embedded'
  readonly nodeId: string = randomUUID()
  readonly address = '127.0.0.1'
  readonly #datacenter: string
  readonly #changes: Changes
  readonly #instances = new Map<string, Instance>()
  readonly #checks = new Map<string, { check: Check; target: string; runner: CheckRunner }>()
  readonly #nodeIndex: number
  readonly #serfHealth: Check

  constructor(changes: Changes, datacenter: string) {
    this.#changes = changes
    this.#datacenter = datacenter
    this.#nodeIndex = this.#touch([])
    this.#serfHealth = {
      CheckID: 'serfHealth',
      Name: 'Serf Health Status',
      Status: 'passing',
      Notes: '',
      Output: 'Agent alive and reachable',
      ServiceID: '',
      Type: '',
      CreateIndex: this.#nodeIndex,
      ModifyIndex: this.#nodeIndex,
    }
  }

  /** Returns all instances, ordered by service ID. */
  instances(): Instance[] {
    return [...this.#instances.values()].sort((a, b) => (a.service.ID < b.service.ID ? -1 : 1))
  }

  instance(id: string): Instance | undefined {
    return this.#instances.get(id)
  }

  /** Returns the instances with this name, in any case. */
  instancesOf(name: string, kind: NameKind): Instance[] {
    const wanted = name.toLowerCase()
    return this.instances().filter(
      ({ service }) => (kind === 'service' ? service.Name : connectNameOf(service))?.toLowerCase() === wanted,
    )
  }

  /** Returns the checks that the agent runs, ordered by ID. */
  checks(): Check[] {
    return ordered([...this.#checks.values()].map(({ check }) => check))
  }

  check(id: string): Check | undefined {
    return this.#checks.get(id)?.check
  }

  isPassing({ service }: Instance): boolean {
    return this.#checksFor(service.ID).every(({ Status }) => Status === 'passing')
  }

  isCritical({ service }: Instance): boolean {
    return this.#checksFor(service.ID).some(({ Status }) => Status === 'critical')
  }

  /** Returns the index for blocking queries on these instances. */
  index(name: string, kind: NameKind): number {
    // Consul has no index for a service without instances, and returns the index of the whole catalog.
    const isPresent = this.instancesOf(name, kind).length > 0
    return this.#changes.modified(isPresent ? `${kind}:${name.toLowerCase()}` : 'catalog')
  }

  /** @param options.replaceChecks - remove the checks of the service that are not in the registration */
  register({ service, checks }: Registration, options: { replaceChecks: boolean }): void {
    this.#putService(service)
    const ids = new Set(checks.map(({ check }) => check.CheckID))
    const others = this.#checksOf(service.ID).filter(({ CheckID }) => !ids.has(CheckID))
    if (options.replaceChecks) for (const { CheckID } of others) this.deregisterCheck(CheckID)
    for (const check of checks) this.registerCheck(check)
    this.#updateAliases()
  }

  deregister(id: string): void {
    for (const { CheckID } of this.#checksOf(id)) this.deregisterCheck(CheckID)
    const instance = this.#instances.get(id)
    if (!instance) return
    this.#instances.delete(id)
    this.#touch([instance])
    this.#updateAliases()
  }

  registerCheck({ check: definition, probe }: CheckDefinition): void {
    const old = this.#checks.get(definition.CheckID)
    old?.runner.stop()
    const { CreateIndex = 0, ModifyIndex = 0 } = old?.check ?? {}
    const check: Check = { ...definition, CreateIndex, ModifyIndex }
    // A service that registers again, for example after a crash, keeps the state of its checks.
    if (old) Object.assign(check, { Status: old.check.Status, Output: old.check.Output })
    const runner = new CheckRunner(check, probe, (result) => {
      this.#update(check, result)
    })
    this.#checks.set(check.CheckID, { check, target: probe.target, runner })
    if (!old || !isEqual(old.check, check)) this.#touchCheck(check)
    runner.start()
    this.#updateAliases()
  }

  deregisterCheck(id: string): void {
    const entry = this.#checks.get(id)
    if (!entry) return
    this.#checks.delete(id)
    entry.runner.stop()
    this.#touchCheck(entry.check)
    this.#updateAliases()
  }

  /** Sets the status of a TTL check and restarts its TTL. */
  heartbeat(check: Check, result: CheckResult): void {
    this.#update(check, result)
    this.#checks.get(check.CheckID)?.runner.heartbeat()
  }

  /** Starts the timers of the checks. */
  start(): void {
    for (const { runner } of this.#checks.values()) runner.start()
  }

  /** Stops the timers of the checks. Their state stays. */
  stop(): void {
    for (const { runner } of this.#checks.values()) runner.stop()
  }

  /** Converts an instance, its node, and its checks to the JSON of the health endpoints. */
  entryJson({ service, createIndex, modifyIndex }: Instance): JsonObject {
    const { address } = this
    return {
      Node: {
        ID: this.nodeId,
        Node: this.nodeName,
        Address: address,
        TaggedAddresses: { lan: address, lan_ipv4: address, wan: address, wan_ipv4: address },
        Datacenter: this.#datacenter,
        Meta: { 'consul-network-segment': '' },
        CreateIndex: this.#nodeIndex,
        ModifyIndex: this.#nodeIndex,
      },
      Service: { ...healthServiceJson(service), CreateIndex: createIndex, ModifyIndex: modifyIndex },
      Checks: this.#checksFor(service.ID).map((check) => this.checkJson(check)),
    }
  }

  checkJson(check: Check): JsonObject {
    const { Name = '', Tags = [] } = this.#instances.get(check.ServiceID)?.service ?? {}
    return { ...check, Node: this.nodeName, ServiceName: Name, ServiceTags: Tags, Definition: {} }
  }

  /** Returns the checks of one service, or of the node for an empty ID. */
  #checksOf(serviceId: string): Check[] {
    return this.checks().filter(({ ServiceID }) => ServiceID === serviceId)
  }

  /** Returns the checks that decide the health of an instance: the checks of the node, then its own. */
  #checksFor(serviceId: string): Check[] {
    return [...ordered([this.#serfHealth, ...this.#checksOf('')]), ...this.#checksOf(serviceId)]
  }

  #putService(service: Service): void {
    const old = this.#instances.get(service.ID)
    if (old && isEqual(old.service, service)) return
    const instance = { service, createIndex: old?.createIndex ?? 0, modifyIndex: 0 }
    instance.modifyIndex = this.#touch(old ? [old, instance] : [instance])
    instance.createIndex ||= instance.modifyIndex
    this.#instances.set(service.ID, instance)
  }

  #update(check: Check, result: CheckResult): void {
    this.#setResult(check, result)
    this.#updateAliases()
  }

  #setResult(check: Check, { Status, Output }: CheckResult): void {
    if (check.Status === Status && check.Output === Output) return
    Object.assign(check, { Status, Output })
    this.#touchCheck(check)
  }

  /** Sets the results of alias checks, which ignore other alias checks here. */
  #updateAliases(): void {
    for (const { check, target } of this.#checks.values())
      if (check.Type === 'alias') this.#setResult(check, this.#aliasResult(target))
  }

  #aliasResult(serviceId: string): CheckResult {
    if (!this.#instances.has(serviceId))
      return { Status: 'critical', Output: `Service ${serviceId} could not be found on node` }
    const all = [...this.#checksOf(''), ...this.#checksOf(serviceId)]
    const checks = all.filter(({ Type }) => Type !== 'alias')
    const worst =
      checks.find(({ Status }) => Status === 'critical') ?? checks.find(({ Status }) => Status === 'warning')
    if (!worst)
      return { Status: 'passing', Output: checks.length === 0 ? 'No checks found.' : 'All checks passing.' }
    return { Status: worst.Status, Output: `Aliased check "${worst.Name}" failing: ${worst.Output}` }
  }

  #touchCheck(check: Check): void {
    const { ServiceID } = check
    const affected = this.instances().filter(({ service }) => ServiceID === '' || service.ID === ServiceID)
    check.ModifyIndex = this.#touch(affected)
    check.CreateIndex ||= check.ModifyIndex
  }

  #touch(instances: readonly Instance[]): number {
    return this.#changes.touch('catalog', ...instances.flatMap(({ service }) => topicsOf(service)))
  }
}

/** Whether an instance has all of the tags, in any case. */
export function hasTags({ service }: Instance, wanted: readonly string[]): boolean {
  const tags = service.Tags.map((tag) => tag.toLowerCase())
  return wanted.every((tag) => tags.includes(tag.toLowerCase()))
}

function ordered(checks: readonly Check[]): Check[] {
  return [...checks].sort((a, b) => (a.CheckID < b.CheckID ? -1 : 1))
}

function isEqual(a: object, b: object): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

function topicsOf(service: Service): string[] {
  const connectName = connectNameOf(service)
  const own = `service:${service.Name.toLowerCase()}`
  return connectName === undefined ? [own] : [own, `connect:${connectName.toLowerCase()}`]
}
