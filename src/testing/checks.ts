import { HttpError } from './http.js'
import type { FieldReader, JsonObject } from './json.js'

export type CheckStatus = 'passing' | 'warning' | 'critical'

export interface CheckDefinition {
  id: string
  name: string
  notes: string
  /** Empty for a check of the node itself. */
  serviceId: string
  initialStatus: CheckStatus
  kind: 'ttl' | 'tcp' | 'http'
  /** Host and port, or the URL; empty for a TTL check. */
  target: string
  /** The TTL, or the time between two probes. */
  intervalMs: number
  timeoutMs: number
  /** Deregister the service once it was critical for so long; 0 never. */
  deregisterAfterMs: number
}

/** A check that the agent runs. */
export interface Check extends CheckDefinition {
  status: CheckStatus
  output: string
}

/** A check as the catalog has it. Whoever registers it there may give it any status. */
export interface CheckState {
  id: string
  name: string
  notes: string
  output: string
  /** Empty for a check of the node itself. */
  serviceId: string
  status: string
  /** Empty where nobody said how it is run. */
  kind: string
  definition?: JsonObject
}

export interface CatalogCheck extends CheckState {
  createIndex: number
  modifyIndex: number
}

/** Reads one check of a registration, or a check registered by itself. */
export function readCheck(
  fields: FieldReader,
  defaults: { id: string; name: string; serviceId: string },
): CheckDefinition {
  const ttl = fields.duration('TTL') ?? 0
  const interval = fields.duration('Interval') ?? 0
  const tcp = fields.string('TCP') ?? ''
  const http = fields.string('HTTP') ?? ''
  const status = fields.string('Status') ?? 'critical'
  const definition: CheckDefinition = {
    id: fields.string('CheckID') ?? fields.string('ID') ?? defaults.id,
    name: fields.string('Name') ?? defaults.name,
    notes: fields.string('Notes') ?? '',
    serviceId: fields.string('ServiceID') ?? defaults.serviceId,
    initialStatus: isCheckStatus(status) ? status : 'critical',
    kind: tcp !== '' ? 'tcp' : http !== '' ? 'http' : 'ttl',
    target: tcp + http,
    intervalMs: tcp + http === '' ? ttl : interval,
    timeoutMs: fields.duration('Timeout') ?? 10_000,
    deregisterAfterMs: fields.duration('DeregisterCriticalServiceAfter') ?? 0,
  }
  for (const kind of ['Args', 'GRPC', 'DockerContainerID', 'AliasService', 'AliasNode']) {
    if (fields.json(kind) !== undefined) {
      throw new HttpError(
        400,
        `Invalid check: the embedded agent has TTL, TCP and HTTP checks, but no ${kind}`,
      )
    }
  }
  fields.end()
  if (!isCheckStatus(status)) throw new HttpError(400, 'Bad check status')
  if (definition.kind === 'ttl' && ttl <= 0)
    throw new HttpError(400, 'Invalid check: TTL must be > 0 for TTL checks')
  if (definition.kind !== 'ttl' && interval <= 0) {
    throw new HttpError(400, 'Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks')
  }
  return definition
}

export function isCheckStatus(status: string): status is CheckStatus {
  return status === 'passing' || status === 'warning' || status === 'critical'
}
