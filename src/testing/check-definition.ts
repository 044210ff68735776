import { isCheckStatus, type CheckDefinition } from './checks.js'
import { HttpError } from './http.js'
import { isZero, type FieldReader, type Json } from './json.js'

/** A check as it was written; what is left out has Go's zero value. */
interface WrittenCheck {
  id: string
  serviceId: string
  name: string
  notes: string
  status: string
  ttlMs: number
  intervalMs: number
  timeoutMs: number
  deregisterAfterMs: number
  tcp: string
  http: string
  /** The id of a service whose checks decide. */
  alias: string
  grpc: string
  script: string[]
  request: CheckDefinition['request']
  outputMaxSize: number
  /** What only other agents can do, by name. */
  foreign: Record<string, Json | undefined>
  /** What is taken and changes nothing for the checks that there are here. */
  idle: (Json | undefined)[]
}

/** What a check has where nothing is written. */
interface Defaults {
  id: string
  name: string
  serviceId: string
}

/** Reads the checks in the registration of a service. */
export function readServiceChecks(
  fields: FieldReader,
  service: { id: string; name: string },
): CheckDefinition[] {
  const single = fields.decoded('Check')
  const first = single ? [readServiceCheck(single)] : []
  // Consul takes a single check in which nothing is said for none.
  const written = [
    ...first.filter((check) => !Object.values(check).every(saysNothing)),
    ...fields.allDecoded('Checks').map(readServiceCheck),
  ]
  return written.map((check, index) => {
    const id = written.length === 1 ? `service:${service.id}` : `service:${service.id}:${index + 1}`
    const defaults = { id, name: `Service '${service.name}' check`, serviceId: service.id }
    const definition = defined(check, defaults)
    if (check.status !== '' && !isCheckStatus(check.status))
      throw new HttpError(400, "Status for checks must 'passing', 'warning', 'critical'")
    return definition
  })
}

/** Reads a check that is registered by itself. */
export function readOwnCheck(fields: FieldReader): CheckDefinition {
  const id = fields.string('ID') ?? ''
  // As in the registration of a service.
  fields.string('Token')
  const check = readCheck(fields, id)
  fields.end()
  if (check.name === '') throw new HttpError(400, 'Missing check name')
  if (check.status !== '' && !isCheckStatus(check.status)) throw new HttpError(400, 'Bad check status')
  return defined(check, { id: check.name, name: '', serviceId: check.serviceId })
}

function readServiceCheck(fields: FieldReader): WrittenCheck {
  const id = fields.string('CheckID') ?? ''
  const exposed = [fields.string('ProxyHTTP'), fields.string('ProxyGRPC')]
  const check = readCheck(fields, id)
  fields.end()
  // It may name a service, and belongs to this one all the same.
  return { ...check, serviceId: '', idle: [...check.idle, ...exposed] }
}

function readCheck(fields: FieldReader, id: string): WrittenCheck {
  fields.alsoSnakeCase('ServiceID', 'DeregisterCriticalServiceAfter')
  fields.alsoSnakeCase('ScriptArgs', 'DockerContainerID', 'TLSSkipVerify')
  const [args, scriptArgs] = [fields.strings('Args'), fields.strings('ScriptArgs')]
  return {
    id,
    serviceId: fields.string('ServiceID') ?? '',
    name: fields.string('Name') ?? '',
    notes: fields.string('Notes') ?? '',
    status: fields.string('Status') ?? '',
    ttlMs: fields.duration('TTL') ?? 0,
    intervalMs: fields.duration('Interval') ?? 0,
    timeoutMs: fields.duration('Timeout') ?? 0,
    deregisterAfterMs: fields.duration('DeregisterCriticalServiceAfter') ?? 0,
    tcp: fields.string('TCP') ?? '',
    http: fields.string('HTTP') ?? '',
    alias: fields.string('AliasService') ?? '',
    grpc: fields.string('GRPC') ?? '',
    script: scriptArgs.length > 0 ? scriptArgs : args,
    request: {
      method: fields.string('Method') ?? '',
      headers: fields.stringsMap('Header'),
      body: fields.string('Body') ?? '',
      tlsSkipVerify: fields.boolean('TLSSkipVerify') ?? false,
    },
    outputMaxSize: fields.integer('OutputMaxSize') ?? 0,
    foreign: {
      AliasNode: fields.string('AliasNode'),
      SuccessBeforePassing: fields.integer('SuccessBeforePassing'),
      FailuresBeforeCritical: fields.integer('FailuresBeforeCritical'),
    },
    idle: [fields.string('DockerContainerID'), fields.string('Shell'), fields.boolean('GRPCUseTLS')],
  }
}

function defined(check: WrittenCheck, defaults: Defaults): CheckDefinition {
  refuse(check)
  const { tcp, http, alias, request } = check
  const target = tcp + http + alias
  return {
    id: check.id || defaults.id,
    name: check.name || defaults.name,
    notes: check.notes,
    serviceId: defaults.serviceId,
    initialStatus: isCheckStatus(check.status) ? check.status : 'critical',
    kind: kindOf(check),
    target,
    request,
    intervalMs: target === '' ? check.ttlMs : check.intervalMs,
    timeoutMs: check.timeoutMs || 10_000,
    deregisterAfterMs: check.deregisterAfterMs,
  }
}

function kindOf({ tcp, http, alias }: WrittenCheck): CheckDefinition['kind'] {
  if (tcp !== '') return 'tcp'
  if (http !== '') return 'http'
  return alias === '' ? 'ttl' : 'alias'
}

/** In Consul's words and order; then what Consul could do and this agent cannot. */
function refuse({ tcp, http, grpc, alias, script, foreign, ...check }: WrittenCheck): void {
  const probes = tcp + http + grpc !== '' || script.length > 0
  if (check.intervalMs > 0 && check.ttlMs > 0) invalid('Interval and TTL cannot both be specified')
  if (probes && check.intervalMs <= 0) invalid('Interval must be > 0 for Script, HTTP, or TCP checks')
  const [beyond] = Object.entries({ ...foreign, GRPC: grpc }).find(([, value]) => !isZero(value)) ?? []
  if (beyond !== undefined)
    invalid(`the embedded agent has TTL, TCP, HTTP, and alias checks, but no ${beyond}`)
  if (!probes && alias === '' && check.ttlMs <= 0) invalid('TTL must be > 0 for TTL checks')
  if (check.outputMaxSize < 0) invalid('MaxOutputMaxSize must be positive')
  if (script.length > 0) {
    throw new HttpError(
      500,
      "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
    )
  }
}

function invalid(reason: string): never {
  throw new HttpError(400, `Invalid check: ${reason}`)
}

function saysNothing(value: WrittenCheck[keyof WrittenCheck]): boolean {
  return typeof value === 'object' ? Object.values(value).every(isZero) : isZero(value)
}
