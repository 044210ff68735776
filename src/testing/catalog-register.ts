import { randomUUID } from 'node:crypto'
import type { Catalog } from './catalog.js'
import type { CheckState } from './checks.js'
import { HttpError } from './http.js'
import { FieldReader, type Json, type JsonObject } from './json.js'
import type { NodeDefinition } from './node.js'
import { readCatalogService, type Service } from './service.js'

/** A node, and a service or checks on it: the body of `PUT /v1/catalog/register`, with Consul's own field names. */
export interface CatalogRegistration extends JsonObject {
  Node: string
  Address: string
  ID?: string
  TaggedAddresses?: Record<string, string>
  NodeMeta?: Record<string, string>
  Service?: JsonObject
  Check?: JsonObject
  Checks?: JsonObject[]
  /** Leave the node as it is when it is there already. @default false */
  SkipNodeUpdate?: boolean
}

/** What to take away: the check, the service, or the whole node when neither is named. */
export interface CatalogDeregistration extends JsonObject {
  Node: string
  ServiceID?: string
  CheckID?: string
}

export interface NodeRegistration {
  datacenter: string
  node: NodeDefinition
  service: Service | undefined
  checks: CheckState[]
  skipNodeUpdate: boolean
}

export interface NodeDeregistration {
  datacenter: string
  node: string
  serviceId: string
  checkId: string
}

export function readNodeRegistration(fields: FieldReader): NodeRegistration {
  const node: NodeDefinition = {
    name: fields.string('Node') ?? '',
    id: fields.string('ID') ?? '',
    address: fields.string('Address') ?? '',
    taggedAddresses: fields.optionalStringMap('TaggedAddresses'),
    meta: fields.optionalStringMap('NodeMeta'),
  }
  const service = fields.child('Service')
  const check = fields.child('Check')
  const checks = fields.list('Checks').map((json) => new FieldReader(json))
  const registration = {
    datacenter: fields.string('Datacenter') ?? '',
    node,
    skipNodeUpdate: fields.boolean('SkipNodeUpdate') ?? false,
  }
  fields.end()
  if (node.name === '') throw new HttpError(500, 'Must provide node')
  if (node.address === '' && !registration.skipNodeUpdate)
    throw new HttpError(500, 'Must provide address if SkipNodeUpdate is not set')
  if (node.id !== '' && node.id.length !== randomUUID().length)
    throw new HttpError(500, 'Bad node ID: uuid string is wrong length')
  return {
    ...registration,
    service: service && readCatalogService(service),
    checks: [...(check ? [check] : []), ...checks].map((reader) => readCatalogCheck(reader, node.name)),
  }
}

export function readNodeDeregistration(fields: FieldReader): NodeDeregistration {
  const deregistration = {
    datacenter: fields.string('Datacenter') ?? '',
    node: fields.string('Node') ?? '',
    serviceId: fields.string('ServiceID') ?? '',
    checkId: fields.string('CheckID') ?? '',
  }
  fields.end()
  if (deregistration.node === '') throw new HttpError(500, 'Must provide node')
  return deregistration
}

/** As in Consul, what comes before a mistake is done. */
export function registerNode(catalog: Catalog, registration: NodeRegistration): void {
  const { node: definition, service, checks, skipNodeUpdate } = registration
  const known = catalog.node(definition.name)
  const node = known && skipNodeUpdate ? known : catalog.putNode(definition)
  if (service) catalog.putService(node, service)
  for (const check of checks) {
    if (check.serviceId !== '' && !node.instances.has(check.serviceId)) {
      throw new HttpError(
        500,
        `failed inserting check: Missing service registration on node ${JSON.stringify(node.name)}`,
      )
    }
    catalog.putCheck(node, check)
  }
}

export function deregisterNode(
  catalog: Catalog,
  { node: name, serviceId, checkId }: NodeDeregistration,
): void {
  const node = catalog.node(name)
  if (!node) return
  if (serviceId !== '') catalog.deleteService(node, serviceId)
  else if (checkId !== '') catalog.deleteCheck(node, checkId)
  else catalog.deleteNode(name)
}

function readCatalogCheck(fields: FieldReader, node: string): CheckState {
  const name = fields.string('Name') ?? ''
  const ownNode = fields.string('Node') ?? ''
  const id = fields.string('CheckID') ?? ''
  const status = fields.string('Status') ?? ''
  const definition = fields.object('Definition')
  const check = {
    id: id === '' ? name : id,
    name,
    notes: fields.string('Notes') ?? '',
    output: fields.string('Output') ?? '',
    serviceId: fields.string('ServiceID') ?? '',
    status: status === '' ? 'critical' : status,
    kind: fields.string('Type') ?? kindOf(definition),
    ...(definition ? { definition } : {}),
  }
  // The catalog fills these in by itself.
  fields.string('ServiceName')
  fields.strings('ServiceTags')
  fields.end()
  if (ownNode !== '' && ownNode !== node) {
    const names = [ownNode, node].map((name) => JSON.stringify(name))
    throw new HttpError(500, `check node ${names[0] ?? ''} does not match node ${names[1] ?? ''}`)
  }
  if (check.id === '') {
    throw new HttpError(
      500,
      `failed inserting check: failed inserting check: object missing primary index on node ${JSON.stringify(node)}`,
    )
  }
  return check
}

function kindOf(definition: Record<string, Json | undefined> | undefined): string {
  return ['TCP', 'HTTP', 'TTL'].find((kind) => definition?.[kind] !== undefined)?.toLowerCase() ?? ''
}
