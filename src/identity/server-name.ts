import { isIP } from 'node:net'
import type { ExpectedIdentity } from './verify.js'

/** Printable ASCII, of the length that a TLS extension can hold. */
const VALID = /^[\x21-\x7e]{1,255}$/

/** Whether a text can be the server name of a handshake. Node.js refuses IP addresses (RFC 6066, section 3). */
export function isServerName(value: unknown): value is string {
  return typeof value === 'string' && VALID.test(value) && isIP(value) === 0
}

/**
 * Returns the server name that clients of the mesh send in the handshake. Gateways route by it; nothing verifies it.
 * @returns undefined for a service name that is not printable ASCII, or is too long
 */
export function serverName(
  identity: Required<ExpectedIdentity>,
  trustDomain: string,
  subset?: string,
): string | undefined {
  const { service: name, namespace = 'default', partition = 'default', datacenter } = identity
  const service = subset === undefined ? name : `${subset}.${name}`
  const composed =
    partition === 'default'
      ? `${service}.${namespace}.${datacenter}.internal.${trustDomain}`
      : `${service}.${namespace}.${partition}.${datacenter}.internal-v1.${trustDomain}`
  return isServerName(composed) ? composed : undefined
}
