import type { Answer, SrvAnswer } from '../agent/dns/message.js'
import type { DnsClient } from '../agent/dns/client.js'
import {
  type DnsMessage,
  canonicalName,
  isAddress,
  isDnsName,
  isSameName,
  isSoa,
  isSrv,
} from '../agent/dns/message.js'
import { isAborted } from '../base/deadline.js'
import type { Clock } from '../base/clock.js'
import { DialError, DnsError, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import { publishResolution, publishResolutionFailure } from './diagnostics.js'
import { TtlCache, type Timed } from './ttl-cache.js'
import { type Endpoint, type ResolveRequest, type Resolver, endpointList } from './resolver.js'
import type { DnsUpstream } from './upstream.js'

/** The maximum TTL: a wrong or forged response must not stay in use for ever. */
const LONGEST_TTL_S = 24 * 3600
const LONGEST_NEGATIVE_TTL_S = 60
const MOST_RECORDS = 1_000
/** Upper bound on parallel questions for addresses. */
const AT_A_TIME = 8

/** Resolves by SRV records and the addresses in the response. Uses the TTLs of the records, including 0. */
export class DnsResolver implements Resolver {
  readonly name: string
  readonly #client: DnsClient
  readonly #upstream: DnsUpstream
  readonly #lookup: TtlCache<readonly Endpoint[]>
  #isEmpty = true

  constructor(client: DnsClient, upstream: DnsUpstream, clock: Clock) {
    this.name = `${upstream.service} by DNS ${upstream.dns}`
    this.#client = client
    this.#upstream = upstream
    this.#lookup = new TtlCache(this.name, clock, (signal) => this.#resolve(signal))
  }

  get isEmpty(): boolean {
    return this.#isEmpty
  }

  get lastError(): Error | undefined {
    return this.#lookup.lastError
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, DnsError */
  async resolve({ signal, refresh }: ResolveRequest): Promise<readonly Endpoint[]> {
    const endpoints = await this.#lookup.get(signal, refresh)
    if (endpoints.length > 0) return endpoints
    const message = 'the name does not exist, or has no valid SRV record'
    throw new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason: 'unknown' })
  }

  close(): void {
    this.#lookup.close()
  }

  async #resolve(signal: AbortSignal): Promise<Timed<readonly Endpoint[]>> {
    try {
      const timed = await this.#ask(signal)
      publishResolution(this.name, timed.value, false)
      return timed
    } catch (error) {
      publishResolutionFailure(this.name, toError(error))
      throw error
    }
  }

  async #ask(signal: AbortSignal): Promise<Timed<readonly Endpoint[]>> {
    const { dns, service, datacenter, namespace, partition } = this.#upstream
    const message = await this.#client.query(dns, 'SRV', signal)
    if (message.rcode !== 'NOERROR' && message.rcode !== 'NXDOMAIN') {
      throw new DnsError(this.#client.server, `SRV ${dns}`, `the server returned ${message.rcode}`)
    }
    const records = usable(message.answers.filter(isSrv).filter(({ name }) => isSameName(name, dns)))
    const addresses = await this.#addresses(records, message.additionals, signal)
    const ttls: number[] = []
    const endpoints = records.flatMap((record) => {
      const { target, port, weight = 0 } = record.data
      const address = addresses.get(canonicalName(target))
      if (address === undefined) return []
      ttls.push(seconds(record.ttl), address.ttl)
      const identity = { service, datacenter, namespace, partition }
      return [{ host: address.host, port, weight, identity }]
    })
    log.resolve('%s: %d records, %d of them usable', this.name, message.answers.length, endpoints.length)
    this.#isEmpty = endpoints.length === 0
    const ttl = endpoints.length > 0 ? Math.min(LONGEST_TTL_S, ...ttls) : negativeTtl(message)
    return { value: endpointList(endpoints), ttlMs: ttl * 1_000 }
  }

  /**
   * Returns the address of each target, from the response or by another question. Targets without an address are
   * skipped.
   * @throws DnsError if no target has an address
   */
  async #addresses(
    records: readonly SrvAnswer[],
    additionals: readonly Answer[],
    signal: AbortSignal,
  ): Promise<Map<string, Address>> {
    const found = new Map<string, Address>()
    for (const record of additionals.filter(isAddress)) {
      const name = canonicalName(record.name)
      if (!found.has(name)) found.set(name, { host: record.data, ttl: seconds(record.ttl) })
    }
    const names = [...new Set(records.map(({ data }) => canonicalName(data.target)))]
    const missing = names.filter((name) => !found.has(name))
    let failure: Error | undefined
    const askNext = async (): Promise<void> => {
      for (let name = missing.pop(); name !== undefined; name = missing.pop()) {
        try {
          found.set(name, await this.#askAddress(name, signal))
        } catch (error) {
          if (isAborted(signal)) throw error
          failure = toError(error)
          log.resolve('%s: %s', this.name, failure.message)
        }
      }
    }
    await Promise.all(Array.from({ length: AT_A_TIME }, askNext))
    if (failure !== undefined && !names.some((name) => found.has(name))) throw failure
    return found
  }

  /** Asks the server for an address. @returns the name itself without one */
  async #askAddress(name: string, signal: AbortSignal): Promise<Address> {
    for (const type of ['A', 'AAAA'] as const) {
      const { rcode, answers } = await this.#client.query(name, type, signal)
      const record = answers.filter(isAddress).find((each) => isSameName(each.name, name))
      if (rcode === 'NOERROR' && record !== undefined) return { host: record.data, ttl: seconds(record.ttl) }
    }
    return { host: name, ttl: LONGEST_TTL_S }
  }
}

interface Address {
  readonly host: string
  /** In seconds. */
  readonly ttl: number
}

/** Returns the valid records with the best priority (RFC 2782), up to a limit. */
function usable(records: readonly SrvAnswer[]): SrvAnswer[] {
  // A target of "." means that the service is not available.
  const dialable = records.filter(({ data }) => data.port > 0 && isDnsName(data.target))
  const best = Math.min(...dialable.map(({ data }) => data.priority ?? 0))
  return dialable.filter(({ data }) => (data.priority ?? 0) === best).slice(0, MOST_RECORDS)
}

/** Returns the negative TTL in seconds: the lower of the TTL and the MINIMUM of the SOA, or 0 (RFC 2308, section 5). */
function negativeTtl({ authorities }: DnsMessage): number {
  const soa = authorities.find(isSoa)
  if (soa === undefined) return 0
  return Math.min(LONGEST_NEGATIVE_TTL_S, seconds(soa.ttl), seconds(soa.data.minimum))
}

/** A TTL with its most significant bit set counts as 0 (RFC 2181, section 8). */
function seconds(ttl: number | undefined): number {
  return ttl === undefined || ttl > 0x7fff_ffff ? 0 : ttl
}
