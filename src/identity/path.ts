import { X509Certificate } from 'node:crypto'

/** The certificates in a PEM, in their order. */
export function parseChain(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  return blocks.map((block) => new X509Certificate(block))
}

/**
 * Whether a path leads from a leaf over its intermediates to a root, all of them valid at `now`. For what OpenSSL does
 * not judge: what we are about to present, so that a bad rotation is noticed here and not by every peer, and
 * connections that were made under other roots.
 */
export function chainsTo(
  leaf: X509Certificate,
  intermediates: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  now: number,
): boolean {
  const reached = [leaf]
  // The loop sees what is pushed while it runs; each certificate is pushed once at most.
  for (const current of reached) {
    if (roots.some((root) => issued(root, current, now))) return true
    reached.push(...intermediates.filter((next) => !reached.includes(next) && issued(next, current, now)))
  }
  return false
}

function issued(issuer: X509Certificate, subject: X509Certificate, now: number): boolean {
  if (!issuer.ca || new Date(issuer.validTo).getTime() <= now || new Date(issuer.validFrom).getTime() > now)
    return false
  try {
    return subject.checkIssued(issuer) && subject.verify(issuer.publicKey)
  } catch {
    // A key of a kind that OpenSSL does not know.
    return false
  }
}
