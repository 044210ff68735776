import forge from 'node-forge'

const { asn1 } = forge

/** What a PEM's DER is made of: types, OIDs and flags, but not the values that differ from one to the next. */
export function asn1Structure(pem: string): string {
  return outline(asn1.fromDer(forge.pem.decode(pem)[0]?.body ?? ''))
}

function outline(node: forge.asn1.Asn1): string {
  const type = `${node.tagClass >> 6}.${node.type}`
  // forge looks into bit strings, and takes one public key in 256 for more DER.
  if (node.type === asn1.Type.BITSTRING && node.tagClass === asn1.Class.UNIVERSAL) return type
  if (Array.isArray(node.value)) return `${type}(${node.value.map(outline).join(' ')})`
  if (node.tagClass !== asn1.Class.UNIVERSAL) return type
  if (node.type === asn1.Type.OID) return asn1.derToOid(node.value)
  if (node.type === asn1.Type.BOOLEAN) return `${type}=${forge.util.bytesToHex(node.value)}`
  return node.type === asn1.Type.OCTETSTRING ? `${type}[${inner(node.value)}]` : type
}

/**
 * An extension's value is DER again, a sequence or a string of octets; short ones, such as the key usage, are compared
 * to the bit. One private key in 256 would pass for DER of some other type.
 */
function inner(bytes: string): string {
  if (bytes.length < 8) return forge.util.bytesToHex(bytes)
  if (!bytes.startsWith('\x30') && !bytes.startsWith('\x04')) return 'bytes'
  try {
    return outline(asn1.fromDer(bytes))
  } catch {
    return 'bytes'
  }
}
