// Only this part: the whole of node-forge takes six times as long to load.
import asn1 from 'node-forge/lib/asn1.js'
import { VerificationError } from '../base/errors.js'

/** The contents of a certificate that its identity depends on. */
export interface CertificateFacts {
  /** The URIs in the subject alternative names, in order. */
  readonly uris: readonly string[]
  readonly isCa: boolean
  /** Upper bound on CA certificates below this one; undefined for no limit. */
  readonly pathLength: number | undefined
  /** The object identifier of the signature algorithm. */
  readonly signatureAlgorithm: string
  /** The names of the set bits; undefined if the extension is absent. */
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined
  /** The object identifiers; undefined if the extension is absent. */
  readonly extendedKeyUsage: ReadonlySet<string> | undefined
  /** Lower-case hexadecimal, separated by colons, as in Consul's API. */
  readonly serialNumber: string
}

export const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'
export const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'

// RFC 5280, section 4.2.1.3, in bit order.
const KEY_USAGES = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const
type KeyUsage = (typeof KEY_USAGES)[number]

const { UNIVERSAL, CONTEXT_SPECIFIC: CONTEXT } = asn1.Class
const { BOOLEAN, INTEGER, BITSTRING, OCTETSTRING, OID, SEQUENCE } = asn1.Type

const KEY_USAGE = '2.5.29.15'
const SUBJECT_ALT_NAME = '2.5.29.17'
const BASIC_CONSTRAINTS = '2.5.29.19'
const EXTENDED_KEY_USAGE = '2.5.29.37'

// A valid certificate has at most nine levels. The bound protects the stack from a hostile one.
const MAX_DEPTH = 16
// The limit of OpenSSL for a whole chain.
const MAX_BYTES = 100 * 1024

/**
 * Parses a certificate in DER. X509Certificate of Node.js does not show all of key usage and basic constraints, and its
 * text form of the alternative names was ambiguous (CVE-2021-44532).
 *
 * This verifies nothing: OpenSSL verifies the signature, dates, and path in the handshake.
 * @throws VerificationError with ERR_CONNECT_CERTIFICATE_MALFORMED for any invalid input
 */
export function parseCertificate(der: Uint8Array): CertificateFacts {
  try {
    return readCertificate(der)
  } catch (cause) {
    throw new VerificationError(
      'ERR_CONNECT_CERTIFICATE_MALFORMED',
      'a DER-encoded X.509 v3 certificate',
      'other bytes',
      { cause },
    )
  }
}

function readCertificate(der: Uint8Array): CertificateFacts {
  if (der.byteLength > MAX_BYTES) throw new Error(`it has ${der.byteLength} bytes`)
  const [tbs, signatureAlgorithm] = sequence(
    decode(Buffer.from(der.buffer, der.byteOffset, der.byteLength).toString('latin1')),
    3,
    3,
  )
  // TBSCertificate, RFC 5280 section 4.1: version, serial, …, subject key, [1] [2] unique ids, [3] extensions.
  const fields = sequence(tbs, 7, 10)
  const version = fields[0]
  if (!isContext(version, 0) || bytes(children(version)[0], INTEGER) !== '\x02') {
    throw new Error('its version is not 3')
  }
  const serial = bytes(fields[1], INTEGER)
  if (serial === '') throw new Error('its serial number is empty')
  const extensions = readExtensions(fields.slice(7))
  return {
    uris: read(extensions, SUBJECT_ALT_NAME, readUris) ?? [],
    isCa: read(extensions, BASIC_CONSTRAINTS, readIsCa) ?? false,
    pathLength: read(extensions, BASIC_CONSTRAINTS, readPathLength),
    signatureAlgorithm: asn1.derToOid(bytes(sequence(signatureAlgorithm, 1, 2)[0], OID)),
    keyUsage: read(extensions, KEY_USAGE, readKeyUsage),
    extendedKeyUsage: read(extensions, EXTENDED_KEY_USAGE, readExtendedKeyUsage),
    // Without the sign byte, as Consul writes the number.
    serialNumber: hex(serial.replace(/^\0(?=[^])/, '')),
  }
}

/** Returns the contents of the extensions, in DER, by object identifier. */
function readExtensions(optionalFields: readonly asn1.Asn1[]): Map<string, string> {
  const extensions = new Map<string, string>()
  // [1] and [2], the unique IDs, may precede [3]; each at most once, and no other field.
  const tags = optionalFields.map((item) => [1, 2, 3].find((tag) => isContext(item, tag)) ?? 0)
  if (tags.some((tag, i) => tag <= (tags[i - 1] ?? 0))) throw new Error('a field of it is not of X.509')
  const field = optionalFields.find((item) => isContext(item, 3))
  if (field === undefined) return extensions
  const [list, ...rest] = children(field)
  if (rest.length > 0) throw new Error('its extensions are not one list')
  for (const item of sequence(list, 1, 64)) {
    const parts = sequence(item, 2, 3)
    const oid = asn1.derToOid(bytes(parts[0], OID))
    // Parsers differ in which one they use: reject both (RFC 5280, section 4.2).
    if (extensions.has(oid)) throw new Error(`it has the extension ${oid} twice`)
    if (parts.length === 3) bytes(parts[1], BOOLEAN)
    extensions.set(oid, bytes(parts.at(-1), OCTETSTRING))
  }
  return extensions
}

function read<T>(
  extensions: Map<string, string>,
  oid: string,
  parse: (value: asn1.Asn1) => T,
): T | undefined {
  const der = extensions.get(oid)
  return der === undefined ? undefined : parse(decode(der))
}

function readUris(value: asn1.Asn1): string[] {
  return (
    sequence(value, 0, 1024)
      // GeneralName: uniformResourceIdentifier is [6] IA5String.
      .filter((name) => isContext(name, 6))
      .map((name) => {
        if (name.constructed || typeof name.value !== 'string') throw new Error('a URI in it is not a string')

        if (!/^[\x00-\x7f]*$/.test(name.value)) throw new Error('a URI in it is not ASCII')
        return name.value
      })
  )
}

function readIsCa(value: asn1.Asn1): boolean {
  const first = sequence(value, 0, 2)[0]
  // An absent flag is false, also beside a path length.
  if (first === undefined || (first.tagClass === UNIVERSAL && first.type === INTEGER)) return false
  // DER encodes true as ff. Lenient parsers accept any other byte but 0 as true as well.
  return bytes(first, BOOLEAN) !== '\x00'
}

function readPathLength(value: asn1.Asn1): number | undefined {
  const length = sequence(value, 0, 2).find(
    ({ tagClass, type }) => tagClass === UNIVERSAL && type === INTEGER,
  )
  if (length === undefined) return undefined
  const content = bytes(length, INTEGER)
  if (content.length !== 1 || content.charCodeAt(0) > 0x7f)
    throw new Error('its path length is not from 0 to 127')
  return content.charCodeAt(0)
}

function readKeyUsage(value: asn1.Asn1): Set<KeyUsage> {
  const content = bytes(value, BITSTRING)
  if (content.length < 1 || content.charCodeAt(0) > 7) throw new Error('its key usage is not a bit string')
  const bits = content.slice(1)
  return new Set(KEY_USAGES.filter((_name, i) => ((bits.charCodeAt(i >> 3) || 0) & (0x80 >> (i & 7))) !== 0))
}

function readExtendedKeyUsage(value: asn1.Asn1): Set<string> {
  return new Set(sequence(value, 1, 64).map((item) => asn1.derToOid(bytes(item, OID))))
}

function decode(der: string): asn1.Asn1 {
  // parseAllBytes rejects trailing bytes.
  const options = { strict: true, parseAllBytes: true, decodeBitStrings: false, maxDepth: MAX_DEPTH }
  const item = asn1.fromDer(der, options)
  // node-forge also accepts BER and overflowing lengths. Only DER is encoded to the same bytes again.
  if (asn1.toDer(item).getBytes() !== der) throw new Error('its encoding is not DER')
  return item
}

function children(item: asn1.Asn1 | undefined): readonly asn1.Asn1[] {
  if (item === undefined || !Array.isArray(item.value)) throw new Error('a part of it has no parts')
  return item.value
}

/** Returns the parts of a SEQUENCE that has `min` to `max` of them. */
function sequence(item: asn1.Asn1 | undefined, min: number, max: number): readonly asn1.Asn1[] {
  const parts = children(item)
  if (item?.tagClass !== UNIVERSAL || item.type !== SEQUENCE || parts.length < min || parts.length > max) {
    throw new Error('a part of it is not the sequence it should be')
  }
  return parts
}

/** Whether a part has the context-specific tag `[tag]`. */
function isContext(item: asn1.Asn1 | undefined, tag: number): boolean {
  return item?.tagClass === CONTEXT && (item.type as number) === tag
}

function bytes(item: asn1.Asn1 | undefined, type: asn1.Type): string {
  if (item?.tagClass !== UNIVERSAL || item.type !== type || typeof item.value !== 'string') {
    throw new Error('a part of it has another type than it should')
  }
  return item.value
}

function hex(content: string): string {
  return Array.from(content, (char) => char.charCodeAt(0).toString(16).padStart(2, '0')).join(':')
}
