import forge from 'node-forge'

const { asn1 } = forge

/** The structure of a PEM: types, OIDs, and flags, without the values that differ between certificates. */
export function asn1Structure(pem: string): string {
  return outline(asn1.fromDer(forge.pem.decode(pem)[0]?.body ?? ''))
}

function outline(node: forge.asn1.Asn1): string {
  const type = `${node.tagClass >> 6}.${node.type}`
  // forge parses bit strings, and mistakes one public key in 256 for DER.
  if (node.type === asn1.Type.BITSTRING && node.tagClass === asn1.Class.UNIVERSAL) return type
  if (Array.isArray(node.value)) return `${type}(${node.value.map(outline).join(' ')})`
  if (node.tagClass !== asn1.Class.UNIVERSAL) return type
  if (node.type === asn1.Type.OID) return asn1.derToOid(node.value)
  if (node.type === asn1.Type.BOOLEAN) return `${type}=${forge.util.bytesToHex(node.value)}`
  return node.type === asn1.Type.OCTETSTRING ? `${type}[${inner(node.value)}]` : type
}

/**
 * The structure of an octet string. The value of an extension is DER: a sequence or an octet string. Short values, such as
 * key usages, are compared bit by bit. Other types are ignored, because one private key in 256 looks like one.
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
