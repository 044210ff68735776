import { SocketAddress, isIP } from 'node:net'
import type { HashPolicy } from '../../agent/endpoints/chain-load-balancer.js'
import { byteString } from '../../matching/byte-string.js'
import { isJoined } from '../../matching/header-matcher.js'
import { parameterOf } from '../../matching/target.js'
import { xxHash64 } from '../../base/xxhash64.js'

/** What hash policies read of a request: as the instance receives it, after the changes of routes and splits. */
export interface HashedRequest {
  /** Returns the lines of a header. @param name - in lower case; for Envoy, also a pseudo-header such as `:authority` */
  lines(name: string): readonly string[]
  /** With the query. */
  readonly path: string
}

/** A cookie to set in the response, so that the next request of the client has the same hash. */
export interface NewCookie {
  readonly name: string
  readonly value: string
  /** undefined for that of the request */
  readonly path: string | undefined
  /** 0 for a session cookie. Envoy ignores fractions of a second. */
  readonly ttlMs: number
}

export interface RequestHash {
  /** undefined if no policy applies: then Envoy chooses an instance at random. */
  readonly hash: bigint | undefined
  readonly newCookies: readonly NewCookie[]
}

/**
 * The address from which the local application connects to its sidecar. All clients of a service hash this address, and
 * thus choose the same instance.
 */
const LOCAL_ADDRESS = '127.0.0.1'
/** The size of the value of a new cookie before encoding; that of Envoy is a 64-bit hash as well. */
const COOKIE_BYTES = 8

/**
 * Combines the hash policies of an operator as Envoy does. Each policy that applies to the request contributes. A
 * terminal policy ends the list if it or an earlier one applies.
 * @param randomBytes - for the value of a new cookie
 */
export function requestHash(
  policies: readonly HashPolicy[],
  request: HashedRequest,
  randomBytes: (size: number) => Uint8Array,
): RequestHash {
  const newCookies: NewCookie[] = []
  let hash: bigint | undefined
  for (const policy of policies) {
    const texts = hashedTexts(policy, request) ?? newCookie(policy, randomBytes, newCookies)
    if (texts !== undefined) {
      const own = hashOf(texts)
      hash = hash === undefined ? own : rotateLeft(hash) ^ own
    }
    if (policy.terminal && hash !== undefined) break
  }
  return { hash, newCookies }
}

/** Without the rotation, equal policies would cancel each other. */
function rotateLeft(hash: bigint): bigint {
  return BigInt.asUintN(64, hash << 1n) | (hash >> 63n)
}

/** Hashes the texts in order. The hash of each text is the seed of the next one. */
function hashOf(texts: readonly string[]): bigint {
  // Node.js sends header values in Latin-1.
  return texts.reduce((seed, text) => xxHash64(Buffer.from(text, 'latin1'), seed), 0n)
}

/** @returns undefined if the policy does not apply to the request */
function hashedTexts({ source, name }: HashPolicy, request: HashedRequest): readonly string[] | undefined {
  switch (source) {
    case 'header':
      return headerTexts(request.lines(name), name)
    case 'cookie':
      return listOf(cookieValue(request.lines('cookie'), name))
    case 'query_parameter':
      return listOf(parameterOf(request.path, byteString(name)))
    case 'source_ip':
      return [sourceAddress(request)]
  }
}

function listOf(value: string | undefined): readonly [string] | undefined {
  return value === undefined ? undefined : [value]
}

function headerTexts(lines: readonly string[], name: string): readonly string[] | undefined {
  if (lines.length === 0) return undefined
  const texts = lines.map(trim)
  // Sorted, so that the order of the lines does not matter.
  return isJoined(name) ? [texts.join(',')] : texts.sort()
}

/** Removes what an HTTP parser does not count as part of a header value. */
function trim(line: string): string {
  return line.replace(/^[ \t]+|[ \t]+$/g, '')
}

/**
 * Returns the address that an Envoy sidecar takes for that of the client: the last one of `x-forwarded-for` if the
 * application forwards this header, or the address of the application.
 */
function sourceAddress(request: HashedRequest): string {
  const last = trim(request.lines('x-forwarded-for').at(-1)?.split(',').at(-1) ?? '')
  switch (isIP(last)) {
    case 4:
      return last
    case 6:
      // In its canonical form.
      return new SocketAddress({ family: 'ipv6', address: last }).address
    default:
      return LOCAL_ADDRESS
  }
}

/** Returns the value of the first cookie of that name, without quotes; undefined if it is missing or empty. */
function cookieValue(lines: readonly string[], name: string): string | undefined {
  for (const pair of lines.flatMap((line) => trim(line).split(';'))) {
    const separator = pair.indexOf('=')
    if (separator === -1 || pair.slice(0, separator).replace(/^ +/, '') !== name) continue
    const value = pair.slice(separator + 1)
    return (/^"(.*)"$/s.exec(value)?.[1] ?? value) || undefined
  }
  return undefined
}

/** Adds the cookie that a policy sets if the request has none. @returns the value to hash */
function newCookie(
  { name, newCookie: settings }: HashPolicy,
  randomBytes: (size: number) => Uint8Array,
  newCookies: NewCookie[],
): readonly [string] | undefined {
  if (settings === undefined) return undefined
  const value = Buffer.from(randomBytes(COOKIE_BYTES)).toString('hex')
  newCookies.push({ name, value, path: settings.path, ttlMs: settings.ttlMs })
  return [value]
}
