import { X509Certificate, createPrivateKey } from 'node:crypto'
import { OptionError } from '../errors.js'
import {
  DEFAULTS,
  expectBoolean,
  expectDuration,
  expectKeys,
  expectName,
  expectObject,
  expectSecret,
  expectString,
  optional,
} from '../options.js'
import { type AgentAddress, parseAddress } from './address.js'
import { type Environment, agentOptionsFromEnv } from './env.js'

/** How to reach the Consul agent. What is not given here comes from Consul's client environment. */
export interface AgentOptions {
  /**
   * `host`, `host:port`, `http(s)://host[:port][/prefix]` or `unix:///path`.
   * @default CONSUL_HTTP_ADDR, or 127.0.0.1:8500
   */
  readonly address?: string
  /** An ACL token. @default CONSUL_HTTP_TOKEN */
  readonly token?: string
  /** A file with an ACL token, read again for every request. Excludes `token`. @default CONSUL_HTTP_TOKEN_FILE */
  readonly tokenFile?: string
  /** HTTP basic authentication, for a proxy in front of the agent. @default CONSUL_HTTP_AUTH */
  readonly auth?: { readonly username: string; readonly password: string }
  /** TLS towards the agent; has no effect on `http` addresses. */
  readonly tls?: AgentTlsOptions
  /** @default CONSUL_NAMESPACE */
  readonly namespace?: string
  /** @default CONSUL_PARTITION */
  readonly partition?: string
  /** The datacenter that reads go to. @default CONSUL_DATACENTER, or the agent's own */
  readonly datacenter?: string
  /** Bound on a request that does not block, in milliseconds. @default 10000 */
  readonly timeoutMs?: number
  /**
   * The environment to take defaults from.
   * @default process.env
   */
  readonly env?: Environment
}

/** TLS towards the agent's HTTPS API. It has nothing to do with the mesh's own certificates. */
export interface AgentTlsOptions {
  /** PEM of the authorities to trust instead of the system's. @default the files of CONSUL_CACERT or CONSUL_CAPATH */
  readonly ca?: string | readonly string[]
  /** PEM of a client certificate. @default the file CONSUL_CLIENT_CERT */
  readonly cert?: string
  /** PEM of its private key. @default the file CONSUL_CLIENT_KEY */
  readonly key?: string
  /** The name to expect in the agent's certificate. @default CONSUL_TLS_SERVER_NAME, or the address's host */
  readonly serverName?: string
  /** `false` accepts any certificate of the agent: for development only. @default CONSUL_HTTP_SSL_VERIFY, or true */
  readonly verify?: boolean
}

/** Agent options with nothing left to default. */
export interface AgentSettings {
  readonly address: AgentAddress
  readonly token: string | undefined
  readonly tokenFile: string | undefined
  readonly auth: { readonly username: string; readonly password: string } | undefined
  readonly tls: AgentTlsOptions
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly datacenter: string | undefined
  readonly timeoutMs: number
}

const KEYS = [
  'address',
  'token',
  'tokenFile',
  'auth',
  'tls',
  'namespace',
  'partition',
  'datacenter',
  'timeoutMs',
  'env',
]
const TLS_KEYS = ['ca', 'cert', 'key', 'serverName', 'verify']

/**
 * Checks the options and fills in the environment's.
 * @throws OptionError
 */
export function agentSettings(given: AgentOptions = {}): AgentSettings {
  const options = expectObject('agent', given) as AgentOptions
  expectKeys('agent', options, KEYS)
  const { ssl, ...fromEnv } = agentOptionsFromEnv(options.env ?? process.env)
  if (options.token !== undefined && options.tokenFile !== undefined) {
    throw new OptionError('agent.tokenFile', 'either token or tokenFile', 'both')
  }
  const ownToken = options.token !== undefined || options.tokenFile !== undefined
  const tokens = ownToken ? options : fromEnv
  const addressText = optional(expectString)('agent.address', options.address)
  const namespace = optional(expectName)('agent.namespace', options.namespace)
  const partition = optional(expectName)('agent.partition', options.partition)
  const datacenter = optional(expectName)('agent.datacenter', options.datacenter)
  return {
    address: parseAddress(
      addressText === undefined ? 'CONSUL_HTTP_ADDR' : 'agent.address',
      addressText ?? fromEnv.address ?? DEFAULTS.agentAddress,
      ssl === true ? 'https' : 'http',
    ),
    token: optional(expectSecret)('agent.token', tokens.token),
    tokenFile: optional(expectString)('agent.tokenFile', tokens.tokenFile),
    auth: optional(expectAuth)('agent.auth', options.auth ?? fromEnv.auth),
    tls: expectTls({ ...fromEnv.tls, ...optional(expectObject)('agent.tls', options.tls) }),
    namespace: namespace ?? fromEnv.namespace,
    partition: partition ?? fromEnv.partition,
    datacenter: datacenter ?? fromEnv.datacenter,
    timeoutMs: optional(expectDuration)('agent.timeoutMs', options.timeoutMs) ?? DEFAULTS.agentTimeoutMs,
  }
}

function expectAuth(option: string, value: unknown): { username: string; password: string } {
  const { username, password } = expectObject(option, value)
  if (
    typeof username !== 'string' ||
    username === '' ||
    username.includes(':') ||
    typeof password !== 'string'
  ) {
    throw new OptionError(option, '{ username, password } with no colon in the user name', 'something else')
  }
  return { username, password }
}

function expectTls(given: object): AgentTlsOptions {
  expectKeys('agent.tls', given, TLS_KEYS)
  const tls = given as AgentTlsOptions
  optional(expectBoolean)('agent.tls.verify', tls.verify)
  optional(expectString)('agent.tls.serverName', tls.serverName)
  for (const pem of typeof tls.ca === 'string' ? [tls.ca] : (tls.ca ?? [])) {
    parsePem('agent.tls.ca', 'a PEM certificate', () => new X509Certificate(pem))
  }
  if (Array.isArray(tls.ca) && tls.ca.length === 0)
    throw new OptionError('agent.tls.ca', 'a PEM certificate', 'an empty list')
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new OptionError(
      'agent.tls',
      'cert and key together',
      tls.cert === undefined ? 'key alone' : 'cert alone',
    )
  }
  const { cert, key } = tls
  if (cert !== undefined && key !== undefined) {
    const parsed = parsePem('agent.tls.cert', 'a PEM certificate', () => new X509Certificate(cert))
    const parsedKey = parsePem('agent.tls.key', 'a PEM private key', () => createPrivateKey(key))
    if (!parsed.checkPrivateKey(parsedKey)) {
      throw new OptionError('agent.tls.key', 'the private key of agent.tls.cert', 'another key')
    }
  }
  return tls
}

/** Runs a parser over key material; what fails is described without showing the material. */
function parsePem<T>(option: string, expected: string, parse: () => T): T {
  try {
    return parse()
  } catch (cause) {
    throw new OptionError(option, expected, 'something else', { cause })
  }
}

/** Whether two services can share one client: everything that decides what the agent sees is equal. */
export function settingsKey(settings: AgentSettings): string {
  return JSON.stringify(settings, (_key, value: unknown) => (value === undefined ? null : value))
}
