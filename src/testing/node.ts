import type { CatalogCheck } from './checks.js'
import type { JsonObject } from './json.js'
import type { Service } from './service.js'

/** What a registration says of a node. */
export interface NodeDefinition {
  name: string
  /** Empty for a node that was registered without one. */
  id: string
  address: string
  taggedAddresses: Record<string, string> | null
  meta: Record<string, string> | null
}

export interface Instance {
  node: Node
  service: Service
  createIndex: number
  modifyIndex: number
}

/** A node of the catalog, with its services and checks. */
export class Node {
  definition: NodeDefinition
  readonly createIndex: number
  modifyIndex: number
  readonly instances: Map<string, Instance> = new Map<string, Instance>()
  readonly checks: Map<string, CatalogCheck> = new Map<string, CatalogCheck>()

  constructor(definition: NodeDefinition, index: number) {
    this.definition = definition
    this.createIndex = index
    this.modifyIndex = index
  }

  get name(): string {
    return this.definition.name
  }

  get address(): string {
    return this.definition.address
  }

  /** The checks of one service, or with '' those of the node itself. */
  checksOf(serviceId: string): CatalogCheck[] {
    return sortedChecks(this.checks.values()).filter((check) => check.serviceId === serviceId)
  }

  /** All checks that decide about an instance: the node's, then its own. */
  checksFor(serviceId: string): CatalogCheck[] {
    return [...this.checksOf(''), ...this.checksOf(serviceId)]
  }

  json(): JsonObject {
    const { name, id, address, taggedAddresses } = this.definition
    return { ID: id, Node: name, Address: address, TaggedAddresses: taggedAddresses }
  }

  /** With datacenter, indexes and all, as in health answers. */
  entryJson(datacenter: string): JsonObject {
    return {
      ...this.json(),
      Datacenter: datacenter,
      Meta: this.definition.meta,
      CreateIndex: this.createIndex,
      ModifyIndex: this.modifyIndex,
    }
  }
}

/** Whether an instance passes all checks; its node's too. */
export function isPassing({ node, service }: Instance): boolean {
  return node.checksFor(service.id).every(({ status }) => status === 'passing')
}

export function isCritical({ node, service }: Instance): boolean {
  return node.checksFor(service.id).some(({ status }) => status === 'critical')
}

export function sortedChecks<T extends { id: string }>(checks: Iterable<T>): T[] {
  return [...checks].sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** A check as the API shows it. */
export function checkJson(check: CatalogCheck, node: Node): JsonObject {
  const service = node.instances.get(check.serviceId)?.service
  return {
    Node: node.name,
    CheckID: check.id,
    Name: check.name,
    Status: check.status,
    Notes: check.notes,
    Output: check.output,
    ServiceID: check.serviceId,
    ServiceName: service?.name ?? '',
    ServiceTags: service?.tags ?? [],
    Type: check.kind,
    Definition: check.definition ?? {},
    CreateIndex: check.createIndex,
    ModifyIndex: check.modifyIndex,
  }
}
