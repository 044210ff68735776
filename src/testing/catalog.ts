import type { Changes } from './changes.js'
import {
  CheckRunner,
  type CatalogCheck,
  type Check,
  type CheckDefinition,
  type CheckResult,
} from './checks.js'
import type { JsonObject } from './json.js'
import { healthServiceJson, type Registration, type Service } from './service.js'

/** Limit on the rounds in which alias checks that follow each other are updated; they may form a circle. */
const MAX_ALIAS_ROUNDS = 8
/** Consul's limit on the output of a check. */
const MAX_OUTPUT_LENGTH = 4_096

export interface Instance {
  service: Service
  createIndex: number
  modifyIndex: number
}

/** The agent's node, its services, and the checks that the agent runs for them. */
export class Catalog {
  readonly nodeName: string
  readonly nodeId: string
  readonly address = '127.0.0.1'
  readonly #datacenter: string
  readonly #changes: Changes
  readonly #instances = new Map<string, Instance>()
  readonly #checks = new Map<string, Check>()
  readonly #runners = new Map<string, CheckRunner>()
  readonly #nodeIndex: number
  readonly #serfHealth: CatalogCheck

  constructor(changes: Changes, node: { name: string; id: string; datacenter: string }) {
    this.#changes = changes
    this.nodeName = node.name
    this.nodeId = node.id
    this.#datacenter = node.datacenter
    this.#nodeIndex = this.#touch([])
    const index = this.#touch([], 'checks')
    this.#serfHealth = {
      id: 'serfHealth',
      name: 'Serf Health Status',
      notes: '',
      output: 'Agent alive and reachable',
      serviceId: '',
      status: 'passing',
      kind: '',
      createIndex: index,
      modifyIndex: index,
    }
  }

  /** All instances by service ID. */
  instances(): Instance[] {
    return [...this.#instances.values()].sort((a, b) => (a.service.id < b.service.id ? -1 : 1))
  }

  instance(id: string): Instance | undefined {
    return this.#instances.get(id)
  }

  /** The instances with that service name, in any case, or for `connect` those that can be dialed under that name. */
  instancesOf(name: string, topic: 'service' | 'connect'): Instance[] {
    const wanted = name.toLowerCase()
    return this.instances().filter(
      ({ service }) => (topic === 'service' ? service.name : service.connectName)?.toLowerCase() === wanted,
    )
  }

  /** The checks that the agent runs, by ID. */
  checks(): Check[] {
    return sortedById(this.#checks.values())
  }

  check(id: string): Check | undefined {
    return this.#checks.get(id)
  }

  /** The checks that decide the health of an instance: those of the node, then its own. */
  checksFor(serviceId: string): CatalogCheck[] {
    return [...sortedById([this.#serfHealth, ...this.checksOf('')]), ...this.checksOf(serviceId)]
  }

  /** The checks of one service, or with '' those of the node itself. */
  checksOf(serviceId: string): Check[] {
    return this.checks().filter((check) => check.serviceId === serviceId)
  }

  isPassing({ service }: Instance): boolean {
    return this.checksFor(service.id).every(({ status }) => status === 'passing')
  }

  isCritical({ service }: Instance): boolean {
    return this.checksFor(service.id).some(({ status }) => status === 'critical')
  }

  /** The index that a blocking query on these instances waits for. */
  index(name: string, topic: 'service' | 'connect'): number {
    // Consul has no index for a service without instances and reports that of the whole catalog.
    const isPresent = this.instancesOf(name, topic).length > 0
    return this.#changes.modified(isPresent ? `${topic}:${name.toLowerCase()}` : 'catalog')
  }

  register({ service, checks }: Registration, options: { replaceChecks: boolean }): void {
    this.#putService(service)
    if (options.replaceChecks) {
      const ids = new Set(checks.map(({ id }) => id))
      for (const check of this.checksOf(service.id)) if (!ids.has(check.id)) this.deregisterCheck(check.id)
    }
    for (const check of checks) this.registerCheck(check)
    this.#updateAliases()
  }

  deregister(id: string): void {
    for (const check of this.checksOf(id)) this.deregisterCheck(check.id)
    const instance = this.#instances.get(id)
    if (!instance) return
    this.#instances.delete(id)
    this.#touch([instance], 'services')
    this.#updateAliases()
  }

  registerCheck(definition: CheckDefinition): void {
    const old = this.#checks.get(definition.id)
    this.#runners.get(definition.id)?.stop()
    // A service that registers again, for example after a crash, keeps the state of its checks.
    const state = { status: old?.status ?? definition.initialStatus, output: old?.output ?? '' }
    const check: Check = { createIndex: 0, modifyIndex: 0, ...old, ...definition, ...state }
    this.#checks.set(check.id, check)
    const isUnchanged = old && same(shown(old), shown(check))
    if (!isUnchanged) this.#touchCheck(check)
    const runner = new CheckRunner(check, {
      report: (result) => {
        this.#update(check, result)
      },
      deregister: () => {
        this.deregister(check.serviceId)
      },
    })
    this.#runners.set(check.id, runner)
    runner.start()
    this.#updateAliases()
  }

  deregisterCheck(id: string): void {
    const check = this.#checks.get(id)
    if (!check) return
    this.#checks.delete(id)
    this.#runners.get(id)?.stop()
    this.#runners.delete(id)
    this.#touchCheck(check)
    this.#updateAliases()
  }

  /** Records the status of a TTL check and restarts its time. */
  heartbeat(check: Check, result: CheckResult): void {
    this.#update(check, result)
    this.#runners.get(check.id)?.heartbeat()
  }

  /** Stops the timers; the state stays. */
  stop(): void {
    for (const runner of this.#runners.values()) runner.stop()
  }

  start(): void {
    for (const runner of this.#runners.values()) runner.start()
  }

  /** The node as in the answers of the catalog. */
  nodeJson(): JsonObject {
    const { address, nodeId, nodeName } = this
    const tagged = { lan: address, lan_ipv4: address, wan: address, wan_ipv4: address }
    return {
      ID: nodeId,
      Node: nodeName,
      Address: address,
      TaggedAddresses: tagged,
      Datacenter: this.#datacenter,
    }
  }

  /** An instance with its node and checks, as in the answers about health. */
  entryJson({ service, createIndex, modifyIndex }: Instance): JsonObject {
    return {
      Node: {
        ...this.nodeJson(),
        Meta: { 'consul-network-segment': '' },
        CreateIndex: this.#nodeIndex,
        ModifyIndex: this.#nodeIndex,
      },
      Service: healthServiceJson(service, createIndex, modifyIndex),
      Checks: this.checksFor(service.id).map((check) => this.checkJson(check)),
    }
  }

  checkJson(check: CatalogCheck): JsonObject {
    const service = this.#instances.get(check.serviceId)?.service
    return {
      Node: this.nodeName,
      CheckID: check.id,
      Name: check.name,
      Status: check.status,
      Notes: check.notes,
      Output: check.output,
      ServiceID: check.serviceId,
      ServiceName: service?.name ?? '',
      ServiceTags: service?.tags ?? [],
      Type: check.kind,
      Definition: {},
      CreateIndex: check.createIndex,
      ModifyIndex: check.modifyIndex,
    }
  }

  #putService(service: Service): void {
    const old = this.#instances.get(service.id)
    if (old && same(old.service, service)) return
    const instance = { service, createIndex: old?.createIndex ?? 0, modifyIndex: 0 }
    instance.modifyIndex = this.#touch(old ? [old, instance] : [instance], 'services')
    instance.createIndex ||= instance.modifyIndex
    this.#instances.set(service.id, instance)
  }

  #update(check: Check, result: CheckResult): void {
    if (this.#setResult(check, result)) this.#updateAliases()
  }

  /** @returns whether the check changed */
  #setResult(check: Check, result: CheckResult): boolean {
    if (check.status === result.status && check.output === result.output) return false
    Object.assign(check, result)
    this.#touchCheck(check)
    this.#runners.get(check.id)?.statusChanged()
    return true
  }

  /** Gives alias checks the result of the service that they follow. Aliases of aliases need a round each. */
  #updateAliases(): void {
    const aliases = this.checks().filter(({ kind }) => kind === 'alias')
    for (let round = 0; round < MAX_ALIAS_ROUNDS; round++) {
      const changed = aliases.filter((alias) => this.#setResult(alias, this.#aliasResult(alias.target)))
      if (changed.length === 0) return
    }
  }

  #aliasResult(serviceId: string): CheckResult {
    if (this.instance(serviceId) === undefined) {
      return { status: 'critical', output: `Service ${serviceId} could not be found on node` }
    }
    const checks = [...this.checksOf(''), ...this.checksOf(serviceId)]
    const worst =
      checks.find(({ status }) => status === 'critical') ?? checks.find(({ status }) => status === 'warning')
    if (worst === undefined) {
      return { status: 'passing', output: checks.length === 0 ? 'No checks found.' : 'All checks passing.' }
    }
    const { status, name, output } = worst
    return { status, output: `Aliased check "${name}" failing: ${output}`.slice(0, MAX_OUTPUT_LENGTH) }
  }

  #touchCheck(check: Check): void {
    const { serviceId } = check
    const affected = this.instances().filter(({ service }) => serviceId === '' || service.id === serviceId)
    check.modifyIndex = this.#touch(affected, 'checks')
    check.createIndex ||= check.modifyIndex
  }

  #touch(instances: readonly Instance[], ...more: string[]): number {
    return this.#changes.touch('catalog', ...more, ...instances.flatMap(({ service }) => topicsOf(service)))
  }
}

/** Whether all wanted tags are present, in any case. */
export function hasTags(tags: readonly string[], wanted: readonly string[]): boolean {
  const lower = tags.map((tag) => tag.toLowerCase())
  return wanted.every((tag) => lower.includes(tag.toLowerCase()))
}

function sortedById<T extends { id: string }>(items: Iterable<T>): T[] {
  return [...items].sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** The part of a check that the catalog shows. */
function shown({ name, notes, output, serviceId, status, kind }: Check): object {
  return { name, notes, output, serviceId, status, kind }
}

function same(a: object, b: object): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

function topicsOf(service: Service): string[] {
  const own = `service:${service.name.toLowerCase()}`
  return service.connectName === undefined ? [own] : [own, `connect:${service.connectName.toLowerCase()}`]
}
