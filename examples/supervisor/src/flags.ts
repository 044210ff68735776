import { createRequire } from 'node:module'
import {
  AGENT_FLAGS,
  type FlagValues as Values,
  type Flags,
  LOG_FLAGS,
  flagLines,
} from 'consul-connect-proxy/command-line'

export const FLAGS = {
  'config-file': {
    type: 'string',
    multiple: true,
    value: 'FILE',
    help: 'configuration file, .json or .hcl; repeatable',
  },
  'config-dir': {
    type: 'string',
    multiple: true,
    value: 'DIR',
    help: 'directory of configuration files, read in lexical order; repeatable',
  },
  'data-dir': {
    type: 'string',
    value: 'DIR',
    help: 'directory for state and logs (default: data_dir of the configuration)',
  },
  dev: {
    type: 'boolean',
    help: 'run without a data directory: proxies stop with the supervisor, and their output is discarded',
  },
  watch: {
    type: 'boolean',
    help: 'reload the configuration when a file changes, as on SIGHUP',
  },
  'admin-addr': {
    type: 'string',
    value: '[HOST:]PORT',
    help: 'serve /metrics, /health, /ready, and /status; HOST defaults to loopback (default: off)',
  },
  'api-addr': {
    type: 'string',
    value: '[HOST:]PORT',
    help: 'accept service registrations by HTTP, as Consul 1.2 did; HOST defaults to loopback (default: off)',
  },
  'proxy-log-bytes': {
    type: 'string',
    value: 'N',
    help: 'size at which the log of a proxy is rotated (default 10485760)',
  },
  'proxy-log-files': {
    type: 'string',
    value: 'N',
    help: 'number of rotated log files to keep (default 3)',
  },
  json: { type: 'boolean', help: 'print JSON (status)' },
  follow: { type: 'boolean', help: 'keep printing new output (logs); also -f' },
  f: { type: 'boolean', help: 'same as -follow' },
  ...LOG_FLAGS,
  ...AGENT_FLAGS,
  version: { type: 'boolean', help: 'print the version' },
  help: { type: 'boolean', help: 'print this help' },
} as const satisfies Flags

export type FlagValues = Values<typeof FLAGS>

export function versionText(): string {
  const { version } = createRequire(import.meta.url)('../package.json') as { readonly version: string }
  return `connect-supervisor v${version}\n`
}

export function helpText(): string {
  return `${USAGE}\n${flagLines(FLAGS)}`
}

const USAGE = `Usage: connect-supervisor [command] [flags]

Managed proxies for Consul Connect: registers the configured services, and runs a proxy for each
service whose definition has connect { proxy { } }.

  connect-supervisor -config-dir /etc/connect.d -data-dir /var/lib/connect
  connect-supervisor check /etc/connect.d      validates files and exits
  connect-supervisor status [-json]            prints the state of all proxies
  connect-supervisor stop ID                   stops a proxy until the next start
  connect-supervisor start ID                  starts a stopped proxy
  connect-supervisor restart ID                replaces the process of a proxy, keeps its registration
  connect-supervisor logs ID [-f]              prints the output of a proxy
  connect-supervisor version

Commands find the running supervisor by -data-dir, or by data_dir of the configuration. Consul's
environment variables (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...) apply.
`
