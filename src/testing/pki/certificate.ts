import { createHash, createPublicKey, sign, type KeyObject } from 'node:crypto'
import forge from 'node-forge'
import type { Extension } from './extension.js'

const { asn1 } = forge
const { Class, Type } = asn1

const OID = { commonName: '2.5.4.3', ecdsaWithSha256: '1.2.840.10045.4.3.2' }

interface CertificateFields {
  /** Version 1 has no extensions. */
  readonly version: 1 | 3
  readonly serial: bigint
  /** Common name, like `subject`. */
  readonly issuer: string
  readonly subject: string
  readonly notBefore: Date
  readonly notAfter: Date
  /** The private key, like `issuerKey`. */
  readonly subjectKey: KeyObject
  readonly extensions: readonly Extension[]
}

/**
 * Creates a certificate and signs it with an EC key, by ecdsa-with-SHA256 like the CA of Consul. Builds the certificate
 * from ASN.1 values, since node-forge signs with RSA only.
 * @returns the certificate in DER
 */
export function signCertificate(fields: CertificateFields, issuerKey: KeyObject): Buffer {
  const isVersion3 = fields.version === 3
  const algorithm = sequence(oid(OID.ecdsaWithSha256))
  const body = sequence(
    ...(isVersion3 ? [explicit(0, integer(2n))] : []),
    integer(fields.serial),
    algorithm,
    commonName(fields.issuer),
    sequence(time(fields.notBefore), time(fields.notAfter)),
    commonName(fields.subject),
    asn1.fromDer(publicKeyDer(fields.subjectKey).toString('latin1')),
    ...(isVersion3 ? [explicit(3, sequence(...fields.extensions.map(extensionValue)))] : []),
  )
  const signature = sign('sha256', der(body), issuerKey)
  // The first byte of a BIT STRING is the number of unused bits.
  const signatureBits = primitive(Type.BITSTRING, `\0${signature.toString('latin1')}`)
  return der(sequence(body, algorithm, signatureBits))
}

/** Returns the key ID as Consul computes it: SHA-256 of the SubjectPublicKeyInfo, unlike RFC 5280. */
export function keyId(privateKey: KeyObject): Buffer {
  return createHash('sha256').update(publicKeyDer(privateKey)).digest()
}

export function certificatePem(certificate: Buffer): string {
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

function publicKeyDer(privateKey: KeyObject): Buffer {
  return createPublicKey(privateKey).export({ type: 'spki', format: 'der' })
}

function extensionValue({ oid: id, critical, value }: Extension): forge.asn1.Asn1 {
  const flag = critical ? [primitive(Type.BOOLEAN, '\xff')] : []
  return sequence(oid(id), ...flag, primitive(Type.OCTETSTRING, value.toString('latin1')))
}

function commonName(name: string): forge.asn1.Asn1 {
  // The choice of Go, and so of Consul.
  const isPrintable = /^[A-Za-z0-9 '()+,\-./:=?]*$/.test(name)
  const value = primitive(isPrintable ? Type.PRINTABLESTRING : Type.UTF8, forge.util.encodeUtf8(name))
  const attribute = sequence(oid(OID.commonName), value)
  return sequence(asn1.create(Class.UNIVERSAL, Type.SET, true, [attribute]))
}

/** Creates a UTCTime through 2049, and a GeneralizedTime from 2050 on (RFC 5280, 4.1.2.5). */
function time(date: Date): forge.asn1.Asn1 {
  return date.getUTCFullYear() < 2050
    ? primitive(Type.UTCTIME, asn1.dateToUtcTime(date))
    : primitive(Type.GENERALIZEDTIME, asn1.dateToGeneralizedTime(date))
}

/** Creates a positive INTEGER. A leading zero byte keeps a number with the highest bit positive. */
function integer(value: bigint): forge.asn1.Asn1 {
  const hex = value.toString(16)
  const padded = hex.length % 2 === 1 ? `0${hex}` : /^[89a-f]/.test(hex) ? `00${hex}` : hex
  return primitive(Type.INTEGER, forge.util.hexToBytes(padded))
}

function oid(value: string): forge.asn1.Asn1 {
  return primitive(Type.OID, asn1.oidToDer(value).getBytes())
}

function sequence(...values: forge.asn1.Asn1[]): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, values)
}

function primitive(type: forge.asn1.Type, bytes: string): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, type, false, bytes)
}

/** Wraps a value in an explicit context-specific tag. */
function explicit(tag: number, value: forge.asn1.Asn1): forge.asn1.Asn1 {
  // The types of node-forge allow only universal tags here.
  // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
  return asn1.create(Class.CONTEXT_SPECIFIC, tag, true, [value])
}

function der(value: forge.asn1.Asn1): Buffer {
  return Buffer.from(asn1.toDer(value).getBytes(), 'latin1')
}
