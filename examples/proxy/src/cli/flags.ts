import { createRequire } from 'node:module'
import {
  AGENT_FLAGS,
  type FlagValues as Values,
  type Flags,
  LOG_FLAGS,
  flagLines,
  parseFlags as parse,
} from './command-line.js'

/** All flags. Includes those of `consul connect proxy`, with the same meaning. */
export const FLAGS = {
  'proxy-id': {
    type: 'string',
    value: 'ID',
    help: 'follow the configuration of the proxy registered with this ID',
  },
  'sidecar-for': {
    type: 'string',
    value: 'ID',
    help: 'follow the configuration of the proxy registered for this service instance',
  },
  'config-file': {
    type: 'string',
    value: 'FILE',
    help: 'read the configuration from a JSON file; SIGHUP reloads it',
  },
  service: {
    type: 'string',
    value: 'NAME',
    help: 'service that the proxy represents, configured by the flags below',
  },
  'service-addr': { type: 'string', value: '[HOST:]PORT', help: 'address of the application' },
  listen: {
    type: 'string',
    value: '[HOST:]PORT',
    help: 'address of the public listener; requires -service-addr',
  },
  upstream: {
    type: 'string',
    multiple: true,
    value: 'NAME[.service|.query]:[HOST:]PORT[?tag=TAG&near=NODE&filter=EXPRESSION]',
    help: 'local listener for a service or prepared query, or for some of its instances; repeatable',
  },
  register: { type: 'boolean', help: 'register the proxy with the agent while it runs; requires -listen' },
  'register-id': {
    type: 'string',
    value: 'SUFFIX',
    help: 'suffix of the registration ID, for several proxies of a service',
  },
  workers: {
    type: 'string',
    value: 'N|auto',
    help: 'number of processes that carry connections (default 1)',
  },
  'admin-addr': {
    type: 'string',
    value: '[HOST:]PORT',
    help: 'serve /metrics, /health, /ready, and /config; the host defaults to 127.0.0.1 (default off)',
  },
  'ecdh-curve': {
    type: 'string',
    value: 'NAMES',
    help: 'key exchange groups, such as X25519:P-256 (default those of Node.js)',
  },
  mux: {
    type: 'boolean',
    help: 'share sessions with programs of this library, for connections without handshakes (default false)',
  },
  ...LOG_FLAGS,
  'log-level': {
    ...LOG_FLAGS['log-level'],
    help: 'trace, debug, info, warn, or error (default: the level of the agent, or info without agent:read)',
  },
  ...AGENT_FLAGS,
  stale: {
    type: 'boolean',
    help: 'ignored: stale reads are used where they are safe',
  },
  'pprof-addr': {
    type: 'string',
    value: '[HOST:]PORT',
    help: 'ignored: set NODE_OPTIONS=--inspect to profile the proxy',
  },
  version: { type: 'boolean', help: 'print the version and exit' },
  help: { type: 'boolean', help: 'print this help and exit; -h is short for it' },
} as const satisfies Flags

export type FlagName = keyof typeof FLAGS

/** Parsed values of the command line. */
export type FlagValues = Values<typeof FLAGS>

/** @throws UsageError */
export function parseFlags(args: readonly string[]): FlagValues {
  return parse(FLAGS, args)
}

export function versionText(): string {
  const { version } = createRequire(import.meta.url)('../../package.json') as { readonly version: string }
  return `connect-proxy v${version}\n`
}

export function helpText(): string {
  return `${USAGE}\n${flagLines(FLAGS)}`
}

const USAGE = `Usage: connect-proxy [flags]

A sidecar proxy for Consul Connect. It speaks mutual TLS to other services and plain TCP
or Unix sockets to a local application.

  connect-proxy -sidecar-for web
  connect-proxy -service web -upstream db:5432
  connect-proxy -service web -service-addr 127.0.0.1:8080 -listen :8443 -register
  connect-proxy -config-file proxy.json
  connect-proxy decide -help              say what the intentions decide about a request

Environment: Consul's client variables (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...),
CONNECT_PROXY_ID, CONNECT_SIDECAR_FOR, and CONNECT_PROXY_TOKEN.
`
