import type { Catalog } from './catalog.js'
import { CheckRunner } from './check-runner.js'
import type { Check, CheckDefinition, CheckResult, CheckState } from './checks.js'
import type { JsonObject } from './json.js'
import { checkJson, sortedChecks, type Instance } from './node.js'
import type { Registration } from './service.js'

/** Bounds services that follow each other in a circle. */
const MAX_ALIAS_ROUNDS = 8
/** Consul's own bound on the output of a check. */
const MAX_OUTPUT_LENGTH = 4_096

/** The services that were registered with the agent itself, and the checks that it runs for them. */
export class LocalServices {
  readonly #catalog: Catalog
  readonly #checks = new Map<string, Check>()
  readonly #runners = new Map<string, CheckRunner>()

  constructor(catalog: Catalog) {
    this.#catalog = catalog
  }

  instances(): Instance[] {
    const { instances } = this.#catalog.own
    return [...instances.values()].sort((a, b) => (a.service.id < b.service.id ? -1 : 1))
  }

  instance(id: string): Instance | undefined {
    return this.#catalog.own.instances.get(id)
  }

  checks(): Check[] {
    return sortedChecks(this.#checks.values())
  }

  check(id: string): Check | undefined {
    return this.#checks.get(id)
  }

  register({ service, checks }: Registration, options: { replaceChecks: boolean }): void {
    this.#catalog.putService(this.#catalog.own, service)
    if (options.replaceChecks) {
      const kept = new Set(checks.map(({ id }) => id))
      for (const check of this.#checksOf(service.id)) if (!kept.has(check.id)) this.deregisterCheck(check.id)
    }
    for (const check of checks) this.registerCheck(check)
    this.#followAliases()
  }

  deregister(id: string): void {
    for (const check of this.#checksOf(id)) this.deregisterCheck(check.id)
    this.#catalog.deleteService(this.#catalog.own, id)
    this.#followAliases()
  }

  registerCheck(definition: CheckDefinition): void {
    const old = this.#checks.get(definition.id)
    this.#runners.get(definition.id)?.stop()
    // A service that registers again, after a crash perhaps, keeps the state of its checks.
    const status = old?.status ?? definition.initialStatus
    const check = { ...definition, status, output: old?.output ?? '' }
    this.#catalog.putCheck(this.#catalog.own, catalogued(check))
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
    this.#followAliases()
  }

  deregisterCheck(id: string): void {
    if (!this.#checks.delete(id)) return
    this.#runners.get(id)?.stop()
    this.#runners.delete(id)
    this.#catalog.deleteCheck(this.#catalog.own, id)
    this.#followAliases()
  }

  /** News of a TTL check. */
  heartbeat(check: Check, result: CheckResult): void {
    this.#update(check, result)
    this.#runners.get(check.id)?.heartbeat()
  }

  /** Ends the timers; the state stays. */
  stop(): void {
    for (const runner of this.#runners.values()) runner.stop()
  }

  start(): void {
    for (const runner of this.#runners.values()) runner.start()
  }

  /** As the agent shows it: Consul has indexes in the catalog only. */
  checkJson(check: Check): JsonObject {
    return checkJson({ ...check, createIndex: 0, modifyIndex: 0 }, this.#catalog.own)
  }

  #checksOf(serviceId: string): Check[] {
    return this.checks().filter((check) => check.serviceId === serviceId)
  }

  #update(check: Check, result: CheckResult): void {
    if (this.#set(check, result)) this.#followAliases()
  }

  /** @returns whether the check changed */
  #set(check: Check, result: CheckResult): boolean {
    if (check.status === result.status && check.output === result.output) return false
    Object.assign(check, result)
    this.#catalog.putCheck(this.#catalog.own, catalogued(check))
    this.#runners.get(check.id)?.statusChanged()
    return true
  }

  /** Gives alias checks the result of the service that they follow. Aliases of aliases need a round each. */
  #followAliases(): void {
    const aliases = this.checks().filter(({ kind }) => kind === 'alias')
    for (let round = 0; round < MAX_ALIAS_ROUNDS; round++) {
      const changed = aliases.filter((alias) => this.#set(alias, this.#aliasResult(alias.target)))
      if (changed.length === 0) return
    }
  }

  #aliasResult(serviceId: string): CheckResult {
    if (this.instance(serviceId) === undefined) {
      return { status: 'critical', output: `Service ${serviceId} could not be found on node` }
    }
    const checks = [...this.#checksOf(''), ...this.#checksOf(serviceId)]
    const worst =
      checks.find(({ status }) => status === 'critical') ?? checks.find(({ status }) => status === 'warning')
    if (worst === undefined) {
      return { status: 'passing', output: checks.length === 0 ? 'No checks found.' : 'All checks passing.' }
    }
    const { status, name, output } = worst
    return { status, output: `Aliased check "${name}" failing: ${output}`.slice(0, MAX_OUTPUT_LENGTH) }
  }
}

/** What the catalog keeps of a check: how it is run is the agent's business. */
function catalogued({ id, name, notes, output, serviceId, status, kind }: Check): CheckState {
  return { id, name, notes, output, serviceId, status, kind }
}
