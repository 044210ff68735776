import type { ProxyToken } from '../agent/tokens.js'
import type { Json } from '../configuration/parse.js'
import type { ProcessId } from '../process/identity.js'

/** What must be known of a proxy by whoever looks after it next. */
export interface SavedProxy {
  readonly proxyId: string
  readonly serviceId: string
  readonly serviceName: string
  readonly port: number
  readonly token: ProxyToken | undefined
  /** Whether the agent has been told of it, so that it can be started without the agent. */
  readonly isRegistered: boolean
  /** An operator has stopped it, and it stays so. */
  readonly isStopped: boolean
  readonly process: SavedProcess | undefined
}

export interface SavedProcess {
  /** By which it is found when there is no id yet: the start was written down before it was tried. */
  readonly launchId: string
  readonly fingerprint: string
  readonly id: ProcessId | undefined
  readonly path: string
  readonly args: readonly string[]
  readonly directory: string
}

export interface SavedState {
  readonly proxies: readonly SavedProxy[]
  /** The ids of the services that were registered. */
  readonly services: readonly string[]
  /** The accessors of tokens that could not be revoked yet. */
  readonly tokensToRevoke: readonly string[]
  /** Definitions that came by HTTP, and are in no file. */
  readonly requests: readonly Json[]
}

export const EMPTY_STATE: SavedState = { proxies: [], services: [], tokensToRevoke: [], requests: [] }

/** The number that Consul 1.2 to 1.5 wrote. What has another one is of a later supervisor. */
const VERSION = 1

/** The file cannot be understood. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError'
}

/** In the form of Consul's own snapshot, with what that lacked beside it. */
export function formatSnapshot({ proxies, services, tokensToRevoke, requests }: SavedState): string {
  const entries = proxies.map((proxy) => [proxy.proxyId, formatProxy(proxy)])
  const content = {
    Version: VERSION,
    Proxies: Object.fromEntries(entries) as Json,
    Services: services,
    TokensToRevoke: tokensToRevoke,
    Requests: requests,
  }
  return `${JSON.stringify(content)}\n`
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
    IsRegistered: proxy.isRegistered,
    IsStopped: proxy.isStopped,
    StartedAt: process?.id?.startedAt ?? '',
    BootID: process?.id?.bootId ?? '',
    Launch: process?.launchId ?? '',
    Fingerprint: process?.fingerprint ?? '',
  }
}

/** @throws SnapshotError */
export function parseSnapshot(text: string): SavedState {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // Node quotes the text, and there are tokens in it: no cause.
    throw new SnapshotError(
      `it is no JSON (${text.length} characters): it is torn, or something else wrote it`,
    )
  }
  const content = object('the file', parsed)
  if (content['Version'] !== VERSION) {
    const version = JSON.stringify(content['Version'])
    throw new SnapshotError(
      `it has version ${version}, and this supervisor knows version ${VERSION}: a later one wrote it`,
    )
  }
  return {
    proxies: Object.entries(object('Proxies', content['Proxies'])).map(([id, proxy]) =>
      parseProxy(id, proxy),
    ),
    services: strings('Services', content['Services']),
    tokensToRevoke: strings('TokensToRevoke', content['TokensToRevoke']),
    requests: list('Requests', content['Requests']).map((request) => object('Requests', request)),
  }
}

function parseProxy(proxyId: string, value: unknown): SavedProxy {
  const proxy = object(proxyId, value)
  const config = object(`${proxyId}: Config`, proxy['Config'])
  const text = (key: string, from = proxy): string => {
    const found = from[key] ?? ''
    if (typeof found === 'string') return found
    throw new SnapshotError(`${proxyId}: ${key}: expected a string`)
  }
  const number = (key: string, from = proxy): number => {
    const found = from[key] ?? 0
    if (typeof found === 'number' && Number.isSafeInteger(found) && found >= 0) return found
    throw new SnapshotError(`${proxyId}: ${key}: expected a whole number`)
  }
  const flag = (key: string): boolean => {
    const found = proxy[key] ?? false
    if (typeof found === 'boolean') return found
    throw new SnapshotError(`${proxyId}: ${key}: expected true or false`)
  }
  const [pid, startedAt, bootId] = [number('Pid', config), text('StartedAt'), text('BootID')]
  const launchId = text('Launch')
  const secret = text('ProxyToken', config)
  return {
    proxyId,
    serviceId: text('ServiceID') || proxyId.replace(/-proxy$/, ''),
    serviceName: text('ServiceName'),
    port: number('Port'),
    // One that Consul itself gave out is known to it alone.
    token: text('TokenAccessor') === '' ? undefined : { accessor: text('TokenAccessor'), secret },
    isRegistered: flag('IsRegistered'),
    isStopped: flag('IsStopped'),
    process:
      launchId === ''
        ? undefined
        : {
            launchId,
            fingerprint: text('Fingerprint'),
            id: pid === 0 || startedAt === '' ? undefined : { pid, startedAt, bootId },
            path: text('CommandPath', config),
            args: strings(`${proxyId}: CommandArgs`, config['CommandArgs']),
            directory: text('CommandDir', config),
          },
  }
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
