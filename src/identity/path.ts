import { type KeyObject, X509Certificate } from 'node:crypto'
import { type CertificateFacts, parseCertificate } from './certificate.js'

const MAX_PEM_BYTES = 1024 * 1024
/** Upper bound on the length of a path; that of OpenSSL is 100. */
const MAX_PATH = 16

/**
 * Parses the certificates in a PEM text, in their order. Text between them is ignored, as OpenSSL ignores it.
 * @throws Error for a certificate that cannot be parsed, or a text over 1 MiB
 */
export function parsePemCertificates(pem: string): X509Certificate[] {
  if (pem.length > MAX_PEM_BYTES) throw new Error(`PEM text is larger than ${MAX_PEM_BYTES} bytes`)
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  return blocks.map((block) => new X509Certificate(block))
}

/**
 * Verifies that a path leads from a leaf to one of the trust anchors, as OpenSSL does at a handshake: the anchors are
 * searched before the presented certificates, and only the first issuer with a matching name and key identifier is tried.
 * Needed without a handshake: for connections that were verified against other roots, and to know when a path expires.
 *
 * The rules are those of `X509_verify_cert` (OpenSSL 3.0) with partial chains allowed and security level 2.
 * @param chain - the leaf, then the certificates that came with it, in any order
 * @param anchors - trusted certificates; they need not be self-signed
 * @param now - in milliseconds since the Unix epoch
 * @param purposes - extended key usages that every issuer that restricts them must include
 * @returns when the first certificate of the path expires, in milliseconds since the Unix epoch
 * @throws Error that says why there is no valid path
 */
export function verifyPath(
  chain: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
  now: number,
  purposes: readonly string[],
): number {
  const { path, anchored } = buildPath(chain, anchors, now)
  if (!anchored) throw new Error(`no path to any of the ${anchors.length} CA roots of the mesh`)
  verifyIssuers(path, purposes)
  path.forEach((certificate, i) => {
    verifyValidity(certificate, now)
    const issuer = path[i + 1]
    if (issuer !== undefined && !isSignedBy(certificate, issuer.publicKey)) {
      throw new Error(`${describe(certificate)} is not signed by ${describe(issuer)}`)
    }
  })
  return Math.min(...path.map(({ validTo }) => Date.parse(validTo)))
}

/** Returns the path as far as issuers are found, and whether it ends at a trust anchor. */
function buildPath(
  [leaf, ...presented]: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
  now: number,
): { path: readonly X509Certificate[]; anchored: boolean } {
  const path: X509Certificate[] = leaf === undefined ? [] : [leaf]
  while (path.length > 0 && path.length <= MAX_PATH) {
    const last = path[path.length - 1] as X509Certificate
    const anchor = findIssuer(last, anchors, now)
    if (anchor !== undefined) return { path: [...path, anchor], anchored: true }
    const issuer = last.checkIssued(last) ? undefined : findIssuer(last, presented, now, path)
    if (issuer === undefined) break
    path.push(issuer)
  }
  return { path, anchored: false }
}

/** Returns the first candidate that is valid now; if there is none, the candidate that expires last. */
function findIssuer(
  subject: X509Certificate,
  candidates: readonly X509Certificate[],
  now: number,
  used: readonly X509Certificate[] = [],
): X509Certificate | undefined {
  const issuers = candidates.filter(
    (candidate) => subject.checkIssued(candidate) && !used.some(({ raw }) => raw.equals(candidate.raw)),
  )
  const expiry = ({ validTo }: X509Certificate): number => Date.parse(validTo)
  return (
    issuers.find((candidate) => isValidAt(candidate, now)) ??
    issuers.reduce<X509Certificate | undefined>(
      (best, next) => (best === undefined || expiry(next) > expiry(best) ? next : best),
      undefined,
    )
  )
}

function isValidAt({ validFrom, validTo }: X509Certificate, now: number): boolean {
  return Date.parse(validFrom) <= now && now < Date.parse(validTo)
}

function verifyValidity(certificate: X509Certificate, now: number): void {
  if (now >= Date.parse(certificate.validTo)) {
    throw new Error(`${describe(certificate)} expired at ${certificate.validTo}`)
  }
  if (now < Date.parse(certificate.validFrom)) {
    throw new Error(`${describe(certificate)} is valid only from ${certificate.validFrom}`)
  }
}

/** Verifies what each certificate of a path may be used for (RFC 5280, section 6.1.4). */
function verifyIssuers(path: readonly X509Certificate[], purposes: readonly string[]): void {
  let issuersBelow = 0
  path.forEach((certificate, i) => {
    const facts = parseCertificate(certificate.raw)
    if (!isStrongKey(certificate)) throw new Error(`${describe(certificate)} has a key that is too weak`)
    // The signature of a trust anchor itself is not verified.
    if (i < path.length - 1 && WEAK_SIGNATURES.has(facts.signatureAlgorithm)) {
      throw new Error(`${describe(certificate)} is signed with an algorithm that is too weak`)
    }
    if (i === 0) return
    verifyIssuer(certificate, facts, issuersBelow, purposes)
    if (certificate.subject !== certificate.issuer) issuersBelow += 1
  })
}

function verifyIssuer(
  certificate: X509Certificate,
  { isCa, keyUsage, extendedKeyUsage, pathLength }: CertificateFacts,
  issuersBelow: number,
  purposes: readonly string[],
): void {
  if (!isCa || keyUsage?.has('keyCertSign') === false) {
    throw new Error(`${describe(certificate)} is not a CA certificate`)
  }
  if (pathLength !== undefined && issuersBelow > pathLength) {
    throw new Error(`${describe(certificate)} allows only ${pathLength} CA certificates below it`)
  }
  if (extendedKeyUsage !== undefined && !purposes.every((purpose) => extendedKeyUsage.has(purpose))) {
    throw new Error(`${describe(certificate)} may not issue certificates for TLS clients and servers`)
  }
}

function isSignedBy(certificate: X509Certificate, key: KeyObject): boolean {
  try {
    return certificate.verify(key)
  } catch {
    // A kind of key that OpenSSL does not support.
    return false
  }
}

/** Signatures with MD2, MD5, or SHA-1: less than the 112 bits of security that level 2 requires. */
const WEAK_SIGNATURES: ReadonlySet<string> = new Set([
  '1.2.840.113549.1.1.2',
  '1.2.840.113549.1.1.4',
  '1.2.840.113549.1.1.5',
  '1.2.840.10040.4.3',
  '1.2.840.10045.4.1',
  '1.3.14.3.2.29',
])
const MIN_RSA_BITS = 2048
/** Curves of at least 224 bits, by their names in OpenSSL. */
const STRONG_CURVES: ReadonlySet<string> = new Set([
  'secp224r1',
  'prime256v1',
  'secp256k1',
  'secp384r1',
  'secp521r1',
  'brainpoolP256r1',
  'brainpoolP384r1',
  'brainpoolP512r1',
])

function isStrongKey(certificate: X509Certificate): boolean {
  let key: KeyObject
  try {
    key = certificate.publicKey
  } catch {
    return false
  }
  const { modulusLength, namedCurve } = key.asymmetricKeyDetails ?? {}
  if (modulusLength !== undefined) return modulusLength >= MIN_RSA_BITS
  return namedCurve === undefined || STRONG_CURVES.has(namedCurve)
}

/** Returns the subject of a certificate on one line, for errors. */
function describe({ subject }: X509Certificate): string {
  return JSON.stringify(subject.replaceAll('\n', ', ').slice(0, 128))
}
