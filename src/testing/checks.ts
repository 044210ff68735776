export type CheckStatus = 'passing' | 'warning' | 'critical'

export interface HttpProbe {
  method: string
  headers: Record<string, string[]>
  body: string
  /** Take any certificate. */
  tlsSkipVerify: boolean
}

export interface CheckDefinition {
  id: string
  name: string
  notes: string
  /** Empty for a check of the node itself. */
  serviceId: string
  initialStatus: CheckStatus
  kind: 'ttl' | 'tcp' | 'http' | 'alias'
  /** Host and port, the URL, or the id of the service that an alias check follows; empty for a TTL check. */
  target: string
  /** How the URL is asked. */
  request: HttpProbe
  /** The TTL, or the time between two probes. */
  intervalMs: number
  timeoutMs: number
  /** Deregister the service once it was critical for so long; 0 never. */
  deregisterAfterMs: number
}

export interface CheckResult {
  status: CheckStatus
  output: string
}

/** A check that the agent runs. */
export interface Check extends CheckDefinition, CheckResult {
  createIndex: number
  modifyIndex: number
}

/** A check as the catalog shows it. */
export interface CatalogCheck {
  id: string
  name: string
  notes: string
  output: string
  /** Empty for a check of the node itself. */
  serviceId: string
  status: CheckStatus
  kind: string
  createIndex: number
  modifyIndex: number
}

export function isCheckStatus(status: string): status is CheckStatus {
  return status === 'passing' || status === 'warning' || status === 'critical'
}
