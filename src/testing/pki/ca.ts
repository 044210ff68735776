import {
  createPrivateKey,
  generateKeyPairSync,
  randomBytes,
  randomUUID,
  X509Certificate,
  type KeyObject,
} from 'node:crypto'
import type { IssuedCertificate, IssueOptions, TestCaOptions } from './ca-options.js'
import { certificatePem, keyId, signCertificate } from './certificate.js'
import { extension, type Extension } from './extension.js'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

/** The owner of a key. */
interface Party {
  readonly name: string
  readonly key: KeyObject
}

interface CaParts extends Party {
  readonly trustDomain: string
  readonly der: Buffer
  readonly clock: () => number
  readonly nextSerial: bigint
  readonly parent?: TestCa
}

/**
 * A certificate authority for tests. Its certificates (EC P-256) have the form of those of Consul's built-in CA.
 * @example
 * ```ts
 * const ca = TestCa.create()
 * const { certificatePem, privateKeyPem } = ca.issue({ service: 'web', notAfter: new Date(Date.now() - 1_000) })
 * console.log(certificatePem.length, privateKeyPem.length)
 * ```
 */
export class TestCa {
  readonly trustDomain: string
  /** The certificate of the key that signs: of the root, or of an intermediate CA. */
  readonly certificatePem: string
  readonly certificate: X509Certificate
  /** The root of the chain: what a verifier trusts. */
  readonly rootPem: string
  readonly root: X509Certificate
  /** PEM certificates from this CA up to the root, without the root. Empty for a root. */
  readonly intermediates: readonly string[]
  /** The subject key ID of the certificate. */
  readonly keyId: Buffer
  readonly #party: Party
  readonly #clock: () => number
  #nextSerial: bigint

  private constructor({ trustDomain, der, clock, nextSerial, parent, ...party }: CaParts) {
    this.trustDomain = trustDomain
    this.certificatePem = certificatePem(der)
    this.certificate = new X509Certificate(der)
    this.rootPem = parent?.rootPem ?? this.certificatePem
    this.root = parent?.root ?? this.certificate
    this.intermediates = parent ? [this.certificatePem, ...parent.intermediates] : []
    this.keyId = keyId(party.key)
    this.#party = party
    this.#clock = clock
    this.#nextSerial = nextSerial
  }

  /** Creates a root CA, whose certificate is valid for ten years. */
  static create(options: TestCaOptions = {}): TestCa {
    const { trustDomain = `${randomUUID()}.consul`, clock = Date.now, serial = 1n } = options
    const key = options.privateKeyPem === undefined ? newKey() : createPrivateKey(options.privateKeyPem)
    const root = { name: options.name ?? caName(trustDomain), key }
    const lifetime = { notBefore: clock(), ttlMs: 3650 * DAY_MS }
    const der = signCa(root, root, { trustDomain, serial, ...lifetime })
    return new TestCa({ ...root, trustDomain, der, clock, nextSerial: serial + 1n })
  }

  /** The private key, SEC1 PEM. */
  get privateKeyPem(): string {
    return privateKeyPem(this.#party.key)
  }

  /** The serial number of the next certificate. */
  get nextSerial(): bigint {
    return this.#nextSerial
  }

  /** Creates an intermediate CA under this CA. */
  intermediate(): TestCa {
    const { trustDomain } = this
    const party = { name: caName(trustDomain), key: newKey() }
    const der = this.#signCa(party, trustDomain)
    return new TestCa({ ...party, trustDomain, der, clock: this.#clock, nextSerial: 1n, parent: this })
  }

  /**
   * Signs the name and the key of another CA. With the result as an intermediate, verifiers that trust this root accept
   * the leaves of the other CA. Valid for seven days, as in Consul.
   * @returns the certificate in PEM
   */
  crossSign(other: TestCa): string {
    return certificatePem(this.#signCa(other.#party, other.trustDomain))
  }

  /** Issues a certificate with its key. By default, it has the form of a leaf of Consul. */
  issue(options: IssueOptions = {}): IssuedCertificate {
    const { service = 'web', namespace = 'default', datacenter = 'dc1' } = options
    const { trustDomain = this.trustDomain, privateKey: key = newKey() } = options
    const uri = serviceUri(trustDomain, datacenter, service, namespace)
    const subject = options.subject ?? leafName(service, namespace, this.trustDomain)
    const notBefore = options.notBefore ?? new Date(this.#clock() - MINUTE_MS)
    const issuer = options.selfSigned ? { name: subject, key } : this.#party
    const der = signCertificate(
      {
        version: options.version ?? 3,
        serial: options.serial ?? this.#nextSerial++,
        issuer: issuer.name,
        subject,
        notBefore,
        notAfter: options.notAfter ?? new Date(notBefore.getTime() + 72 * HOUR_MS),
        subjectKey: key,
        extensions: leafExtensions(options, uri, keyId(key), keyId(issuer.key)),
      },
      issuer.key,
    )
    const pem = certificatePem(der)
    return {
      certificatePem: pem,
      chainPem: [pem, ...(options.intermediates ?? this.intermediates)].join(''),
      privateKeyPem: privateKeyPem(key),
      certificate: new X509Certificate(der),
    }
  }

  #signCa(subject: Party, trustDomain: string): Buffer {
    const lifetime = { notBefore: this.#clock() - MINUTE_MS, ttlMs: 7 * DAY_MS }
    return signCa(subject, this.#party, { trustDomain, serial: this.#nextSerial++, ...lifetime })
  }
}

/** Returns the SPIFFE ID of a service. Does not validate its parts. */
export function serviceUri(
  trustDomain: string,
  datacenter: string,
  service: string,
  namespace = 'default',
): string {
  return `spiffe://${trustDomain}/ns/${namespace}/dc/${datacenter}/svc/${encodeURIComponent(service)}`
}

function signCa(
  subject: Party,
  issuer: Party,
  fields: { trustDomain: string; serial: bigint; notBefore: number; ttlMs: number },
): Buffer {
  const certificate = {
    version: 3,
    serial: fields.serial,
    issuer: issuer.name,
    subject: subject.name,
    notBefore: new Date(fields.notBefore),
    notAfter: new Date(fields.notBefore + fields.ttlMs),
    subjectKey: subject.key,
    extensions: [
      extension.keyUsage(['digitalSignature', 'keyCertSign', 'cRLSign']),
      extension.basicConstraints(true),
      extension.subjectKeyIdentifier(keyId(subject.key)),
      extension.authorityKeyIdentifier(keyId(issuer.key)),
      extension.subjectAltName({ uris: [`spiffe://${fields.trustDomain}`] }),
    ],
  } as const
  return signCertificate(certificate, issuer.key)
}

function leafExtensions(
  options: IssueOptions,
  uri: string,
  ownKeyId: Buffer,
  issuerKeyId: Buffer,
): Extension[] {
  const {
    keyUsage = ['digitalSignature', 'keyEncipherment', 'dataEncipherment', 'keyAgreement'],
    extendedKeyUsage = ['clientAuth', 'serverAuth'],
    isCa = false,
    subjectKeyId = ownKeyId,
    authorityKeyId = issuerKeyId,
    uris = [uri],
    dnsNames = [],
    ips = [],
    extraExtensions = [],
  } = options
  // OpenSSL rejects an empty list of names.
  const hasNames = uris.length + dnsNames.length + ips.length > 0
  const extensions = [
    keyUsage && extension.keyUsage(keyUsage),
    extendedKeyUsage && extension.extendedKeyUsage(extendedKeyUsage),
    isCa === null ? null : extension.basicConstraints(isCa),
    subjectKeyId && extension.subjectKeyIdentifier(subjectKeyId),
    authorityKeyId && extension.authorityKeyIdentifier(authorityKeyId),
    hasNames ? extension.subjectAltName({ uris, dnsNames, ips }) : null,
    ...extraExtensions,
  ]
  return extensions.filter((each) => each !== null)
}

function caName(trustDomain: string): string {
  return `pri-${randomBytes(4).toString('hex')}.consul.ca.${trustDomain.slice(0, 8)}.consul`
}

/** Returns the common name of a leaf. Consul removes characters that DNS does not allow; X.509 allows 64 characters. */
function leafName(service: string, namespace: string, trustDomain: string): string {
  const plain = (label: string): string => label.toLowerCase().replace(/[^a-z0-9]/g, '')
  const suffix = `.svc.${plain(namespace)}.${trustDomain.slice(0, 8)}.consul`
  return plain(service).slice(0, Math.max(0, 64 - suffix.length)) + suffix
}

function newKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

function privateKeyPem(key: KeyObject): string {
  return key.export({ type: key.asymmetricKeyType === 'ec' ? 'sec1' : 'pkcs8', format: 'pem' }).toString()
}
