import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  randomUUID,
  X509Certificate,
  type KeyObject,
} from 'node:crypto'
import type { IssuedCertificate, IssueOptions, TestCaOptions } from './ca-options.js'
import { certificatePem, extension, keyId, signCertificate, type Extension } from './certificate.js'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

interface CaMaterial {
  trustDomain: string
  subject: string
  key: KeyObject
  der: Buffer
  clock: () => number
  nextSerial: bigint
  parent?: TestCa
}

/**
 * A certificate authority for tests: EC P-256, the same shapes as Consul's built-in CA.
 * @example
 * ```ts
 * const ca = TestCa.create()
 * const { certificatePem, privateKeyPem } = ca.issue({ service: 'web', notAfter: new Date(Date.now() - 1_000) })
 * console.log(certificatePem.length, privateKeyPem.length)
 * ```
 */
export class TestCa {
  readonly trustDomain: string
  /** The certificate whose key signs: the root's, or that of an intermediate CA. */
  readonly certificatePem: string
  readonly certificate: X509Certificate
  /** The root at the top: what a verifier trusts. */
  readonly rootPem: string
  readonly root: X509Certificate
  /** This CA's certificate and those above it, without the root: empty for a root. */
  readonly intermediates: readonly string[]
  readonly keyId: Buffer
  readonly #subject: string
  readonly #key: KeyObject
  readonly #clock: () => number
  #nextSerial: bigint

  private constructor(material: CaMaterial) {
    this.trustDomain = material.trustDomain
    this.certificatePem = certificatePem(material.der)
    this.certificate = new X509Certificate(material.der)
    this.rootPem = material.parent?.rootPem ?? this.certificatePem
    this.root = material.parent?.root ?? this.certificate
    this.intermediates = material.parent ? [this.certificatePem, ...material.parent.intermediates] : []
    this.keyId = keyId(createPublicKey(material.key))
    this.#subject = material.subject
    this.#key = material.key
    this.#clock = material.clock
    this.#nextSerial = material.nextSerial
  }

  /** A root CA. */
  static create(options: TestCaOptions = {}): TestCa {
    const trustDomain = options.trustDomain ?? `${randomUUID()}.consul`
    const subject = options.name ?? caName(trustDomain)
    const key = options.privateKeyPem ? createPrivateKey(options.privateKeyPem) : newKey()
    const clock = options.clock ?? Date.now
    const serial = options.serial ?? 1n
    const publicKey = createPublicKey(key)
    const notBefore = new Date(clock())
    const der = signCertificate(
      {
        version: 3,
        serial,
        issuer: subject,
        subject,
        notBefore,
        notAfter: new Date(notBefore.getTime() + 3650 * day),
        publicKey,
        extensions: caExtensions(trustDomain, keyId(publicKey), keyId(publicKey)),
      },
      key,
    )
    return new TestCa({ trustDomain, subject, key, der, clock, nextSerial: serial + 1n })
  }

  /** The private key, SEC1 PEM. */
  get privateKeyPem(): string {
    return sec1(this.#key)
  }

  /** The serial number that the next certificate gets. */
  get nextSerial(): bigint {
    return this.#nextSerial
  }

  /** An intermediate CA under this one. */
  intermediate(options: { name?: string } = {}): TestCa {
    const key = newKey()
    const subject = options.name ?? caName(this.trustDomain)
    const der = this.#signCa(subject, createPublicKey(key), this.trustDomain)
    return new TestCa({
      trustDomain: this.trustDomain,
      subject,
      key,
      der,
      clock: this.#clock,
      nextSerial: 1n,
      parent: this,
    })
  }

  /**
   * The other CA's name and key, signed by this CA: the certificate that lets those who trust only this root
   * verify what the other one issues. Lives seven days, as Consul's.
   */
  crossSign(other: TestCa): string {
    return certificatePem(this.#signCa(other.#subject, createPublicKey(other.#key), other.trustDomain))
  }

  /** A certificate and its key; the defaults make a leaf exactly like one of Consul's. */
  issue(options: IssueOptions = {}): IssuedCertificate {
    const service = options.service ?? 'web'
    const namespace = options.namespace ?? 'default'
    const trustDomain = options.trustDomain ?? this.trustDomain
    const uri = `spiffe://${trustDomain}/ns/${namespace}/dc/${options.datacenter ?? 'dc1'}/svc/${encodeURIComponent(service)}`
    const subject = options.subject ?? leafName(service, namespace, this.trustDomain)
    const notBefore = options.notBefore ?? new Date(this.#clock() - minute)
    const key = options.privateKey ?? newKey()
    const publicKey = createPublicKey(key)
    const signer = options.selfSigned ? { subject, key } : { subject: this.#subject, key: this.#key }
    const der = signCertificate(
      {
        version: options.version ?? 3,
        serial: options.serial ?? this.#nextSerial++,
        issuer: signer.subject,
        subject,
        notBefore,
        notAfter: options.notAfter ?? new Date(notBefore.getTime() + 72 * hour),
        publicKey,
        extensions: leafExtensions(options, uri, keyId(publicKey), keyId(createPublicKey(signer.key))),
      },
      signer.key,
    )
    const pem = certificatePem(options.trailingBytes ? Buffer.concat([der, options.trailingBytes]) : der)
    return {
      certificatePem: pem,
      chainPem: [pem, ...(options.intermediates ?? this.intermediates)].join(''),
      privateKeyPem: sec1(key),
      certificate: new X509Certificate(der),
    }
  }

  #signCa(subject: string, publicKey: KeyObject, trustDomain: string): Buffer {
    const notBefore = new Date(this.#clock() - minute)
    return signCertificate(
      {
        version: 3,
        serial: this.#nextSerial++,
        issuer: this.#subject,
        subject,
        notBefore,
        notAfter: new Date(notBefore.getTime() + 7 * day),
        publicKey,
        extensions: caExtensions(trustDomain, keyId(publicKey), this.keyId),
      },
      this.#key,
    )
  }
}

function caExtensions(trustDomain: string, subjectKeyId: Buffer, authorityKeyId: Buffer): Extension[] {
  return [
    extension.keyUsage(['digitalSignature', 'keyCertSign', 'cRLSign']),
    extension.basicConstraints(true),
    extension.subjectKeyIdentifier(subjectKeyId),
    extension.authorityKeyIdentifier(authorityKeyId),
    extension.subjectAltName({ uris: [`spiffe://${trustDomain}`] }),
  ]
}

function leafExtensions(
  options: IssueOptions,
  uri: string,
  ownKeyId: Buffer,
  signerKeyId: Buffer,
): Extension[] {
  const {
    keyUsage = ['digitalSignature', 'keyEncipherment', 'dataEncipherment', 'keyAgreement'],
    extendedKeyUsage = ['clientAuth', 'serverAuth'],
    isCa = false,
    subjectKeyId = ownKeyId,
    authorityKeyId = signerKeyId,
    uris = [uri],
    dnsNames = [],
    ips = [],
    extraExtensions = [],
  } = options
  const extensions: Extension[] = []
  if (keyUsage) extensions.push(extension.keyUsage(keyUsage))
  if (extendedKeyUsage) extensions.push(extension.extendedKeyUsage(extendedKeyUsage))
  if (isCa !== null) extensions.push(extension.basicConstraints(isCa))
  if (subjectKeyId) extensions.push(extension.subjectKeyIdentifier(subjectKeyId))
  if (authorityKeyId) extensions.push(extension.authorityKeyIdentifier(authorityKeyId))
  // An empty SAN sequence is not DER that OpenSSL takes: no names, no extension.
  if (uris.length + dnsNames.length + ips.length > 0) {
    extensions.push(extension.subjectAltName({ uris, dnsNames, ips }))
  }
  return [...extensions, ...extraExtensions]
}

function caName(trustDomain: string): string {
  return `pri-${randomBytes(4).toString('hex')}.consul.ca.${trustDomain.slice(0, 8)}.consul`
}

/** Consul drops what DNS does not allow and cuts at X.509's 64 characters. */
function leafName(service: string, namespace: string, trustDomain: string): string {
  const plain = (label: string): string => label.toLowerCase().replace(/[^a-z0-9]/g, '')
  const suffix = `.svc.${plain(namespace)}.${trustDomain.slice(0, 8)}.consul`
  return plain(service).slice(0, Math.max(0, 64 - suffix.length)) + suffix
}

function newKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

function sec1(key: KeyObject): string {
  return key.export({ type: key.asymmetricKeyType === 'ec' ? 'sec1' : 'pkcs8', format: 'pem' }).toString()
}
