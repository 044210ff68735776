/**
 * Every error code of this library and what it means. A code is stable across versions; a message is not.
 */
export const ERROR_CODES = {
  ERR_CONNECT_OPTION: 'An option or an argument has the wrong type or value.',
  ERR_CONNECT_ABORTED: 'The signal that was passed in was aborted.',
  ERR_CONNECT_CLOSED: 'The service was closed or destroyed.',
  ERR_CONNECT_TIMEOUT: 'A deadline passed. `cause` is the last thing the agent or the peer said.',

  ERR_CONNECT_AGENT_UNREACHABLE:
    'No connection to the Consul agent, or it broke off in the middle of an answer.',
  ERR_CONNECT_AGENT_TIMEOUT: 'The agent accepted the request and did not answer in time.',
  ERR_CONNECT_AGENT_FORBIDDEN: 'The agent answered 403: the token lacks a right, or none was sent.',
  ERR_CONNECT_AGENT_TOKEN_UNKNOWN:
    'The agent answered "ACL not found": the token does not exist, or the servers cannot be asked for it now.',
  ERR_CONNECT_AGENT_CONNECTIONS: 'The agent accepts no more connections from this address.',
  ERR_CONNECT_AGENT_NOT_FOUND: 'The agent answered 404.',
  ERR_CONNECT_AGENT_DATACENTER: 'The agent knows no way to the datacenter that was named.',
  ERR_CONNECT_AGENT_RATE_LIMITED:
    'The agent answered 429: a limit of requests or of certificates to sign was reached.',
  ERR_CONNECT_AGENT_REFUSED: 'The agent answered another 4xx: it did not understand the request.',
  ERR_CONNECT_AGENT_FAILED: 'The agent answered 5xx.',
  ERR_CONNECT_AGENT_STALE: 'The agent answered from a copy that it cannot refresh.',
  ERR_CONNECT_AGENT_NOT_JSON: 'The agent answered something that is not JSON: is it a Consul agent?',
  ERR_CONNECT_AGENT_SHAPE: 'The agent answered JSON of an unexpected shape.',
  ERR_CONNECT_DISABLED: 'Connect is switched off on the agent.',

  ERR_CONNECT_NOT_READY: 'The service has no usable certificate and roots yet.',
  ERR_CONNECT_LEAF_EXPIRED: 'Our own certificate has expired and the agent has not given a new one.',
  ERR_CONNECT_LEAF_MALFORMED: 'Our own certificate or its key cannot be parsed or breaks a rule for leaves.',
  ERR_CONNECT_LEAF_KEY: 'Our own certificate does not belong to the private key that came with it.',
  ERR_CONNECT_LEAF_UNTRUSTED: 'No valid path leads from our own certificate to a root of the mesh.',
  ERR_CONNECT_LEAF_SERVICE: 'Our own certificate names another service, or another trust domain.',
  ERR_CONNECT_ROOTS: 'The mesh’s roots are missing, empty or not CA certificates.',

  ERR_CONNECT_SPIFFE_LENGTH: 'A SPIFFE ID is empty or longer than 2048 bytes.',
  ERR_CONNECT_SPIFFE_SCHEME: 'A SPIFFE ID does not start with spiffe://.',
  ERR_CONNECT_SPIFFE_COMPONENT: 'A SPIFFE ID has user info, a port, a query or a fragment.',
  ERR_CONNECT_SPIFFE_TRUST_DOMAIN:
    'A SPIFFE ID’s trust domain is empty, too long or has a character outside [a-z0-9._-].',
  ERR_CONNECT_SPIFFE_PATH: 'A SPIFFE ID’s path is not one that Consul Connect uses.',

  ERR_CONNECT_CERTIFICATE_MISSING: 'The peer presented no certificate.',
  ERR_CONNECT_CERTIFICATE_CHAIN:
    'The path from the certificate of the peer to a root has more than 16 certificates.',
  ERR_CONNECT_CERTIFICATE_MALFORMED: 'A certificate is not DER-encoded X.509 v3, or something trails it.',
  ERR_CONNECT_CERTIFICATE_URI_COUNT:
    'A certificate does not have exactly one URI in its subject alternative names.',
  ERR_CONNECT_CERTIFICATE_SIGNING:
    'A certificate names a signing identity (no path), which never authenticates a peer.',
  ERR_CONNECT_CERTIFICATE_CA:
    'A certificate that should be a leaf may sign certificates or revocation lists.',
  ERR_CONNECT_CERTIFICATE_KEY_USAGE: 'A leaf’s key usage is absent or lacks digitalSignature.',
  ERR_CONNECT_CERTIFICATE_EXTENDED_KEY_USAGE: 'A leaf’s extended key usage lacks serverAuth or clientAuth.',
  ERR_CONNECT_PEER_TRUST_DOMAIN: 'The peer belongs to a trust domain of which we hold no roots.',
  ERR_CONNECT_PEER_UNTRUSTED:
    'The peer’s certificate path does not lead to the mesh’s roots, or is out of date.',
  ERR_CONNECT_PEER_RESUMED: 'The peer resumed a TLS session, which would skip its verification.',
  ERR_CONNECT_PEER_KIND: 'The peer is not a service (an agent, a server or a gateway).',
  ERR_CONNECT_PEER_IDENTITY: 'The peer proved to be another service than the one dialled.',

  ERR_CONNECT_HOST: 'The host of a URL names no upstream of the mesh, or has a port.',
  ERR_CONNECT_REDIRECT: 'An HTTP answer of one service redirects to another one, and may not.',
  ERR_CONNECT_DENIED: 'The peer proved who it is and may not connect.',
  ERR_CONNECT_REVOKED: 'The peer was connected and may no longer be: its connection was ended.',
  ERR_CONNECT_REJECTED: 'The peer closed the connection before its first byte: it may have rejected us.',
  ERR_CONNECT_NO_INSTANCES: 'There is no instance to dial; `reason` says why.',
  ERR_CONNECT_DIAL_FAILED: 'No instance could be reached; `attempts` lists each try.',
  ERR_CONNECT_DNS: 'A DNS server gave no usable answer.',
  ERR_CONNECT_RESOLVER: 'A resolver threw, or returned something that is not a list of endpoints.',
  ERR_CONNECT_LISTEN: 'A listener could not be opened; `cause` is the system’s error.',
  ERR_CONNECT_HANDLER: 'A connection handler threw.',
  ERR_CONNECT_APPLICATION: 'A proxy could not connect to its application; `cause` is the system’s error.',
  ERR_CONNECT_LIMIT: 'As many connections are open as there may be: another one was refused.',
  ERR_CONNECT_PROXY: 'The agent has no proxy of the kind that was asked for.',
  ERR_CONNECT_REGISTER: 'A registration could not be made or kept alive.',
} as const

export type ErrorCode = keyof typeof ERROR_CODES

// Registered symbols, so that errors are recognised across two installed copies of this package.
const BRAND = Symbol.for('consul-connect.error')

/** The base of every error this library makes: a stable `code`, a message to act on, and the `cause`. */
export class ConnectError extends Error {
  /** The name by which `instanceof` recognises the class across copies of this package. */
  static readonly brand: string = 'ConnectError'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(visible(message), options?.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.name = new.target.brand
    Object.defineProperty(this, BRAND, { value: lineage(new.target) })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // A user's own subclass has no brand of its own: the prototype chain decides there.
    if (!Object.hasOwn(this, 'brand')) return Function.prototype[Symbol.hasInstance].call(this, value)
    if (typeof value !== 'object' || value === null) return false
    const brands = (value as { [BRAND]?: unknown })[BRAND]
    return Array.isArray(brands) && brands.includes(this.brand)
  }
}

/**
 * Escapes the characters that are not seen, or that change how their surroundings are seen: controls, marks of the writing
 * direction, zero-width characters, and separators of lines. Names in certificates and answers are foreign text.
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

/** An option, an argument or an environment variable is wrong. Thrown at once, before anything is started. */
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

/** The host of a URL names no upstream of the mesh: nothing was connected. */
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
 * A service redirects an HTTP request to another service: the redirect was not followed. The mesh would have taken the
 * second request for one of this process's own.
 */
export class RedirectError extends ConnectError {
  static override readonly brand: string = 'RedirectError'
  /** The service, or prepared query, that answered with the redirect. */
  readonly from: string
  /** The service, or prepared query, that the redirect leads to. */
  readonly to: string

  constructor(from: string, to: string) {
    const remedy = `request ${to} explicitly, or set the service option crossServiceRedirects`
    super('ERR_CONNECT_REDIRECT', `redirect from ${from} to ${to} refused; ${remedy}`)
    this.from = from
    this.to = to
  }
}

/**
 * A signal was aborted; `cause` is the signal's reason, and the message ends with the last error before that. Its `name`
 * is `AbortError`, as everywhere in Node.js.
 */
export class AbortError extends ConnectError {
  static override readonly brand: string = 'AbortError'
  /** The last error before the signal was aborted, such as the agent's refusal of a token; undefined without one. */
  readonly lastError: Error | undefined

  constructor(what: string, reason: unknown, lastError?: Error) {
    super('ERR_CONNECT_ABORTED', `${what} was aborted by its signal${withCause(lastError)}`, {
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

/** A deadline passed. `cause` is the last thing the agent or the peer said, if it said anything. */
export class TimeoutError extends ConnectError {
  static override readonly brand: string = 'TimeoutError'
  readonly timeoutMs: number
  /** What was tried before the deadline, when `dial` ran into it. */
  readonly attempts: readonly DialAttempt[]

  constructor(
    what: string,
    timeoutMs: number,
    options?: { cause?: unknown; attempts?: readonly DialAttempt[] },
  ) {
    super(
      'ERR_CONNECT_TIMEOUT',
      `${what} took longer than ${timeoutMs} ms${withCause(options?.cause)}`,
      options,
    )
    this.timeoutMs = timeoutMs
    this.attempts = options?.attempts ?? []
  }
}

/** The agent could not be asked, or its answer cannot be used. */
export class AgentError extends ConnectError {
  static override readonly brand: string = 'AgentError'
  /** The agent's address as configured, without credentials. */
  readonly address: string
  /** Method and path, without the query string. */
  readonly request: string
  /** The HTTP status, when there was an answer. */
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

/** Our own leaf or the mesh's roots cannot be used; the last good ones stay in use until they expire. */
export class IdentityError extends ConnectError {
  static override readonly brand: string = 'IdentityError'
}

/** A SPIFFE ID is not one. */
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

/** A peer did not prove an identity that we may talk to. */
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

/** One try of `dial` at one instance. */
export interface DialAttempt {
  /** `host:port` of the instance. */
  readonly address: string
  readonly error: Error
  /** How long the try took, in milliseconds. */
  readonly durationMs: number
}

/**
 * Why there is no instance: the upstream is not known at all; or none of its instances can be reached over Connect,
 * has the tags or passes the filter that were asked for, or passes its health checks; or the resolver did not say.
 */
export type NoInstancesReason = 'unknown' | 'not-connect' | 'no-match' | 'not-passing' | 'empty'

/** `dial` did not reach its upstream. */
export class DialError extends ConnectError {
  static override readonly brand: string = 'DialError'
  readonly upstream: string
  readonly attempts: readonly DialAttempt[]
  /** With ERR_CONNECT_NO_INSTANCES. */
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

/** A DNS server said nothing usable in time; `cause` is what was wrong with the last thing that it said. */
export class DnsError extends ConnectError {
  static override readonly brand: string = 'DnsError'
  /** `host:port` of the server. */
  readonly server: string
  /** The name and type that were asked for. */
  readonly question: string

  constructor(server: string, question: string, problem: string, options?: { cause?: unknown }) {
    super('ERR_CONNECT_DNS', `DNS ${question} at ${server}: ${problem}${withCause(options?.cause)}`, options)
    this.server = server
    this.question = question
  }
}

/** `: message` of a cause, for the end of a sentence; nothing where there is none. */
export function withCause(cause: unknown): string {
  if (cause === undefined) return ''
  if (cause instanceof Error) return `: ${messageOf(cause)}`
  return typeof cause === 'string' ? `: ${cause}` : `: something of type ${typeof cause} was thrown`
}

/** What an error says. Node's error for a host with several addresses says it only in its parts. */
export function messageOf(error: Error): string {
  if (error.message !== '') return error.message
  const parts = error instanceof AggregateError ? (error.errors as unknown[]) : []
  return parts.map((part) => toError(part).message).join(', ') || error.name
}

/** What was thrown, as an Error. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error
    ? thrown
    : new Error(`what was thrown is no Error${withCause(thrown)}`, { cause: thrown })
}
