import { type ErrorCode, VerificationError } from '../base/errors.js'
import { CLIENT_AUTH, type CertificateFacts, SERVER_AUTH } from './certificate.js'
import { type ServiceId, SpiffeId } from './spiffe.js'

/** The identity that a peer must have. Undefined parts are not compared. */
export interface ExpectedIdentity {
  readonly service: string
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
  readonly datacenter?: string | undefined
}

/** A SPIFFE ID from a certificate. */
export interface CertifiedId {
  readonly id: SpiffeId
  /** The URI as in the certificate. */
  readonly uri: string
}

/**
 * Verifies the contents of a leaf by the rules of the SPIFFE standards X509-SVID (sections 2 to 5) and SPIFFE-ID (section
 * 2). The path and its length are verified elsewhere.
 * @throws VerificationError or SpiffeIdError, with a code for each rule
 */
export function verifyLeaf(facts: CertificateFacts): CertifiedId {
  const fail = (code: ErrorCode, expected: string, actual: string): VerificationError =>
    new VerificationError(code, expected, actual)
  const { uris, keyUsage, extendedKeyUsage } = facts
  const [uri, ...others] = uris
  if (uri === undefined || others.length > 0) {
    throw fail('ERR_CONNECT_CERTIFICATE_URI_COUNT', 'exactly one URI as alternative name', `${uris.length}`)
  }
  const id = SpiffeId.parse(uri)
  if (id.parts.kind === 'signing') {
    throw fail('ERR_CONNECT_CERTIFICATE_SIGNING', 'a SPIFFE ID with a path', `the signing identity ${uri}`)
  }
  if (facts.isCa) throw fail('ERR_CONNECT_CERTIFICATE_CA', 'a leaf', 'a CA certificate')
  for (const bit of ['keyCertSign', 'cRLSign'] as const) {
    if (keyUsage?.has(bit) === true)
      throw fail('ERR_CONNECT_CERTIFICATE_CA', 'a leaf', `the key usage ${bit}`)
  }
  if (keyUsage?.has('digitalSignature') !== true) {
    const found =
      keyUsage === undefined ? 'no key usage' : `the key usage ${[...keyUsage].join(', ') || 'of no bit'}`
    throw fail('ERR_CONNECT_CERTIFICATE_KEY_USAGE', 'the key usage digitalSignature', found)
  }
  if (extendedKeyUsage?.has(SERVER_AUTH) === false || extendedKeyUsage?.has(CLIENT_AUTH) === false) {
    throw fail(
      'ERR_CONNECT_CERTIFICATE_EXTENDED_KEY_USAGE',
      'the extended key usages serverAuth and clientAuth',
      [...extendedKeyUsage].join(', '),
    )
  }
  return { id, uri }
}

/**
 * Verifies that a peer is a service of the trust domain whose roots its path was verified against.
 * @throws VerificationError
 */
export function verifyMember(certified: CertifiedId, trustDomain: string): ServiceId {
  const { parts } = certified.id
  if (parts.trustDomain !== trustDomain) {
    throw new VerificationError(
      'ERR_CONNECT_PEER_TRUST_DOMAIN',
      `the trust domain ${trustDomain}`,
      certified.uri,
    )
  }
  if (parts.kind !== 'service') {
    throw new VerificationError('ERR_CONNECT_PEER_KIND', 'the identity of a service', certified.uri)
  }
  return parts
}

/**
 * Completes an expected identity with our own namespace, partition, and datacenter. A service with the same name elsewhere
 * is another service.
 */
export function expectedAt(own: ServiceId, expected: ExpectedIdentity): Required<ExpectedIdentity> {
  return {
    service: expected.service,
    namespace: expected.namespace ?? own.namespace,
    partition: expected.partition ?? own.partition,
    datacenter: expected.datacenter ?? own.datacenter,
  }
}

/**
 * Verifies that a peer has the expected identity.
 * @throws VerificationError with ERR_CONNECT_PEER_IDENTITY
 */
export function verifyExpected(id: Required<ExpectedIdentity>, expected: ExpectedIdentity): void {
  const fields = ['service', 'namespace', 'partition', 'datacenter'] as const
  // The service is always compared.
  const wrong = fields.filter(
    (field) => (field === 'service' || expected[field] !== undefined) && expected[field] !== id[field],
  )
  if (wrong.length === 0) return
  const show = (from: ExpectedIdentity): string =>
    wrong.map((field) => `${field} ${JSON.stringify(from[field])}`).join(', ')
  throw new VerificationError('ERR_CONNECT_PEER_IDENTITY', show(expected), show(id))
}
