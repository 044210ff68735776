import { isCheckStatus, type CheckDefinition } from './checks.js'
import { HttpError } from './http.js'
import { isZero, type FieldReader } from './json.js'

/** Kinds and settings of checks that only a real agent has. */
const UNSUPPORTED = [
  'AliasNode',
  'Args',
  'DockerContainerID',
  'FailuresBeforeCritical',
  'GRPC',
  'GRPCUseTLS',
  'ScriptArgs',
  'SuccessBeforePassing',
]

interface Defaults {
  id: string
  name: string
  serviceId: string
}

/** Reads the checks in the registration of a service. */
export function readServiceChecks(
  fields: FieldReader,
  { id: serviceId, name }: { id: string; name: string },
): CheckDefinition[] {
  const single = fields.child('Check')
  // Consul treats a single check without a value as no check.
  const readers = [...(single && !single.isEmpty ? [single] : []), ...fields.children('Checks')]
  return readers.map((reader, index) => {
    const id = readers.length === 1 ? `service:${serviceId}` : `service:${serviceId}:${index + 1}`
    reader.ignore('ServiceID', 'ProxyHTTP', 'ProxyGRPC')
    const statusError = "Status for checks must 'passing', 'warning', 'critical'"
    return readCheck(reader, { id, name: `Service '${name}' check`, serviceId }, statusError)
  })
}

/** Reads the body of `PUT /v1/agent/check/register`. */
export function readOwnCheck(fields: FieldReader): CheckDefinition {
  const serviceId = fields.string('ServiceID') ?? ''
  const check = readCheck(fields, { id: '', name: '', serviceId }, 'Bad check status')
  if (check.name === '') throw new HttpError(400, 'Missing check name')
  return { ...check, id: check.id || check.name }
}

function readCheck(fields: FieldReader, defaults: Defaults, statusError: string): CheckDefinition {
  const [tcp, http, alias] = ['TCP', 'HTTP', 'AliasService'].map((name) => fields.string(name) ?? '')
  const [ttlMs, intervalMs, timeoutMs] = [
    fields.duration('TTL'),
    fields.duration('Interval'),
    fields.duration('Timeout'),
  ]
  const status = fields.string('Status') || 'critical'
  const unsupported = UNSUPPORTED.find((name) => !isZero(fields.json(name)))
  const target = (tcp || http || alias) ?? ''
  const id = fields.string('CheckID') || fields.string('ID')
  const check = {
    id: id || defaults.id,
    name: fields.string('Name') || defaults.name,
    notes: fields.string('Notes') ?? '',
    serviceId: defaults.serviceId,
    kind: tcp ? 'tcp' : http ? 'http' : alias ? 'alias' : 'ttl',
    target,
    request: {
      method: fields.string('Method') ?? '',
      headers: Object.fromEntries(
        Object.entries(fields.object('Header') ?? {}).map(([name, values]) => [
          name,
          [values].flat().map(String),
        ]),
      ),
      body: fields.string('Body') ?? '',
      tlsSkipVerify: fields.boolean('TLSSkipVerify') ?? false,
    },
    intervalMs: target === '' ? ttlMs : intervalMs,
    timeoutMs: timeoutMs || 10_000,
    deregisterAfterMs: fields.duration('DeregisterCriticalServiceAfter'),
  } as const
  fields.ignore('ID', 'OutputMaxSize', 'Shell', 'Token')
  fields.end()
  if (unsupported !== undefined)
    throw invalid(`the embedded agent has TTL, TCP, HTTP, and alias checks, but no ${unsupported}`)
  if (intervalMs > 0 && ttlMs > 0) throw invalid('Interval and TTL cannot both be specified')
  if ((tcp || http) && intervalMs <= 0) throw invalid('Interval must be > 0 for Script, HTTP, or TCP checks')
  if (target === '' && ttlMs <= 0) throw invalid('TTL must be > 0 for TTL checks')
  if (!isCheckStatus(status)) throw new HttpError(400, statusError)
  return { ...check, initialStatus: status }
}

function invalid(reason: string): HttpError {
  return new HttpError(400, `Invalid check: ${reason}`)
}
