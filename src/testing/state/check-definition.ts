import { isCheckStatus, type Check, type Probe } from './checks.js'
import { duration, string, struct, type Reader } from '../http/decode.js'
import { HttpError } from '../http/http.js'
import { isZero } from '../http/json.js'

/** A check as a request defines it. */
export interface CheckDefinition {
  readonly check: Check
  readonly probe: Probe
}

type Names = Pick<Check, 'CheckID' | 'Name' | 'ServiceID'>

const readSettings = struct(
  {
    ID: string,
    CheckID: string,
    Name: string,
    Notes: string,
    ServiceID: string,
    Status: string,
    TTL: duration,
    TCP: string,
    HTTP: string,
    AliasService: string,
    Interval: duration,
    Timeout: duration,
  },
  // The embedded agent does not deregister critical services.
  ['DeregisterCriticalServiceAfter', 'OutputMaxSize', 'ProxyGRPC', 'ProxyHTTP', 'Shell', 'Token'],
)

type Settings = ReturnType<typeof readSettings>

/**
 * Reads a check in the registration of a service. Returns a function that adds the names of the service, or undefined for
 * a check without a value, which Consul treats as no check.
 */
export const readServiceCheck: Reader<((defaults: Names) => CheckDefinition) | undefined> = (
  value,
  field,
) => {
  const settings = readSettings(value, field)
  if (Object.values(settings).every(isZero)) return undefined
  return ({ CheckID, Name, ServiceID }) =>
    define({
      ...settings,
      CheckID: settings.CheckID || settings.ID || CheckID,
      Name: settings.Name || Name,
      ServiceID,
    })
}

/** Reads the body of `PUT /v1/agent/check/register`. */
export const readCheck: Reader<CheckDefinition> = (value, field) => {
  const settings = readSettings(value, field)
  if (settings.Name === '') throw new HttpError(400, 'Missing check name')
  return define({ ...settings, CheckID: settings.CheckID || settings.ID || settings.Name })
}

function define(settings: Settings): CheckDefinition {
  const { CheckID, Name, Notes, ServiceID, TTL, TCP, HTTP, AliasService, Interval } = settings
  const target = TCP || HTTP || AliasService
  if (Interval > 0 && TTL > 0) throw invalid('Interval and TTL cannot both be specified')
  if ((TCP || HTTP) && Interval <= 0) throw invalid('Interval must be > 0 for Script, HTTP, or TCP checks')
  if (target === '' && TTL <= 0) throw invalid('TTL must be > 0 for TTL checks')
  const Status = settings.Status || 'critical'
  if (!isCheckStatus(Status)) throw new HttpError(400, `Invalid check status: '${Status}'`)
  const Type = TCP ? 'tcp' : HTTP ? 'http' : AliasService ? 'alias' : 'ttl'
  return {
    check: { CheckID, Name, Status, Notes, Output: '', ServiceID, Type, CreateIndex: 0, ModifyIndex: 0 },
    probe: {
      target,
      intervalMs: target === '' ? TTL : Interval,
      timeoutMs: settings.Timeout || 10_000,
    },
  }
}

function invalid(problem: string): HttpError {
  return new HttpError(400, `Invalid check: ${problem}`)
}
