/** The identity of the other end of a connection, as verified by its certificate. */
export interface Peer {
  /** The SPIFFE ID, as in the certificate. */
  readonly spiffeId: string
  readonly trustDomain: string
  readonly partition: string
  readonly namespace: string
  readonly datacenter: string
  readonly service: string
  /** Colon-separated hexadecimal. */
  readonly serialNumber: string
  /** SHA-256 of the certificate, colon-separated hexadecimal. */
  readonly fingerprint256: string
  /** When the certificate expires. */
  readonly notAfter: Date
}
