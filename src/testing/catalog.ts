import { randomUUID } from 'node:crypto'
import type { Changes } from './changes.js'
import { CheckRunner, type CheckResult } from './check-runner.js'
import { checkJson, type Check, type CheckDefinition } from './checks.js'
import type { JsonObject } from './json.js'
import type { Registration, Service } from './service.js'

const serfHealth = 'serfHealth'

export interface Instance {
  service: Service
  createIndex: number
  modifyIndex: number
}

/** The services and checks of the one node there is. */
export class Catalog {
  readonly nodeName: string
  readonly nodeId: string = randomUUID()
  readonly nodeAddress: string
  readonly #changes: Changes
  readonly #nodeIndex: number
  readonly #instances = new Map<string, Instance>()
  readonly #checks = new Map<string, Check>()
  readonly #runners = new Map<string, CheckRunner>()

  constructor(changes: Changes, node: { name: string; address: string }) {
    this.#changes = changes
    this.nodeName = node.name
    this.nodeAddress = node.address
    this.#nodeIndex = changes.touch('catalog')
  }

  instances(): Instance[] {
    return [...this.#instances.values()].sort((a, b) => (a.service.id < b.service.id ? -1 : 1))
  }

  instance(id: string): Instance | undefined {
    return this.#instances.get(id)
  }

  checks(): Check[] {
    return [...this.#checks.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  check(id: string): Check | undefined {
    return this.#checks.get(id)
  }

  register({ service, checks }: Registration, options: { replaceChecks: boolean }): void {
    const old = this.#instances.get(service.id)
    if (!old || JSON.stringify(old.service) !== JSON.stringify(service)) {
      if (old) this.#touch(old.service)
      const index = this.#touch(service, 'services')
      this.#instances.set(service.id, { service, createIndex: old?.createIndex ?? index, modifyIndex: index })
    }
    if (options.replaceChecks) {
      const kept = new Set(checks.map(({ id }) => id))
      for (const check of this.checksOf(service.id)) if (!kept.has(check.id)) this.deregisterCheck(check.id)
    }
    for (const check of checks) this.registerCheck(check)
  }

  deregister(id: string): void {
    const instance = this.#instances.get(id)
    if (!instance) return
    for (const check of this.checksOf(id)) this.deregisterCheck(check.id)
    this.#instances.delete(id)
    this.#touch(instance.service, 'services')
  }

  registerCheck(definition: CheckDefinition): void {
    const old = this.#checks.get(definition.id)
    this.#runners.get(definition.id)?.stop()
    const same = old && sameDefinition(old, definition)
    const index = same ? old.modifyIndex : this.#touchCheck(definition.serviceId)
    // A service that registers again, after a crash perhaps, keeps the state of its checks.
    const check: Check = {
      ...definition,
      status: old?.status ?? definition.initialStatus,
      output: old?.output ?? '',
      createIndex: old?.createIndex ?? index,
      modifyIndex: index,
    }
    this.#checks.set(check.id, check)
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
  }

  deregisterCheck(id: string): void {
    const check = this.#checks.get(id)
    if (!check) return
    this.#runners.get(id)?.stop()
    this.#runners.delete(id)
    this.#checks.delete(id)
    this.#touchCheck(check.serviceId)
  }

  /** News of a TTL check. */
  heartbeat(check: Check, result: CheckResult): void {
    this.#update(check, result)
    this.#runners.get(check.id)?.heartbeat()
  }

  checksOf(serviceId: string): Check[] {
    return this.checks().filter((check) => check.serviceId === serviceId)
  }

  /** The index that a reader of these instances waits on. */
  index(topic: string, present: boolean): number {
    // An absent service has no index of its own: Consul gives the whole catalog's.
    return this.#changes.modified(present ? topic : 'catalog')
  }

  /** Ends the timers; the state stays. */
  stop(): void {
    for (const runner of this.#runners.values()) runner.stop()
  }

  start(): void {
    for (const runner of this.#runners.values()) runner.start()
  }

  nodeJson(): JsonObject {
    const address = this.nodeAddress
    return {
      ID: this.nodeId,
      Node: this.nodeName,
      Address: address,
      TaggedAddresses: { lan: address, lan_ipv4: address, wan: address, wan_ipv4: address },
    }
  }

  /** Node, indexes and all, as in health answers. */
  nodeEntryJson(datacenter: string): JsonObject {
    return {
      ...this.nodeJson(),
      Datacenter: datacenter,
      Meta: { 'consul-network-segment': '' },
      CreateIndex: this.#nodeIndex,
      ModifyIndex: this.#nodeIndex,
    }
  }

  /** Whether the node and the instance pass all their checks. */
  isPassing(serviceId: string): boolean {
    return [...this.checksOf(''), ...this.checksOf(serviceId)].every(({ status }) => status === 'passing')
  }

  /** All checks that decide about an instance: the node's, Serf's among them, then its own. */
  instanceChecksJson(serviceId: string): JsonObject[] {
    const node = this.checksOf('')
    const before = node.filter(({ id }) => id < serfHealth)
    const after = node.filter(({ id }) => id > serfHealth)
    return [
      ...before.map((check) => this.checkJson(check)),
      this.#serfHealthJson(),
      ...[...after, ...this.checksOf(serviceId)].map((check) => this.checkJson(check)),
    ]
  }

  checkJson(check: Check): JsonObject {
    return checkJson(check, this.nodeName, this.#instances.get(check.serviceId)?.service, check)
  }

  agentCheckJson(check: Check): JsonObject {
    const service = this.#instances.get(check.serviceId)?.service
    return checkJson(check, this.nodeName, service, { createIndex: 0, modifyIndex: 0 })
  }

  /** Serf's word that the node is alive: always there, always passing. */
  #serfHealthJson(): JsonObject {
    return {
      Node: this.nodeName,
      CheckID: serfHealth,
      Name: 'Serf Health Status',
      Status: 'passing',
      Notes: '',
      Output: 'Agent alive and reachable',
      ServiceID: '',
      ServiceName: '',
      ServiceTags: [],
      Type: '',
      Definition: {},
      CreateIndex: this.#nodeIndex,
      ModifyIndex: this.#nodeIndex,
    }
  }

  #update(check: Check, { status, output }: CheckResult): void {
    if (check.status === status && check.output === output) return
    check.status = status
    check.output = output
    check.modifyIndex = this.#touchCheck(check.serviceId)
    this.#runners.get(check.id)?.statusChanged()
  }

  #touchCheck(serviceId: string): number {
    const services = [...this.#instances.values()]
      .map(({ service }) => service)
      .filter(({ id }) => serviceId === '' || id === serviceId)
    return this.#changes.touch('catalog', 'checks', ...services.flatMap(topicsOf))
  }

  #touch(service: Service, ...more: string[]): number {
    return this.#changes.touch('catalog', ...more, ...topicsOf(service))
  }
}

function sameDefinition(check: Check, definition: CheckDefinition): boolean {
  return JSON.stringify({ ...check, ...definition }) === JSON.stringify(check)
}

function topicsOf(service: Service): string[] {
  const own = `service:${service.name}`
  return service.connectName === undefined ? [own] : [own, `connect:${service.connectName}`]
}
