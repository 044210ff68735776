import { createRequire } from 'node:module'
import {
  AGENT_FLAGS,
  type FlagValues as Values,
  type Flags,
  LOG_FLAGS,
  flagLines,
  parseFlags as parse,
} from './command-line.js'

/** All flags. Those of `consul connect proxy` mean the same here. */
export const FLAGS = {
  'proxy-id': {
    type: 'string',
    value: 'ID',
    help: 'take the configuration of this proxy from the agent, and follow it',
  },
  'sidecar-for': {
    type: 'string',
    value: 'ID',
    help: 'the same, of the only proxy that is registered for this service instance',
  },
  'config-file': {
    type: 'string',
    value: 'FILE',
    help: 'take the configuration from a JSON file; SIGHUP reads it again',
  },
  service: {
    type: 'string',
    value: 'NAME',
    help: 'the service that the proxy represents, configured by the flags below',
  },
  'service-addr': { type: 'string', value: '[HOST:]PORT', help: 'where its application listens' },
  listen: { type: 'string', value: '[HOST]:PORT', help: 'the public listener; needs -service-addr' },
  upstream: {
    type: 'string',
    multiple: true,
    value: 'NAME[.service|.query]:[HOST:]PORT[?tag=TAG&near=NODE&filter=EXPRESSION]',
    help: 'a local port that leads to a service or a prepared query, or to some of its instances; may be repeated',
  },
  register: { type: 'boolean', help: 'register the proxy with the agent while it runs; needs -listen' },
  'register-id': {
    type: 'string',
    value: 'SUFFIX',
    help: 'distinguishes it from other proxies of the service',
  },
  workers: { type: 'string', value: 'N|auto', help: 'how many processes share the work (default 1)' },
  'admin-addr': {
    type: 'string',
    value: '[HOST]:PORT',
    help: 'serve /metrics, /health, /ready and /config there, on the loopback unless a host is given (default off)',
  },
  'ecdh-curve': {
    type: 'string',
    value: 'NAMES',
    help: 'the groups for the key exchange, such as X25519:P-256 (default those of Node.js)',
  },
  ...LOG_FLAGS,
  'log-level': {
    ...LOG_FLAGS['log-level'],
    help: 'trace, debug, info, warn or error (default: as the agent, or info where it may not be read)',
  },
  ...AGENT_FLAGS,
  stale: {
    type: 'boolean',
    help: 'has no effect: reads are stale where that is safe',
  },
  'pprof-addr': {
    type: 'string',
    value: '[HOST]:PORT',
    help: 'has no effect: NODE_OPTIONS=--inspect profiles a program of Node.js',
  },
  version: { type: 'boolean', help: 'print the version' },
  help: { type: 'boolean', help: 'print this text; -h does the same' },
} as const satisfies Flags

export type FlagName = keyof typeof FLAGS

/** The values on the command line. */
export type FlagValues = Values<typeof FLAGS>

/** @throws UsageError */
export function parseFlags(args: readonly string[]): FlagValues {
  return parse(FLAGS, args)
}

export function versionText(): string {
  const { version } = createRequire(import.meta.url)('../package.json') as { readonly version: string }
  return `connect-proxy v${version}\n`
}

export function helpText(): string {
  return `${USAGE}\n${flagLines(FLAGS)}`
}

const USAGE = `Usage: connect-proxy [flags]

A sidecar proxy for Consul Connect: mutual TLS between processes, plain TCP on the
loopback to a program without Connect.

  connect-proxy -sidecar-for web
  connect-proxy -service web -upstream db:5432
  connect-proxy -service web -service-addr 127.0.0.1:8080 -listen :8443 -register
  connect-proxy -config-file proxy.json

Consul's client environment (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...) applies, and
CONNECT_PROXY_ID, CONNECT_SIDECAR_FOR and CONNECT_PROXY_TOKEN.
`
