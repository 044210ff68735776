import type { KeyObject, X509Certificate } from 'node:crypto'
import type { Extension, KeyUsage } from './extension.js'

export interface TestCaOptions {
  /** @default a random `<uuid>.consul` */
  trustDomain?: string
  /** Common name of the root. @default a name like `pri-1a2b3c4d.consul.ca.<trust domain>.consul`, as in Consul */
  name?: string
  /** Current time for the validity of certificates, in milliseconds since the epoch. @default Date.now */
  clock?: () => number
  /** Private key of the root: EC P-256, SEC1 or PKCS#8 PEM. @default a new key */
  privateKeyPem?: string
  /** Serial number of the root. Issued certificates have the following numbers. @default 1n */
  serial?: bigint
}

/**
 * The contents of a leaf certificate. Without options, it is a leaf as Consul issues it. Each option changes one part, so
 * that a test certificate is invalid for one reason.
 */
export interface IssueOptions {
  /** Service in the URI and in the common name. @default 'web' */
  service?: string
  /** @default 'default' */
  namespace?: string
  /** @default 'dc1' */
  datacenter?: string
  /** Trust domain in the URI. @default the trust domain of the CA */
  trustDomain?: string
  /** URI SANs in place of the URI of the service, unchanged; `[]` for none. */
  uris?: readonly string[]
  /** DNS SANs. @default none */
  dnsNames?: readonly string[]
  /** IPv4 SANs. @default none */
  ips?: readonly string[]
  /** Common name. @default `<service>.svc.<namespace>.<first 8 characters of the trust domain>.consul`, as in Consul */
  subject?: string
  /** Key usage bits; null leaves out the extension. @default the four bits of Consul */
  keyUsage?: readonly KeyUsage[] | null
  /** `serverAuth`, `clientAuth`, or OIDs; null leaves out the extension. @default ['clientAuth', 'serverAuth'] */
  extendedKeyUsage?: readonly string[] | null
  /** `cA` of the basic constraints; null leaves out the extension. @default false */
  isCa?: boolean | null
  /** @default one minute ago */
  notBefore?: Date
  /** @default 72 hours after `notBefore` */
  notAfter?: Date
  /** @default the next serial number of the CA */
  serial?: bigint
  /** Null leaves out the extension. @default SHA-256 of the public key */
  subjectKeyId?: Buffer | null
  /** Null leaves out the extension. @default the subject key ID of the CA */
  authorityKeyId?: Buffer | null
  /** Extensions after the others, for example a second SAN extension. */
  extraExtensions?: readonly Extension[]
  /** X.509 version. Version 1 has no extensions. @default 3 */
  version?: 1 | 3
  /** Sign with the key of the leaf, with the subject as issuer. @default false */
  selfSigned?: boolean
  /** Private key of the leaf. @default a new EC P-256 key */
  privateKey?: KeyObject
  /** PEM certificates after the leaf in `chainPem`. @default the intermediates of the CA */
  intermediates?: readonly string[]
}

export interface IssuedCertificate {
  /** The leaf. */
  certificatePem: string
  /** The leaf and its intermediates, without the root: what a peer presents. */
  chainPem: string
  /** SEC1 (`EC PRIVATE KEY`), as in Consul. */
  privateKeyPem: string
  certificate: X509Certificate
}
