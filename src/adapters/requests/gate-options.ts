import type { Peer } from '../../identity/peer.js'

/** Options of `serve` and `secure` for HTTP servers. */
export interface RequestOptions {
  /**
   * Whether requests are refused, with status 400, whose path some servers read differently than others: with dot segments,
   * empty segments, backslashes, semicolons, or escapes of any of these, of a zero byte, or of a percent sign. For
   * applications whose framework does not read paths as the rules of the mesh do.
   * @default false
   */
  readonly strictPaths?: boolean | undefined
  /**
   * Whether each request gets the header `x-forwarded-client-cert` with the verified identity of the peer, as Envoy writes
   * it. One that the peer has sent is removed in any case.
   * @default false
   */
  readonly forwardClientCert?: boolean | undefined
}

/** What the gate of a listener needs to know. */
export interface GateSettings {
  readonly strictPaths: boolean
  /** Returns the value of `x-forwarded-client-cert` for a peer; undefined for none. */
  readonly clientCert: (peer: Peer) => string | undefined
}
