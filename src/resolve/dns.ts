import type { Answer, SrvAnswer } from 'dns-packet'
import type { DnsClient } from '../agent/dns.js'
import { type DnsMessage, isAddress, isDnsName, isSameName, isSoa, isSrv } from '../agent/dns-message.js'
import type { Clock } from '../clock.js'
import { DialError, DnsError } from '../errors.js'
import { log } from '../log.js'
import { Lookup, type Timed } from './lookup.js'
import type { Endpoint, ResolveRequest, Resolver } from './resolver.js'
import type { DnsTarget } from './upstream.js'

/** Resolves by SRV records, with the addresses that come along. The records' own TTLs hold, 0 included. */
export class DnsResolver implements Resolver {
  readonly name: string
  readonly #client: DnsClient
  readonly #target: DnsTarget
  readonly #lookup: Lookup<readonly Endpoint[]>

  constructor(client: DnsClient, target: DnsTarget, clock: Clock) {
    this.name = `${target.service} by DNS ${target.dns}`
    this.#client = client
    this.#target = target
    this.#lookup = new Lookup(this.name, clock, (signal) => this.#ask(signal))
  }

  get isIdle(): boolean {
    return this.#lookup.isIdle
  }

  get lastError(): Error | undefined {
    return this.#lookup.lastError
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, DnsError */
  async resolve({ signal, refresh }: ResolveRequest): Promise<readonly Endpoint[]> {
    const endpoints = await this.#lookup.get(signal, refresh)
    if (endpoints.length > 0) return endpoints
    const message = 'the name does not exist, or has no SRV record that can be dialled'
    throw new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason: 'unknown' })
  }

  close(): void {
    this.#lookup.close()
  }

  async #ask(signal: AbortSignal): Promise<Timed<readonly Endpoint[]>> {
    const { dns, service, datacenter, namespace, partition } = this.#target
    const identity = { service, datacenter, namespace, partition }
    const message = await this.#client.query(dns, 'SRV', signal)
    expectSuccess(dns, message)
    const records = usable(message.answers.filter(isSrv).filter(({ name }) => isSameName(name, dns)))
    if (records.length === 0) return { value: [], ttlMs: negativeTtlMs(message) }
    const found = await Promise.all(
      records.map(async (record) => {
        const { host, ttl } = await this.#address(record.data.target, message.additionals, signal)
        const { port, weight = 0 } = record.data
        return { endpoint: { host, port, weight, identity }, ttl: Math.min(record.ttl ?? 0, ttl) }
      }),
    )
    log.resolve('%s: %d records', this.name, found.length)
    const ttl = Math.min(...found.map((each) => each.ttl))
    return { value: Object.freeze(found.map(({ endpoint }) => endpoint)), ttlMs: ttl * 1_000 }
  }

  /** What a target's address is: as it came along, or as the same server says, or else the target as a host name. */
  async #address(
    target: string,
    additionals: readonly Answer[],
    signal: AbortSignal,
  ): Promise<{ host: string; ttl: number }> {
    const along = addressIn(additionals, target)
    if (along !== undefined) return along
    for (const type of ['A', 'AAAA'] as const) {
      const { rcode, answers } = await this.#client.query(target, type, signal)
      const asked = rcode === 'NOERROR' ? addressIn(answers, target) : undefined
      if (asked !== undefined) return asked
    }
    return { host: target.replace(/\.$/, ''), ttl: Infinity }
  }
}

/** Those that say where, of the best priority that there is (RFC 2782). */
function usable(records: readonly SrvAnswer[]): SrvAnswer[] {
  // A target of "." says that the service is decidedly not there.
  const dialable = records.filter(({ data }) => data.port > 0 && isDnsName(data.target))
  const best = Math.min(...dialable.map(({ data }) => data.priority ?? 0))
  return dialable.filter(({ data }) => (data.priority ?? 0) === best)
}

function addressIn(records: readonly Answer[], name: string): { host: string; ttl: number } | undefined {
  const found = records.filter(isAddress).find((record) => isSameName(record.name, name))
  return found === undefined ? undefined : { host: found.data, ttl: found.ttl ?? 0 }
}

function expectSuccess(name: string, { rcode }: DnsMessage): void {
  if (rcode === 'NOERROR' || rcode === 'NXDOMAIN') return
  throw new DnsError(name, `SRV ${name}`, `the server answered ${rcode}`)
}

/** RFC 2308, section 5: the lesser of the SOA's own TTL and its MINIMUM; without one, nothing is kept. */
function negativeTtlMs({ authorities }: DnsMessage): number {
  const soa = authorities.find(isSoa)
  return soa === undefined ? 0 : Math.min(soa.ttl ?? 0, soa.data.minimum ?? 0) * 1_000
}
