import type { Changes } from './changes.js'
import type { CatalogCheck, CheckState } from './checks.js'
import { Node, sortedChecks, type Instance, type NodeDefinition } from './node.js'
import type { Service } from './service.js'

/** All nodes of one datacenter with their services and checks, whoever registered them. */
export class Catalog {
  /** The node that the agent itself runs on. */
  readonly own: Node
  readonly #changes: Changes
  readonly #nodes = new Map<string, Node>()

  constructor(changes: Changes, own: NodeDefinition) {
    this.#changes = changes
    this.own = this.putNode(own)
    // Serf's word that the node is alive: always there, always passing.
    this.putCheck(this.own, {
      id: 'serfHealth',
      name: 'Serf Health Status',
      notes: '',
      output: 'Agent alive and reachable',
      serviceId: '',
      status: 'passing',
      kind: '',
    })
  }

  /** By name. */
  nodes(): Node[] {
    return [...this.#nodes].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, node]) => node)
  }

  node(name: string): Node | undefined {
    return this.#nodes.get(name.toLowerCase())
  }

  /** Of all nodes, by the node's name and the service's ID. */
  instances(): Instance[] {
    return this.nodes().flatMap(({ instances }) =>
      [...instances.values()].sort((a, b) => (a.service.id < b.service.id ? -1 : 1)),
    )
  }

  checks(): { node: Node; check: CatalogCheck }[] {
    return this.nodes().flatMap((node) =>
      sortedChecks(node.checks.values()).map((check) => ({ node, check })),
    )
  }

  /** Creates the node, or changes it. */
  putNode(definition: NodeDefinition): Node {
    const old = this.node(definition.name)
    if (old && same(old.definition, definition)) return old
    if (old) {
      old.definition = definition
      old.modifyIndex = this.#touch([...old.instances.values()], 'nodes')
      return old
    }
    const node = new Node(definition, this.#touch([], 'nodes'))
    this.#nodes.set(definition.name.toLowerCase(), node)
    return node
  }

  deleteNode(name: string): void {
    const node = this.node(name)
    if (!node) return
    this.#nodes.delete(name.toLowerCase())
    this.#touch([...node.instances.values()], 'nodes', 'services', 'checks')
  }

  putService(node: Node, service: Service): void {
    const old = node.instances.get(service.id)
    if (old && same(old.service, service)) return
    const instance = { node, service, createIndex: 0, modifyIndex: 0 }
    const index = this.#touch(old ? [old, instance] : [instance], 'services')
    node.instances.set(service.id, {
      ...instance,
      createIndex: old?.createIndex ?? index,
      modifyIndex: index,
    })
  }

  deleteService(node: Node, id: string): void {
    const instance = node.instances.get(id)
    if (!instance) return
    for (const check of node.checksOf(id)) this.deleteCheck(node, check.id)
    node.instances.delete(id)
    this.#touch([instance], 'services')
  }

  putCheck(node: Node, check: CheckState): void {
    const old = node.checks.get(check.id)
    if (old) {
      const { createIndex, modifyIndex, ...state } = old
      if (same({ ...state, ...check }, state)) return
    }
    const index = this.#touchCheck(node, check.serviceId)
    node.checks.set(check.id, { ...check, createIndex: old?.createIndex ?? index, modifyIndex: index })
  }

  deleteCheck(node: Node, id: string): void {
    const check = node.checks.get(id)
    if (!check) return
    node.checks.delete(id)
    this.#touchCheck(node, check.serviceId)
  }

  /** The index that a reader of these instances waits on. */
  index(topic: string, present: boolean): number {
    // An absent service has no index of its own: Consul gives the whole catalog's.
    return this.#changes.modified(present ? topic : 'catalog')
  }

  #touchCheck(node: Node, serviceId: string): number {
    const instances = [...node.instances.values()].filter(
      ({ service }) => serviceId === '' || service.id === serviceId,
    )
    return this.#touch(instances, 'checks')
  }

  #touch(instances: Instance[], ...more: string[]): number {
    return this.#changes.touch('catalog', ...more, ...instances.flatMap(({ service }) => topicsOf(service)))
  }
}

function same(a: object, b: object): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

function topicsOf(service: Service): string[] {
  const own = `service:${service.name.toLowerCase()}`
  return service.connectName === undefined ? [own] : [own, `connect:${service.connectName.toLowerCase()}`]
}
