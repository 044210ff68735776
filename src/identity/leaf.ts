import { type KeyObject, type X509Certificate, createPrivateKey } from 'node:crypto'
import type { LeafCertificate } from '../agent/endpoints/leaf.js'
import { type ErrorCode, IdentityError, withCause } from '../base/errors.js'
import { CLIENT_AUTH, SERVER_AUTH, parseCertificate } from './certificate.js'
import { parsePemCertificates, verifyPath } from './path.js'
import type { Roots } from './roots.js'
import type { ServiceId } from './spiffe.js'
import { type ExpectedIdentity, verifyExpected, verifyLeaf, verifyMember } from './verify.js'

/** The certificate of a service, without its private key. */
export interface Leaf {
  readonly id: ServiceId
  /** The SPIFFE ID, as in the certificate. */
  readonly uri: string
  /** Colon-separated hexadecimal. */
  readonly serialNumber: string
  readonly notBefore: Date
  readonly notAfter: Date
  /** When the first certificate of its path expires, including the root: peers reject the leaf from then on. */
  readonly expiresAt: Date
  /** PEM of the leaf and its intermediate certificates. */
  readonly chainPem: string
}

/** A verified leaf with its private key. */
export interface Credentials {
  readonly leaf: Leaf
  readonly privateKeyPem: string
}

const MAX_CHAIN = 16

/**
 * Verifies a certificate from the agent: it is a valid leaf with the matching private key, names the expected service,
 * is valid now, and has a path to a root of the mesh.
 * @throws IdentityError
 */
export function checkLeaf(
  given: LeafCertificate,
  expected: ExpectedIdentity,
  roots: Roots,
  now: number,
): Credentials {
  const fail = (code: ErrorCode, problem: string, cause?: unknown): IdentityError =>
    new IdentityError(code, `certificate of ${expected.service}: ${problem}${withCause(cause)}`, {
      cause,
    })

  const chain = attempt(
    () => parsePemCertificates(given.chainPem),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'cannot be parsed', cause),
  )
  const [certificate] = chain
  if (certificate === undefined || chain.length > MAX_CHAIN) {
    throw fail('ERR_CONNECT_LEAF_MALFORMED', `expected 1 to ${MAX_CHAIN} certificates, got ${chain.length}`)
  }
  const key = attempt(
    () => createPrivateKey(given.privateKeyPem),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'the private key cannot be parsed', cause),
  )
  const facts = attempt(
    () => parseCertificate(certificate.raw),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'cannot be parsed', cause),
  )
  const certified = attempt(
    () => verifyLeaf(facts),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'not a leaf', cause),
  )
  if (!ownsKey(certificate, key))
    throw fail('ERR_CONNECT_LEAF_KEY', 'the private key belongs to another certificate')
  const id = attempt(
    () => {
      const member = verifyMember(certified, roots.trustDomain)
      verifyExpected(member, expected)
      return member
    },
    (cause) => fail('ERR_CONNECT_LEAF_SERVICE', 'wrong identity', cause),
  )
  const notBefore = new Date(certificate.validFrom)
  const notAfter = new Date(certificate.validTo)
  if (notAfter.getTime() <= now)
    throw fail('ERR_CONNECT_LEAF_EXPIRED', `expired at ${notAfter.toISOString()}`)
  if (notBefore.getTime() > now) {
    throw fail(
      'ERR_CONNECT_LEAF_MALFORMED',
      `not valid before ${notBefore.toISOString()}; compare the clocks of this host and the agent`,
    )
  }
  const expiresAt = attempt(
    () => verifyPath(chain, roots.certificates, now, [CLIENT_AUTH, SERVER_AUTH]),
    (cause) => fail('ERR_CONNECT_LEAF_UNTRUSTED', 'no path to a root of the mesh', cause),
  )
  const leaf: Leaf = {
    id,
    uri: certified.uri,
    serialNumber: facts.serialNumber,
    notBefore,
    notAfter,
    expiresAt: new Date(expiresAt),
    chainPem: chain.map(String).join(''),
  }
  return { leaf, privateKeyPem: given.privateKeyPem }
}

function attempt<T>(step: () => T, wrap: (cause: unknown) => IdentityError): T {
  try {
    return step()
  } catch (cause) {
    throw wrap(cause)
  }
}

function ownsKey(certificate: X509Certificate, key: KeyObject): boolean {
  try {
    return certificate.checkPrivateKey(key)
  } catch {
    return false
  }
}
