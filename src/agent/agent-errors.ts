import { errors as undiciErrors } from 'undici'
import { AgentError, type ErrorCode } from '../base/errors.js'

/** The body of the 429 on a connection over the limit of the agent. */
export const TOO_MANY_CONNECTIONS: RegExp = /too many concurrent connections/i

/** Whether the agent closed a connection without sending a byte. */
export function isClosedAtOnce(cause: unknown): boolean {
  if (cause instanceof undiciErrors.SocketError) return cause.socket?.bytesRead === 0
  if (!(cause instanceof Error)) return false
  const { code, syscall } = cause as NodeJS.ErrnoException
  return (code === 'ECONNRESET' || code === 'EPIPE') && syscall !== 'connect'
}

/** Returns what to do about a request without an answer. */
export function adviceFor(cause: unknown, isClosedAtOnce: boolean): string {
  if (isClosedAtOnce) {
    return 'it closed the connection at once; it is stopping, at its connection limit (limits.http_max_conns_per_client), or not the HTTP API of an agent'
  }
  // A server without TLS answers a handshake in plain text.
  return (cause as { readonly code?: unknown } | undefined)?.code === 'ERR_SSL_WRONG_VERSION_NUMBER'
    ? 'the port does not use TLS; use an http:// address'
    : 'check that it runs and that the address is right'
}

/** What to do about a failed request, by the code of its error. */
export const ADVICE: Partial<Record<ErrorCode, string>> = {
  ERR_CONNECT_AGENT_TOKEN_UNKNOWN: 'the token does not exist, or the servers cannot look it up at the moment',
  ERR_CONNECT_AGENT_CONNECTIONS:
    'raise limits.http_max_conns_per_client of the agent (200 by default), or lower agent.maxBlockingQueries',
  ERR_CONNECT_AGENT_DATACENTER: 'check the name, and that the datacenters are joined',
  ERR_CONNECT_AGENT_RATE_LIMITED:
    'a rate limit of the agent or its servers was reached; the request is retried later',
  ERR_CONNECT_DISABLED: 'set connect { enabled = true } on the servers',
}

/** Returns the error code for a response that is not a success. */
export function errorCodeOf(status: number, text: string): ErrorCode {
  // 1.8.7: "Connect must be enabled in order to use this endpoint", with status 500.
  if (/connect must be enabled|connect is not enabled/i.test(text)) return 'ERR_CONNECT_DISABLED'
  if (status === 429 && TOO_MANY_CONNECTIONS.test(text)) return 'ERR_CONNECT_AGENT_CONNECTIONS'
  // A restarting server reports this for every token: it says nothing about the permissions of the token.
  if (/acl not found/i.test(text)) return 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'
  // An agent relays the response of a server as a 500 with the status in its text.
  const relayed = /^(?:rpc error.*?|Unexpected response code: )?(429|403)\b/.exec(text)?.[1]
  if (status === 403 || relayed === '403' || /permission denied/i.test(text))
    return 'ERR_CONNECT_AGENT_FORBIDDEN'
  // 1.8.7 to 1.22: "No path to datacenter", with status 500.
  if (/no path to datacenter/i.test(text)) return 'ERR_CONNECT_AGENT_DATACENTER'
  // A malformed filter and contradictory config entries are a 500 as well, but a retry does not help.
  if (/failed to (create boolean expression evaluator|compile discovery chain)/i.test(text))
    return 'ERR_CONNECT_AGENT_REFUSED'
  if (status === 404) return 'ERR_CONNECT_AGENT_NOT_FOUND'
  if (status === 429 || relayed === '429') return 'ERR_CONNECT_AGENT_RATE_LIMITED'
  return status >= 500 || status < 400 ? 'ERR_CONNECT_AGENT_FAILED' : 'ERR_CONNECT_AGENT_REFUSED'
}

const TRANSIENT: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_CONNECT_AGENT_UNREACHABLE',
  'ERR_CONNECT_AGENT_TIMEOUT',
  'ERR_CONNECT_AGENT_RATE_LIMITED',
  'ERR_CONNECT_AGENT_CONNECTIONS',
  // A cluster without a leader answers 500 for some seconds.
  'ERR_CONNECT_AGENT_FAILED',
])

/** Whether a retry of the same request may succeed. */
export function isTransient(error: unknown): boolean {
  return error instanceof AgentError && TRANSIENT.has(error.code)
}

/** Whether an error leaves the requested value unknown, so that the last known value stays in use. */
export function isNoAnswer(error: unknown): boolean {
  return (
    isTransient(error) || (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
  )
}

/** The 403 of an agent whose `allow_write_http_from` does not include the address of this process. */
export const RESTRICTED: RegExp = /^access is restricted/i

/** Returns the permission that a 403 of Consul 1.12 or later names; undefined for another text. */
export function lackedPermission(text: string): string | undefined {
  const [, rule, name] = /lacks permission '([a-z]{1,20}:[a-z]{1,20})' on "([^"]{1,255})"/.exec(text) ?? []
  return rule === undefined || name === undefined ? undefined : right(rule, name)
}

/** Formats a permission for messages, such as `service:write on "web"`. */
export function right(rule: string, name: string): string {
  return `${rule} on ${JSON.stringify(name)}`
}
