import { type KeyObject, type X509Certificate, createPrivateKey } from 'node:crypto'
import type { LeafCertificate } from '../agent/endpoints/leaf.js'
import { type ErrorCode, IdentityError, withCause } from '../base/errors.js'
import { CLIENT_AUTH, SERVER_AUTH, parseCertificate } from './certificate.js'
import { parsePemCertificates, verifyPath } from './path.js'
import type { Roots } from './roots.js'
import type { ServiceId } from './spiffe.js'
import { type ExpectedIdentity, verifyExpected, verifyLeaf, verifyMember } from './verify.js'

/** A service's own certificate. The private key is not part of it. */
export interface Leaf {
  readonly id: ServiceId
  /** The SPIFFE ID as the certificate has it. */
  readonly uri: string
  /** Colon-separated hexadecimal. */
  readonly serialNumber: string
  readonly notBefore: Date
  readonly notAfter: Date
  /** When the first certificate of its path expires, the root included: from then on no peer accepts it. */
  readonly expiresAt: Date
  /** PEM of the leaf and of the intermediates that peers need. */
  readonly chainPem: string
}

/** A leaf that has been checked, with its key. */
export interface Credentials {
  readonly leaf: Leaf
  readonly privateKeyPem: string
}

const MAX_CHAIN = 16

/**
 * Checks what the agent gave: it parses, it is a leaf, its key is its own, it names us, it is valid now, and it
 * chains to a root of the mesh.
 * @throws IdentityError
 */
export function checkLeaf(
  given: LeafCertificate,
  expected: ExpectedIdentity,
  roots: Roots,
  now: number,
): Credentials {
  const fail = (code: ErrorCode, problem: string, cause?: unknown): IdentityError =>
    new IdentityError(code, `the agent's certificate for ${expected.service} ${problem}${withCause(cause)}`, {
      cause,
    })

  const chain = attempt(
    () => parsePemCertificates(given.chainPem),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'cannot be parsed', cause),
  )
  const [certificate] = chain
  if (certificate === undefined || chain.length > MAX_CHAIN) {
    throw fail(
      'ERR_CONNECT_LEAF_MALFORMED',
      `comes as a chain of ${chain.length}, where 1 to ${MAX_CHAIN} are expected`,
    )
  }
  const key = attempt(
    () => createPrivateKey(given.privateKeyPem),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'has a key that cannot be parsed', cause),
  )
  const facts = attempt(
    () => parseCertificate(certificate.raw),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'cannot be parsed', cause),
  )
  const certified = attempt(
    () => verifyLeaf(facts),
    (cause) => fail('ERR_CONNECT_LEAF_MALFORMED', 'is not a leaf', cause),
  )
  if (!ownsKey(certificate, key))
    throw fail('ERR_CONNECT_LEAF_KEY', 'does not belong to the key that came with it')
  const id = attempt(
    () => {
      const member = verifyMember(certified, roots.trustDomain)
      verifyExpected(member, expected)
      return member
    },
    (cause) => fail('ERR_CONNECT_LEAF_SERVICE', 'names somebody else', cause),
  )
  const notBefore = new Date(certificate.validFrom)
  const notAfter = new Date(certificate.validTo)
  if (notAfter.getTime() <= now)
    throw fail('ERR_CONNECT_LEAF_EXPIRED', `expired at ${notAfter.toISOString()}`)
  if (notBefore.getTime() > now) {
    throw fail(
      'ERR_CONNECT_LEAF_MALFORMED',
      `is valid only from ${notBefore.toISOString()}; compare the clocks of this machine and of the agent`,
    )
  }
  const expiresAt = attempt(
    () => verifyPath(chain, roots.certificates, now, [CLIENT_AUTH, SERVER_AUTH]),
    (cause) => fail('ERR_CONNECT_LEAF_UNTRUSTED', 'is not trusted in the mesh', cause),
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
