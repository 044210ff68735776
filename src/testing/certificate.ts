import { createHash, sign, type KeyObject } from 'node:crypto'
import { isIP } from 'node:net'
import forge from 'node-forge'

const { asn1 } = forge
const { Type, Class } = asn1

/** The bits of the key usage extension, in order (RFC 5280, 4.2.1.3). */
export type KeyUsage =
  | 'digitalSignature'
  | 'nonRepudiation'
  | 'keyEncipherment'
  | 'dataEncipherment'
  | 'keyAgreement'
  | 'keyCertSign'
  | 'cRLSign'
  | 'encipherOnly'
  | 'decipherOnly'

/** In the order of their bits. */
const keyUsageBits: readonly KeyUsage[] = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
]

const extendedKeyUsageOids: Record<string, string> = {
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
  codeSigning: '1.3.6.1.5.5.7.3.3',
}

const oids = {
  commonName: '2.5.4.3',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
}

/** One X.509 extension: its value is the DER inside the OCTET STRING. */
export interface Extension {
  oid: string
  critical?: boolean
  value: Buffer
}

interface CertificateFields {
  /** 1 leaves out the version field and all extensions. */
  version: 1 | 3
  serial: bigint
  issuer: string
  subject: string
  notBefore: Date
  notAfter: Date
  publicKey: KeyObject
  extensions: Extension[]
}

/** Builds a certificate and signs it with an EC key: ecdsa-with-SHA256, as Consul's own CA does. */
export function signCertificate(fields: CertificateFields, issuerKey: KeyObject): Buffer {
  const algorithm = sequence([oid(oids.ecdsaWithSha256)])
  const version = contextSpecific(0, [integer(2n)])
  const extensions = contextSpecific(3, [sequence(fields.extensions.map(extensionValue))])
  const tbs = sequence([
    ...(fields.version === 3 ? [version] : []),
    integer(fields.serial),
    algorithm,
    commonName(fields.issuer),
    sequence([time(fields.notBefore), time(fields.notAfter)]),
    commonName(fields.subject),
    asn1.fromDer(binary(publicKeyDer(fields.publicKey))),
    ...(fields.version === 3 ? [extensions] : []),
  ])
  const signature = sign('sha256', der(tbs), issuerKey)
  return der(sequence([tbs, algorithm, bitString(0, signature)]))
}

export const extension = {
  keyUsage(usages: readonly KeyUsage[]): Extension {
    const set = keyUsageBits.map((name) => usages.includes(name))
    const last = set.lastIndexOf(true)
    const bytes = Buffer.alloc(Math.ceil((last + 1) / 8))
    set.forEach((on, bit) => {
      const index = bit >> 3
      if (on) bytes[index] = (bytes[index] ?? 0) | (0x80 >> (bit & 7))
    })
    return {
      oid: oids.keyUsage,
      critical: true,
      value: der(bitString((8 - ((last + 1) % 8)) % 8, bytes)),
    }
  },

  /** Takes `serverAuth`, `clientAuth`, `codeSigning` or a dotted OID. */
  extendedKeyUsage(usages: readonly string[]): Extension {
    const values = usages.map((usage) => oid(extendedKeyUsageOids[usage] ?? usage))
    return { oid: oids.extendedKeyUsage, value: der(sequence(values)) }
  },

  basicConstraints(isCa: boolean): Extension {
    // DER leaves out FALSE: it is the default.
    return {
      oid: oids.basicConstraints,
      critical: true,
      value: der(sequence(isCa ? [primitive(Type.BOOLEAN, '\xff')] : [])),
    }
  },

  subjectKeyIdentifier(id: Buffer): Extension {
    return { oid: oids.subjectKeyIdentifier, value: der(primitive(Type.OCTETSTRING, binary(id))) }
  },

  authorityKeyIdentifier(id: Buffer): Extension {
    return { oid: oids.authorityKeyIdentifier, value: der(sequence([contextSpecific(0, binary(id))])) }
  },

  subjectAltName(names: {
    uris?: readonly string[]
    dnsNames?: readonly string[]
    ips?: readonly string[]
  }): Extension {
    return {
      oid: oids.subjectAltName,
      value: der(
        sequence([
          ...(names.dnsNames ?? []).map((name) => contextSpecific(2, forge.util.encodeUtf8(name))),
          ...(names.uris ?? []).map((uri) => contextSpecific(6, forge.util.encodeUtf8(uri))),
          ...(names.ips ?? []).map((ip) => contextSpecific(7, ipBytes(ip))),
        ]),
      ),
    }
  },
}

/** Consul's key id: SHA-256 over the whole SubjectPublicKeyInfo, not RFC 5280's SHA-1 over the bits. */
export function keyId(publicKey: KeyObject): Buffer {
  return createHash('sha256').update(publicKeyDer(publicKey)).digest()
}

export function certificatePem(certificate: Buffer): string {
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

function publicKeyDer(key: KeyObject): Buffer {
  return key.export({ type: 'spki', format: 'der' })
}

function extensionValue({ oid: id, critical, value }: Extension): forge.asn1.Asn1 {
  return sequence([
    oid(id),
    ...(critical ? [primitive(Type.BOOLEAN, '\xff')] : []),
    primitive(Type.OCTETSTRING, binary(value)),
  ])
}

function commonName(name: string): forge.asn1.Asn1 {
  // Go's choice, and so Consul's.
  const type = /^[A-Za-z0-9 '()+,\-./:=?]*$/.test(name) ? Type.PRINTABLESTRING : Type.UTF8
  const value = primitive(type, forge.util.encodeUtf8(name))
  const attribute = sequence([oid(oids.commonName), value])
  return sequence([asn1.create(Class.UNIVERSAL, Type.SET, true, [attribute])])
}

function time(date: Date): forge.asn1.Asn1 {
  // RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 on.
  return date.getUTCFullYear() < 2050
    ? primitive(Type.UTCTIME, asn1.dateToUtcTime(date))
    : primitive(Type.GENERALIZEDTIME, asn1.dateToGeneralizedTime(date))
}

function integer(value: bigint): forge.asn1.Asn1 {
  let hex = value.toString(16)
  if (hex.length % 2 === 1) hex = `0${hex}`
  // A set top bit would make it negative.
  if (parseInt(hex.slice(0, 2), 16) > 0x7f) hex = `00${hex}`
  return primitive(Type.INTEGER, forge.util.hexToBytes(hex))
}

function bitString(unusedBits: number, bytes: Buffer): forge.asn1.Asn1 {
  return primitive(Type.BITSTRING, String.fromCharCode(unusedBits) + binary(bytes))
}

function oid(value: string): forge.asn1.Asn1 {
  return primitive(Type.OID, asn1.oidToDer(value).getBytes())
}

function sequence(values: forge.asn1.Asn1[]): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, values)
}

function primitive(type: forge.asn1.Type, bytes: string): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, type, false, bytes)
}

function contextSpecific(tag: number, value: string | forge.asn1.Asn1[]): forge.asn1.Asn1 {
  // The types of node-forge allow universal tags only, but context-specific ones are plain numbers.
  // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
  return asn1.create(Class.CONTEXT_SPECIFIC, tag, typeof value !== 'string', value)
}

function der(value: forge.asn1.Asn1): Buffer {
  return Buffer.from(asn1.toDer(value).getBytes(), 'latin1')
}

function binary(bytes: Buffer): string {
  return bytes.toString('latin1')
}

function ipBytes(ip: string): string {
  if (isIP(ip) !== 4) throw new TypeError(`not an IPv4 address: ${ip}`)
  return String.fromCharCode(...ip.split('.').map(Number))
}
