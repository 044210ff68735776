/** Every error code and its meaning. Codes are stable across versions; messages are not. */
export const ERROR_CODES = {
  ERR_CONNECT_OPTION: 'An option or argument has the wrong type or value.',
  ERR_CONNECT_ABORTED: 'The signal of the caller was aborted.',
  ERR_CONNECT_CLOSED: 'The service is closed.',
  ERR_CONNECT_TIMEOUT: 'A deadline passed. `cause` is the last error of the agent or the peer.',

  ERR_CONNECT_AGENT_UNREACHABLE:
    'The Consul agent cannot be reached, or the connection broke before the end of a response.',
  ERR_CONNECT_AGENT_TIMEOUT: 'The agent did not answer in time.',
  ERR_CONNECT_AGENT_FORBIDDEN: 'The agent answered 403: the token lacks a permission, or none was sent.',
  ERR_CONNECT_AGENT_TOKEN_UNKNOWN:
    'The agent answered "ACL not found": the token does not exist, or the servers cannot look it up at the moment.',
  ERR_CONNECT_AGENT_CONNECTIONS: 'The agent accepts no more connections from this address.',
  ERR_CONNECT_AGENT_NOT_FOUND: 'The agent answered 404.',
  ERR_CONNECT_AGENT_DATACENTER: 'The agent cannot reach the datacenter.',
  ERR_CONNECT_AGENT_RATE_LIMITED: 'The agent answered 429: a rate limit was reached.',
  ERR_CONNECT_AGENT_REFUSED: 'The agent rejected the request as invalid (another 4xx).',
  ERR_CONNECT_AGENT_FAILED: 'The agent answered 5xx.',
  ERR_CONNECT_AGENT_STALE: 'The agent answered from a cached copy that it cannot refresh.',
  ERR_CONNECT_AGENT_NOT_JSON: 'The response is not JSON. The address may belong to another server.',
  ERR_CONNECT_AGENT_SHAPE: 'The response is JSON of an unexpected form.',
  ERR_CONNECT_DISABLED: 'Connect is not enabled on the servers.',

  ERR_CONNECT_NOT_READY: 'The service has no usable certificate and roots yet.',
  ERR_CONNECT_LEAF_EXPIRED: 'Our own certificate has expired, and the agent has not issued a new one.',
  ERR_CONNECT_LEAF_MALFORMED: 'Our own certificate or its key is invalid.',
  ERR_CONNECT_LEAF_KEY: 'Our own certificate does not match its private key.',
  ERR_CONNECT_LEAF_UNTRUSTED: 'Our own certificate has no valid path to a root of the mesh.',
  ERR_CONNECT_LEAF_SERVICE: 'Our own certificate names another service or trust domain.',
  ERR_CONNECT_ROOTS: 'The CA roots of the mesh are missing or invalid.',

  ERR_CONNECT_SPIFFE_LENGTH: 'A SPIFFE ID is empty or longer than 2048 bytes.',
  ERR_CONNECT_SPIFFE_SCHEME: 'A SPIFFE ID does not start with spiffe://.',
  ERR_CONNECT_SPIFFE_COMPONENT: 'A SPIFFE ID has user info, a port, a query, or a fragment.',
  ERR_CONNECT_SPIFFE_TRUST_DOMAIN:
    'The trust domain of a SPIFFE ID is empty, too long, or has a character outside [a-z0-9._-].',
  ERR_CONNECT_SPIFFE_PATH: 'The path of a SPIFFE ID is not one of Consul Connect.',

  ERR_CONNECT_CERTIFICATE_MISSING: 'The peer presented no certificate.',
  ERR_CONNECT_CERTIFICATE_CHAIN:
    'The path from the certificate of the peer to a root has more than 16 certificates.',
  ERR_CONNECT_CERTIFICATE_MALFORMED: 'A certificate is not DER-encoded X.509 v3, or has trailing bytes.',
  ERR_CONNECT_CERTIFICATE_URI_COUNT:
    'A certificate does not have exactly one URI in its subject alternative names.',
  ERR_CONNECT_CERTIFICATE_SIGNING:
    'A certificate names the identity of a CA (no path), which is not allowed for a peer.',
  ERR_CONNECT_CERTIFICATE_CA: 'A certificate of a peer is a CA certificate, or may sign revocation lists.',
  ERR_CONNECT_CERTIFICATE_KEY_USAGE: 'The key usage of a leaf is missing or lacks digitalSignature.',
  ERR_CONNECT_CERTIFICATE_EXTENDED_KEY_USAGE:
    'The extended key usage of a leaf lacks serverAuth or clientAuth.',
  ERR_CONNECT_PEER_TRUST_DOMAIN: 'The peer belongs to another trust domain.',
  ERR_CONNECT_PEER_UNTRUSTED: 'The certificate of the peer has no valid path to a root of the mesh.',
  ERR_CONNECT_PEER_RESUMED: 'The peer resumed a TLS session, which skips the verification.',
  ERR_CONNECT_PEER_KIND: 'The peer is not a service, but an agent, a server, or a gateway.',
  ERR_CONNECT_PEER_IDENTITY: 'The peer is another service than the dialed one.',

  ERR_CONNECT_HOST: 'The host of a URL is not an upstream of the mesh, or has a port.',
  ERR_CONNECT_REDIRECT: 'A service redirects an HTTP request to another service, which is not allowed.',
  ERR_CONNECT_DENIED: 'The peer is verified, but not authorized.',
  ERR_CONNECT_REQUEST_DENIED:
    'An HTTP request is not allowed by the permissions of its source, or cannot be decided.',
  ERR_CONNECT_INTENTION:
    'An intention has something that this version does not understand, and that it denies.',
  ERR_CONNECT_REVOKED: 'The connection was closed because its peer is no longer authorized or trusted.',
  ERR_CONNECT_REJECTED: 'The peer closed the connection before its first byte, and may have rejected us.',
  ERR_CONNECT_NO_INSTANCES: 'There is no instance to dial. `reason` says why.',
  ERR_CONNECT_DIAL_FAILED: 'No instance could be reached. `attempts` lists the failures.',
  ERR_CONNECT_CHAIN: 'The discovery chain of a service cannot be followed.',
  ERR_CONNECT_CLUSTER_PEER: 'The discovery chain leads to a cluster peer, which this version cannot dial.',
  ERR_CONNECT_GATEWAY: 'There is no mesh gateway to the datacenter of the target.',
  ERR_CONNECT_DNS: 'A DNS server gave no valid response.',
  ERR_CONNECT_RESOLVER: 'A resolver failed, or did not return a list of endpoints.',
  ERR_CONNECT_LISTEN: 'A listener could not be opened. `cause` is the error of the system.',
  ERR_CONNECT_HANDLER: 'A connection handler failed.',
  ERR_CONNECT_APPLICATION:
    'A proxy could not connect to its application. `cause` is the error of the system.',
  ERR_CONNECT_LIMIT: 'A limit was reached, and a connection was rejected.',
  ERR_CONNECT_PROXY: 'The agent has no such proxy.',
  ERR_CONNECT_REGISTER: 'A registration could not be made or kept alive.',
} as const

export type ErrorCode = keyof typeof ERROR_CODES

// A registered symbol, so that errors are recognized across two installed copies of this package.
const BRAND = Symbol.for('consul-connect.error')

/** The base class of all errors of this library, with a stable `code` and the `cause`. */
export class ConnectError extends Error {
  /** The name by which `instanceof` recognizes the class across copies of this package. */
  static readonly brand: string = 'ConnectError'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(visible(message), options?.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.name = new.target.brand
    Object.defineProperty(this, BRAND, { value: lineage(new.target) })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // A subclass of an application has no brand: use the prototype chain.
    if (!Object.hasOwn(this, 'brand')) return Function.prototype[Symbol.hasInstance].call(this, value)
    if (typeof value !== 'object' || value === null) return false
    const brands = (value as { [BRAND]?: unknown })[BRAND]
    return Array.isArray(brands) && brands.includes(this.brand)
  }
}

/**
 * Escapes invisible characters and those that change the display of a text: control characters, bidirectional marks,
 * zero-width characters, and line separators. Names in certificates and responses are foreign text.
 */
export function visible(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (found) =>
    found === '\n' ? ' ' : `\\u{${(found.codePointAt(0) ?? 0).toString(16)}}`,
  )
}

function lineage(leaf: typeof ConnectError): string[] {
  const brands: string[] = []
  let current: unknown = leaf
  while (typeof current === 'function' && current !== Error) {
    if (Object.hasOwn(current, 'brand')) brands.push((current as typeof ConnectError).brand)
    current = Object.getPrototypeOf(current)
  }
  return brands
}

/** Formats a value that was refused: its path, what was expected, and what was found. */
export function mismatch(path: string, expected: string, found: string): string {
  return `${path}: expected ${expected}, got ${found}`
}

/** An option, argument, or environment variable is invalid. */
export class OptionError extends ConnectError {
  static override readonly brand: string = 'OptionError'
  readonly option: string
  readonly expected: string
  readonly actual: string

  constructor(option: string, expected: string, actual: string, options?: { cause?: unknown }) {
    super('ERR_CONNECT_OPTION', mismatch(option, expected, actual), options)
    this.option = option
    this.expected = expected
    this.actual = actual
  }
}

/** The host of a URL is not an upstream of the mesh. No connection was made. */
export class HostError extends ConnectError {
  static override readonly brand: string = 'HostError'
  /** The rejected host, cut to 256 characters. */
  readonly host: string
  readonly problem: string
  /** What to write instead. */
  readonly expected: string

  constructor(host: string, problem: string, expected: string) {
    const shown = host.length > 256 ? `${host.slice(0, 256)}…` : host
    super('ERR_CONNECT_HOST', `host ${JSON.stringify(shown)} ${problem}; expected ${expected}`)
    this.host = shown
    this.problem = problem
    this.expected = expected
  }
}

/**
 * A service redirects an HTTP request to another service. The redirect was not followed, since the second request would
 * have the identity of this process.
 */
export class RedirectError extends ConnectError {
  static override readonly brand: string = 'RedirectError'
  /** The service or prepared query that sent the redirect. */
  readonly from: string
  /** The service or prepared query of the new location. */
  readonly to: string

  constructor(from: string, to: string) {
    const remedy = `request ${to} explicitly, or set the service option crossServiceRedirects`
    super('ERR_CONNECT_REDIRECT', `redirect from ${from} to ${to} refused; ${remedy}`)
    this.from = from
    this.to = to
  }
}

/**
 * The signal of the caller was aborted; `cause` is the reason of the signal. Its `name` is `AbortError`, as in Node.js.
 */
export class AbortError extends ConnectError {
  static override readonly brand: string = 'AbortError'
  /** The last error before the abort, such as a rejected token; undefined without one. */
  readonly lastError: Error | undefined

  constructor(what: string, reason: unknown, lastError?: Error) {
    super('ERR_CONNECT_ABORTED', `${what}: aborted by its signal${withCause(lastError)}`, {
      cause: reason,
    })
    this.lastError = lastError
  }
}

/** The service is closed. */
export class ClosedError extends ConnectError {
  static override readonly brand: string = 'ClosedError'

  constructor(what: string, options?: { cause?: unknown }) {
    super('ERR_CONNECT_CLOSED', `${what}: the service is closed`, options)
  }
}

/** A deadline passed. `cause` is the last error of the agent or the peer, if any. */
export class TimeoutError extends ConnectError {
  static override readonly brand: string = 'TimeoutError'
  readonly timeoutMs: number
  /** The failed attempts of a dial. */
  readonly attempts: readonly DialAttempt[]

  constructor(
    what: string,
    timeoutMs: number,
    options?: { cause?: unknown; attempts?: readonly DialAttempt[] },
  ) {
    super(
      'ERR_CONNECT_TIMEOUT',
      `${what}: timed out after ${timeoutMs} ms${withCause(options?.cause)}`,
      options,
    )
    this.timeoutMs = timeoutMs
    this.attempts = options?.attempts ?? []
  }
}

/** The agent cannot be reached, or its response is an error or invalid. */
export class AgentError extends ConnectError {
  static override readonly brand: string = 'AgentError'
  /** The configured address of the agent, without credentials. */
  readonly address: string
  /** Method and path, without the query string. */
  readonly request: string
  /** The HTTP status; undefined without a response. */
  readonly status: number | undefined

  constructor(
    code: ErrorCode,
    message: string,
    details: { address: string; request: string; status?: number | undefined; cause?: unknown },
  ) {
    super(code, message, details)
    this.address = details.address
    this.request = details.request
    this.status = details.status
  }
}

/** Our own certificate or the roots are invalid. The last good ones stay in use until they expire. */
export class IdentityError extends ConnectError {
  static override readonly brand: string = 'IdentityError'
}

/** A SPIFFE ID is invalid. */
export class SpiffeIdError extends ConnectError {
  static override readonly brand: string = 'SpiffeIdError'
  /** The rejected text, cut to 256 characters. */
  readonly input: string
  readonly expected: string

  constructor(code: ErrorCode, input: string, expected: string) {
    const shown = input.length > 256 ? `${input.slice(0, 256)}…` : input
    super(code, mismatch('not a Connect SPIFFE ID', expected, JSON.stringify(shown)))
    this.input = shown
    this.expected = expected
  }
}

/** The verification of a peer failed. */
export class VerificationError extends ConnectError {
  static override readonly brand: string = 'VerificationError'
  readonly expected: string
  readonly actual: string

  constructor(code: ErrorCode, expected: string, actual: string, options?: { cause?: unknown }) {
    super(code, `${mismatch('peer certificate', expected, actual)}${withCause(options?.cause)}`, options)
    this.expected = expected
    this.actual = actual
  }
}

/** What a dial leads to: a service, or one of its subsets, in a datacenter. */
export interface DialTarget {
  readonly service: string
  /** The subset that the discovery chain selected; undefined for all instances. */
  readonly subset: string | undefined
  readonly namespace: string | undefined
  readonly partition: string | undefined
  /** Undefined for our own datacenter, where the resolver does not name it. */
  readonly datacenter: string | undefined
}

/** A failed attempt of `dial` to connect to an instance. */
export interface DialAttempt {
  /** `host:port` of the instance, or of the mesh gateway that leads to it. */
  readonly address: string
  readonly target: DialTarget
  readonly error: Error
  /** The duration of the attempt, in milliseconds. */
  readonly durationMs: number
}

/**
 * Why there is no instance.
 * - `unknown`: the upstream does not exist
 * - `not-connect`: no instance accepts mesh connections
 * - `no-match`: no instance has the requested tags or passes the filter
 * - `not-passing`: no instance passes its health checks
 * - `empty`: the resolver gave no reason
 */
export type NoInstancesReason = 'unknown' | 'not-connect' | 'no-match' | 'not-passing' | 'empty'

/** A dial failed. */
export class DialError extends ConnectError {
  static override readonly brand: string = 'DialError'
  readonly upstream: string
  readonly attempts: readonly DialAttempt[]
  /** Only with ERR_CONNECT_NO_INSTANCES. */
  readonly reason: NoInstancesReason | undefined

  constructor(
    code: ErrorCode,
    upstream: string,
    message: string,
    options?: { cause?: unknown; attempts?: readonly DialAttempt[]; reason?: NoInstancesReason },
  ) {
    super(code, `dial ${upstream}: ${message}`, options)
    this.upstream = upstream
    this.attempts = options?.attempts ?? []
    this.reason = options?.reason
  }
}

/** A DNS server gave no valid response in time; `cause` is the problem with the last response. */
export class DnsError extends ConnectError {
  static override readonly brand: string = 'DnsError'
  /** `host:port` of the server. */
  readonly server: string
  /** The type and name of the question. */
  readonly question: string

  constructor(server: string, question: string, problem: string, options?: { cause?: unknown }) {
    super('ERR_CONNECT_DNS', `DNS ${question} at ${server}: ${problem}${withCause(options?.cause)}`, options)
    this.server = server
    this.question = question
  }
}

/** Formats a cause for the end of a message: `: <message>`, or an empty string without a cause. */
export function withCause(cause: unknown): string {
  if (cause === undefined) return ''
  if (cause instanceof Error) return `: ${messageOf(cause)}`
  return typeof cause === 'string' ? `: ${cause}` : `: a ${typeof cause} was thrown`
}

/**
 * Returns the message of an error. The AggregateError of Node.js for a host with several addresses has it in its parts.
 */
export function messageOf(error: Error): string {
  if (error.message !== '') return error.message
  const parts = error instanceof AggregateError ? (error.errors as unknown[]) : []
  return parts.map((part) => toError(part).message).join(', ') || error.name
}

/** Converts a thrown value to an Error. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error
    ? thrown
    : new Error(`non-Error value thrown${withCause(thrown)}`, { cause: thrown })
}
