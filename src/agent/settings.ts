import { X509Certificate, createPrivateKey } from 'node:crypto'
import { OptionError } from '../base/errors.js'
import {
  DEFAULTS,
  describe,
  expectAddress,
  expectBoolean,
  expectCount,
  expectDuration,
  expectName,
  expectObject,
  expectSecret,
  expectString,
  optional,
  readOptions,
  withDefault,
} from '../base/options/validate.js'
import { type AgentAddress, parseAddress } from './address.js'
import { agentOptionsFromEnv, defined } from './env.js'
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
  readonly meshGatewayService: string
  readonly timeoutMs: number
  readonly maxBlockingQueries: number
  readonly waitMs: number
}

/** The environment variables of options, for messages. */
const VARIABLES: Readonly<Record<string, string>> = {
  address: 'CONSUL_HTTP_ADDR',
  token: 'CONSUL_HTTP_TOKEN',
  tokenFile: 'CONSUL_HTTP_TOKEN_FILE',
  auth: 'CONSUL_HTTP_AUTH',
  namespace: 'CONSUL_NAMESPACE',
  partition: 'CONSUL_PARTITION',
  datacenter: 'CONSUL_DATACENTER',
}
const TLS_VARIABLES: Readonly<Record<string, string>> = {
  ca: 'CONSUL_CACERT or CONSUL_CAPATH',
  cert: 'CONSUL_CLIENT_CERT',
  key: 'CONSUL_CLIENT_KEY',
  serverName: 'CONSUL_TLS_SERVER_NAME',
}

/**
 * Validates agent options, and completes them from the environment.
 * @throws OptionError
 */
export function agentSettings(agent: AgentOptions = {}): AgentSettings {
  const own = defined(expectObject('agent', agent)) as AgentOptions
  const { ssl, tls, ...fromEnv } = agentOptionsFromEnv(own.env ?? process.env)
  if (own.token !== undefined && own.tokenFile !== undefined) {
    throw new OptionError('agent.tokenFile', 'either token or tokenFile', 'both')
  }
  const hasToken = own.token !== undefined || own.tokenFile !== undefined
  const { token, tokenFile, ...others } = fromEnv
  const given = { ...others, ...(!hasToken && { token, tokenFile }), ...own }
  const expectAgentAddress = (option: string, value: unknown): AgentAddress =>
    parseAddress(
      option,
      expectString(option, value ?? DEFAULTS.agentAddress),
      ssl === true ? 'https' : 'http',
    )
  const checks = {
    address: expectAgentAddress,
    dnsAddress: optional(expectAddress),
    token: optional(expectSecret),
    tokenFile: optional(expectString),
    auth: optional(expectAuth),
    tls: (option: string, value: unknown) =>
      expectTls(option, defined(optional(expectObject)(option, value) ?? {}), tls),
    namespace: optional(expectName),
    partition: optional(expectName),
    datacenter: optional(expectName),
    meshGatewayService: withDefault(expectName, DEFAULTS.meshGatewayService),
    timeoutMs: withDefault<number>(expectDuration, DEFAULTS.agentTimeoutMs),
    maxBlockingQueries: withDefault<number>(expectCount, DEFAULTS.maxBlockingQueries),
    waitMs: withDefault<number>(expectWait, DEFAULTS.watchWaitMs),
    env: () => undefined,
  }
  const { env: _, ...settings } = readOptions(given, checks, 'agent', sourceOf(own, VARIABLES))
  return { ...settings, dnsAddress: settings.dnsAddress ?? defaultDnsAddress(settings.address) }
}

/** Validates the option `agent` of a call. */
export function expectAgent(_option: string, value: unknown): AgentSettings {
  return agentSettings(value as AgentOptions | undefined)
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
  const expectText = (name: string, text: unknown): string => {
    if (typeof text === 'string') return text
    throw new OptionError(name, 'a string', describe(text))
  }
  const { username, password } = readOptions(value, { username: expectText, password: expectText }, option)
  if (username !== '' && !username.includes(':')) return { username, password }
  throw new OptionError(`${option}.username`, 'a non-empty user name without a colon', describe(username))
}

/** Returns a function that names a value by its environment variable, unless the options contain it. */
function sourceOf(own: object, variables: Readonly<Record<string, string>>) {
  return (key: string): string | undefined => (Object.hasOwn(own, key) ? undefined : variables[key])
}

function expectTls(option: string, own: object, fromEnv: AgentTlsOptions | undefined): AgentTlsOptions {
  const { cert, key, ...others } = readOptions(
    { ...fromEnv, ...own },
    {
      ca: optional(expectCertificates),
      cert: optional(expectString),
      key: optional(expectSecretText),
      serverName: optional(expectString),
      verify: optional(expectBoolean),
    },
    option,
    sourceOf(own, TLS_VARIABLES),
  )
  if ((cert === undefined) !== (key === undefined)) {
    throw new OptionError(option, 'cert and key together', cert === undefined ? 'key alone' : 'cert alone')
  }
  if (cert !== undefined && key !== undefined) expectPair(cert, key)
  return defined({ cert, key, ...others })
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
