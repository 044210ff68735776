import { X509Certificate, createPrivateKey } from 'node:crypto'
import { OptionError } from '../base/errors.js'
import {
  DEFAULTS,
  expectAddress,
  expectBoolean,
  expectCount,
  expectDuration,
  expectKeys,
  expectName,
  expectObject,
  expectSecret,
  expectString,
  optional,
} from '../base/validate.js'
import { type AgentAddress, parseAddress } from './address.js'
import { agentOptionsFromEnv } from './env.js'
import type { AgentOptions, AgentTlsOptions } from './options.js'

/** Validated agent options with all defaults applied. */
export interface AgentSettings {
  readonly address: AgentAddress
  readonly dnsAddress: { readonly host: string; readonly port: number }
  readonly token: string | undefined
  readonly tokenFile: string | undefined
  readonly auth: { readonly username: string; readonly password: string } | undefined
  readonly tls: AgentTlsOptions
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly datacenter: string | undefined
  readonly timeoutMs: number
  readonly maxBlockingQueries: number
  readonly waitMs: number
}

const KEYS = [
  'address',
  'dnsAddress',
  'token',
  'tokenFile',
  'auth',
  'tls',
  'namespace',
  'partition',
  'datacenter',
  'timeoutMs',
  'maxBlockingQueries',
  'waitMs',
  'env',
]
const TLS_KEYS = ['ca', 'cert', 'key', 'serverName', 'verify']

/**
 * Validates agent options, and completes them from the environment.
 * @throws OptionError
 */
export function agentSettings(agent: AgentOptions = {}): AgentSettings {
  const options = expectObject('agent', agent) as AgentOptions
  expectKeys('agent', options, KEYS)
  const { ssl, ...fromEnv } = agentOptionsFromEnv(options.env ?? process.env)
  if (options.token !== undefined && options.tokenFile !== undefined) {
    throw new OptionError('agent.tokenFile', 'either token or tokenFile', 'both')
  }
  const ownToken = options.token !== undefined || options.tokenFile !== undefined
  const tokens = ownToken ? options : fromEnv
  const addressText = optional(expectString)('agent.address', options.address)
  const address = parseAddress(
    addressText === undefined ? 'CONSUL_HTTP_ADDR' : 'agent.address',
    addressText ?? fromEnv.address ?? DEFAULTS.agentAddress,
    ssl === true ? 'https' : 'http',
  )
  return {
    address,
    dnsAddress: optional(expectAddress)('agent.dnsAddress', options.dnsAddress) ?? defaultDnsAddress(address),
    token: optional(expectSecret)('agent.token', tokens.token),
    tokenFile: optional(expectString)('agent.tokenFile', tokens.tokenFile),
    auth: optional(expectAuth)('agent.auth', options.auth ?? fromEnv.auth),
    tls: expectTls({ ...fromEnv.tls, ...given(optional(expectObject)('agent.tls', options.tls)) }),
    namespace: optional(expectName)('agent.namespace', options.namespace ?? fromEnv.namespace),
    partition: optional(expectName)('agent.partition', options.partition ?? fromEnv.partition),
    datacenter: optional(expectName)('agent.datacenter', options.datacenter ?? fromEnv.datacenter),
    timeoutMs: optional(expectDuration)('agent.timeoutMs', options.timeoutMs) ?? DEFAULTS.agentTimeoutMs,
    maxBlockingQueries:
      optional(expectCount)('agent.maxBlockingQueries', options.maxBlockingQueries) ??
      DEFAULTS.maxBlockingQueries,
    waitMs: optional(expectWait)('agent.waitMs', options.waitMs) ?? DEFAULTS.watchWaitMs,
  }
}

/** Returns the default address of the DNS interface: the host of the agent, port 8600. */
function defaultDnsAddress({ host, socketPath }: AgentAddress): { host: string; port: number } {
  if (socketPath !== undefined) return { host: '127.0.0.1', port: DEFAULTS.agentDnsPort }
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return { host: name, port: DEFAULTS.agentDnsPort }
}

/** The limits of Consul, which shortens a longer wait without an error. */
const MIN_WAIT_MS = 1_000
const MAX_WAIT_MS = 600_000

function expectWait(option: string, value: unknown): number {
  const waitMs = expectDuration(option, value)
  if (waitMs >= MIN_WAIT_MS && waitMs <= MAX_WAIT_MS) return waitMs
  throw new OptionError(option, `${MIN_WAIT_MS} to ${MAX_WAIT_MS} milliseconds`, `${waitMs}`)
}

function expectAuth(option: string, value: unknown): { username: string; password: string } {
  const { username, password } = expectObject(option, value)
  expectKeys(option, value as object, ['username', 'password'])
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

/** Returns the defined values: an undefined option must not override the environment. */
function given(settings: object = {}): object {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined))
}

function expectTls(settings: object): AgentTlsOptions {
  expectKeys('agent.tls', settings, TLS_KEYS)
  const { ca, cert, key, serverName, verify }: Partial<Record<string, unknown>> = { ...settings }
  const tls: AgentTlsOptions = {
    ...(ca !== undefined && { ca: expectCertificates('agent.tls.ca', ca) }),
    ...(cert !== undefined && { cert: expectString('agent.tls.cert', cert) }),
    ...(key !== undefined && { key: expectSecretText('agent.tls.key', key) }),
    ...(serverName !== undefined && { serverName: expectString('agent.tls.serverName', serverName) }),
    ...(verify !== undefined && { verify: expectBoolean('agent.tls.verify', verify) }),
  }
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new OptionError(
      'agent.tls',
      'cert and key together',
      tls.cert === undefined ? 'key alone' : 'cert alone',
    )
  }
  if (tls.cert !== undefined && tls.key !== undefined) expectPair(tls.cert, tls.key)
  return tls
}

function expectCertificates(option: string, value: unknown): readonly string[] {
  const pems: readonly unknown[] = Array.isArray(value) ? value : [value]
  // With an empty list, Node.js would trust the public web PKI.
  if (pems.length === 0) throw new OptionError(option, 'a PEM certificate', 'an empty list')
  return pems.map((pem) => {
    const text = expectString(option, pem)
    parsePem(option, 'a PEM certificate', () => new X509Certificate(text))
    return text
  })
}

function expectSecretText(option: string, value: unknown): string {
  if (typeof value !== 'string') throw new OptionError(option, 'a PEM private key', `a ${typeof value}`)
  return value
}

function expectPair(cert: string, key: string): void {
  const certificate = parsePem('agent.tls.cert', 'a PEM certificate', () => new X509Certificate(cert))
  const privateKey = parsePem('agent.tls.key', 'a PEM private key', () => createPrivateKey(key))
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new OptionError('agent.tls.key', 'the private key of agent.tls.cert', 'another key')
  }
}

/** Runs a parser on key material. The error does not contain the material. */
function parsePem<T>(option: string, expected: string, parse: () => T): T {
  try {
    return parse()
  } catch (cause) {
    throw new OptionError(option, expected, 'something else', { cause })
  }
}

/** Returns a key that is equal for equal settings: services with the same key share a client. */
export function settingsKey(settings: AgentSettings): string {
  return JSON.stringify(settings, (_key, value: unknown) => (value === undefined ? null : value))
}
