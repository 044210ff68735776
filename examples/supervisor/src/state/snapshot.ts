import type { ProxyToken } from '../agent/tokens.js'
import type { Sender } from '../configuration/definition.js'
import type { Json } from '../configuration/parse.js'
import type { ProcessId } from '../process/identity.js'

/** State of one proxy that the next supervisor needs. */
export interface SavedProxy {
  readonly proxyId: string
  readonly serviceId: string
  readonly serviceName: string
  readonly port: number
  readonly token: ProxyToken | undefined
  /** Credentials with which the proxy was registered. */
  readonly sender: Sender
  /** Drain timeout, in milliseconds; undefined in a file of an earlier version. */
  readonly drainTimeoutMs: number | undefined
  /** Fingerprint of the last registration. */
  readonly sent: string | undefined
  /** Whether the proxy is registered, so that it can be started while the agent is unreachable. */
  readonly isRegistered: boolean
  /** Whether an operator stopped the proxy. */
  readonly isStopped: boolean
  readonly process: SavedProcess | undefined
}

export interface SavedProcess {
  /** Identifies the process before its pid is saved: the launch id is saved before the start. */
  readonly launchId: string
  readonly fingerprint: string
  readonly id: ProcessId | undefined
  readonly path: string
  readonly args: readonly string[]
  readonly directory: string
}

export interface SavedState {
  readonly proxies: readonly SavedProxy[]
  /** Services that were registered. */
  readonly services: readonly SavedService[]
  /** Accessors of tokens that still have to be revoked. */
  readonly tokensToRevoke: readonly string[]
  /** Definitions that were registered by HTTP and are in no configuration file. */
  readonly requests: readonly Json[]
}

export interface SavedService {
  readonly id: string
  readonly sender: Sender
  readonly sent: string | undefined
}

export const EMPTY_STATE: SavedState = { proxies: [], services: [], tokensToRevoke: [], requests: [] }

/** The version that Consul 1.2 to 1.5 wrote. A later supervisor writes another one. */
const VERSION = 1

/** Maximum length of a value in a message. */
const MAX_SHOWN = 255

/** The file is not a valid snapshot. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError'
}

/** Formats the state as a Consul snapshot with additional fields. */
export function formatSnapshot({ proxies, services, tokensToRevoke, requests }: SavedState): string {
  const entries = proxies.map((proxy) => [proxy.proxyId, formatProxy(proxy)])
  const content = {
    Version: VERSION,
    Proxies: Object.fromEntries(entries) as Json,
    Services: services.map(({ id, sender, sent }) => ({ ID: id, ...formatSender(sender), Sent: sent ?? '' })),
    TokensToRevoke: tokensToRevoke,
    Requests: requests,
  }
  return `${JSON.stringify(content)}\n`
}

function formatSender({ token, isForeign }: Sender): Json {
  return { Token: token ?? '', IsForeign: isForeign }
}

function formatProxy({ process, token, ...proxy }: SavedProxy): Json {
  return {
    Mode: 'daemon',
    Config: {
      Pid: process?.id?.pid ?? 0,
      CommandPath: process?.path ?? '',
      CommandArgs: process?.args ?? [],
      CommandDir: process?.directory ?? '',
      ProxyToken: token?.secret ?? '',
      ProxyID: proxy.proxyId,
    },
    ServiceID: proxy.serviceId,
    ServiceName: proxy.serviceName,
    Port: proxy.port,
    TokenAccessor: token?.accessor ?? '',
    TokenService: token?.service ?? '',
    TokenIsMade: token?.isCreated ?? false,
    ...formatSender(proxy.sender),
    DrainTimeoutMs: proxy.drainTimeoutMs ?? 0,
    Sent: proxy.sent ?? '',
    IsRegistered: proxy.isRegistered,
    IsStopped: proxy.isStopped,
    StartedAt: process?.id?.startedAt ?? '',
    BootID: process?.id?.bootId ?? '',
    Launch: process?.launchId ?? '',
    Fingerprint: process?.fingerprint ?? '',
  }
}

/**
 * Parses a snapshot.
 * @throws SnapshotError
 */
export function parseSnapshot(text: string): SavedState {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // The error of JSON.parse quotes the text, which contains tokens, so it is not the cause.
    throw new SnapshotError(
      `not valid JSON (${text.length} characters): the file is truncated, or another program wrote it`,
    )
  }
  const content = object('the file', parsed)
  if (content['Version'] !== VERSION) {
    const version = formatValue(content['Version'])
    throw new SnapshotError(
      `unsupported version ${version} (this supervisor supports ${VERSION}); a later version wrote the file`,
    )
  }
  return {
    proxies: Object.entries(object('Proxies', content['Proxies'])).map(([id, proxy]) =>
      parseProxy(id, proxy),
    ),
    services: list('Services', content['Services']).map(parseService),
    tokensToRevoke: strings('TokensToRevoke', content['TokensToRevoke']),
    requests: list('Requests', content['Requests']).map((request) => object('Requests', request)),
  }
}

function parseService(value: unknown): SavedService {
  const service = reader('Services', value)
  return { id: service.text('ID'), sender: senderOf(service), sent: service.text('Sent') || undefined }
}

function senderOf(from: Reader): Sender {
  return { token: from.text('Token') || undefined, isForeign: from.flag('IsForeign') }
}

function parseProxy(proxyId: string, value: unknown): SavedProxy {
  const place = proxyId.slice(0, MAX_SHOWN)
  const proxy = reader(place, value)
  const config = reader(`${place}: Config`, proxy.content['Config'])
  const [pid, startedAt, bootId] = [config.number('Pid'), proxy.text('StartedAt'), proxy.text('BootID')]
  const launchId = proxy.text('Launch')
  const accessor = proxy.text('TokenAccessor')
  const secret = config.text('ProxyToken')
  return {
    proxyId,
    serviceId: proxy.text('ServiceID') || proxyId.replace(/-proxy$/, ''),
    serviceName: proxy.text('ServiceName'),
    port: proxy.number('Port'),
    // A token without an accessor was created by Consul's own agent and is unknown to the ACL system.
    token:
      accessor === ''
        ? undefined
        : { accessor, secret, service: proxy.text('TokenService'), isCreated: proxy.flag('TokenIsMade') },
    sender: senderOf(proxy),
    drainTimeoutMs: proxy.duration('DrainTimeoutMs'),
    sent: proxy.text('Sent') || undefined,
    isRegistered: proxy.flag('IsRegistered'),
    isStopped: proxy.flag('IsStopped'),
    process:
      launchId === ''
        ? undefined
        : {
            launchId,
            fingerprint: proxy.text('Fingerprint'),
            id: pid === 0 || startedAt === '' ? undefined : { pid, startedAt, bootId },
            path: config.text('CommandPath'),
            args: strings(`${proxyId}: CommandArgs`, config.content['CommandArgs']),
            directory: config.text('CommandDir'),
          },
  }
}

/** Reads the fields of an object. A missing field has an empty value. */
interface Reader {
  readonly content: Json
  text(key: string): string
  number(key: string): number
  flag(key: string): boolean
  /** In milliseconds; undefined for 0 or a missing field. */
  duration(key: string): number | undefined
}

function reader(place: string, value: unknown): Reader {
  const content = object(place, value)
  return {
    content,
    text: (key) => {
      const found = content[key] ?? ''
      if (typeof found === 'string') return found
      throw new SnapshotError(`${place}: ${key}: expected a string`)
    },
    number: (key) => {
      const found = content[key] ?? 0
      if (typeof found === 'number' && Number.isSafeInteger(found) && found >= 0) return found
      throw new SnapshotError(`${place}: ${key}: expected a non-negative integer`)
    },
    duration: (key) => {
      const found = content[key] ?? 0
      if (typeof found === 'number' && Number.isFinite(found) && found >= 0) return found || undefined
      throw new SnapshotError(`${place}: ${key}: expected a number of milliseconds`)
    },
    flag: (key) => {
      const found = content[key] ?? false
      if (typeof found === 'boolean') return found
      throw new SnapshotError(`${place}: ${key}: expected true or false`)
    },
  }
}

/** Formats a value for a message. Hides other types, whose content may be secret. */
function formatValue(value: unknown): string {
  if (typeof value === 'number') return String(value)
  return typeof value === 'string' ? JSON.stringify(value.slice(0, MAX_SHOWN)) : typeof value
}

function object(place: string, value: unknown): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw new SnapshotError(`${place}: expected an object`)
}

function list(place: string, value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return []
  if (Array.isArray(value)) return value
  throw new SnapshotError(`${place}: expected a list`)
}

function strings(place: string, value: unknown): readonly string[] {
  const items = list(place, value)
  if (items.every((item) => typeof item === 'string')) return items
  throw new SnapshotError(`${place}: expected a list of strings`)
}
