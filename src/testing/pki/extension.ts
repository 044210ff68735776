import forge from 'node-forge'

/** A bit of the key usage extension (RFC 5280, 4.2.1.3). */
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

/** An X.509 extension. */
export interface Extension {
  oid: string
  /** @default false */
  critical?: boolean
  /** The DER value inside the OCTET STRING. */
  value: Buffer
}

/** Creates X.509 extensions, for `extraExtensions` of `TestCa.issue`. */
export const extension = {
  keyUsage(usages: readonly KeyUsage[]): Extension {
    return encode({ name: 'keyUsage', critical: true, ...flags(usages) })
  },

  /** @param usages - `serverAuth`, `clientAuth`, `codeSigning`, or dotted OIDs */
  extendedKeyUsage(usages: readonly string[]): Extension {
    return encode({ name: 'extKeyUsage', ...flags(usages) })
  },

  basicConstraints(isCa: boolean): Extension {
    return encode({ name: 'basicConstraints', critical: true, cA: isCa })
  },

  subjectKeyIdentifier(id: Buffer): Extension {
    const { OCTETSTRING } = forge.asn1.Type
    const value = forge.asn1.create(forge.asn1.Class.UNIVERSAL, OCTETSTRING, false, id.toString('latin1'))
    return encode({ id: '2.5.29.14', value })
  },

  authorityKeyIdentifier(id: Buffer): Extension {
    return encode({ name: 'authorityKeyIdentifier', keyIdentifier: id.toString('latin1') })
  },

  subjectAltName(names: {
    uris?: readonly string[]
    dnsNames?: readonly string[]
    ips?: readonly string[]
  }): Extension {
    const { uris = [], dnsNames = [], ips = [] } = names
    // The types are those of GeneralName (RFC 5280, 4.2.1.6).
    const altNames = [
      ...dnsNames.map((name) => ({ type: 2, value: forge.util.encodeUtf8(name) })),
      ...uris.map((uri) => ({ type: 6, value: forge.util.encodeUtf8(uri) })),
      ...ips.map((ip) => ({ type: 7, ip })),
    ]
    return encode({ name: 'subjectAltName', altNames })
  },
}

/** Encodes an extension from the description that node-forge takes. */
function encode(description: object): Extension {
  const certificate = forge.pki.createCertificate()
  certificate.setExtensions([description])
  const [{ id, critical = false, value }] = certificate.extensions as [
    { id: string; critical?: boolean; value: forge.asn1.Asn1 | string },
  ]
  const der = typeof value === 'string' ? value : forge.asn1.toDer(value).getBytes()
  return { oid: id, critical, value: Buffer.from(der, 'latin1') }
}

function flags(names: readonly string[]): Record<string, true> {
  return Object.fromEntries(names.map((name) => [name, true]))
}
