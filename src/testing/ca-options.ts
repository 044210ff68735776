import type { KeyObject, X509Certificate } from 'node:crypto'
import type { Extension, KeyUsage } from './certificate.js'

export interface TestCaOptions {
  /** @default a random `<uuid>.consul` */
  trustDomain?: string
  /** Common name of the root. @default a name like Consul's own `pri-….consul.ca.….consul` */
  name?: string
  /** The time that certificates are made at, in milliseconds since the epoch. @default Date.now */
  clock?: () => number
  /** The root's private key, SEC1 or PKCS#8 PEM, EC P-256. @default a new one */
  privateKeyPem?: string
  /** The root's serial number; those it issues count up from here. @default 1n */
  serial?: bigint
}

/**
 * What a leaf says. Without options it is a leaf exactly as Consul issues it; each option bends one thing and
 * leaves the others alone, so that a bad certificate is bad in one way only.
 */
export interface IssueOptions {
  /** Goes into the URI and the common name. @default 'web' */
  service?: string
  /** @default 'default' */
  namespace?: string
  /** @default 'dc1' */
  datacenter?: string
  /** Trust domain in the URI. @default the CA's own */
  trustDomain?: string
  /** URI SANs, verbatim, in place of the service's. `[]` for none. */
  uris?: readonly string[]
  /** DNS SANs. @default none */
  dnsNames?: readonly string[]
  /** IPv4 SANs. @default none */
  ips?: readonly string[]
  /** Common name. @default as Consul's: `<service>.svc.<namespace>.<first 8 of the trust domain>.consul` */
  subject?: string
  /** Key usage bits; null leaves out the extension. @default Consul's four */
  keyUsage?: readonly KeyUsage[] | null
  /** `serverAuth`, `clientAuth` or an OID; null leaves out the extension. @default ['clientAuth', 'serverAuth'] */
  extendedKeyUsage?: readonly string[] | null
  /** Basic constraints' cA; null leaves out the extension. @default false */
  isCa?: boolean | null
  /** @default one minute ago */
  notBefore?: Date
  /** @default `notBefore` + 72 h */
  notAfter?: Date
  /** @default the CA's next */
  serial?: bigint
  /** @default SHA-256 of the public key; null leaves out the extension */
  subjectKeyId?: Buffer | null
  /** @default the CA's subject key id; null leaves out the extension */
  authorityKeyId?: Buffer | null
  /** Appended after the others: a second SAN extension, for example. */
  extraExtensions?: readonly Extension[]
  /** 1 makes an X.509 v1 certificate, which has no extensions at all. @default 3 */
  version?: 1 | 3
  /** Sign with the leaf's own key, the issuer being the subject. @default false */
  selfSigned?: boolean
  /** The leaf's private key. @default a new EC P-256 key */
  privateKey?: KeyObject
  /** PEM certificates that follow the leaf in `chainPem`. @default the CA's intermediates */
  intermediates?: readonly string[]
  /** Bytes appended to the certificate's DER. @default none */
  trailingBytes?: Buffer
}

export interface IssuedCertificate {
  /** The leaf alone. */
  certificatePem: string
  /** The leaf and its intermediates, without the root: what a peer presents. */
  chainPem: string
  /** SEC1 (`EC PRIVATE KEY`), as Consul's. */
  privateKeyPem: string
  certificate: X509Certificate
}
