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
    help: 'a file of definitions, .json or .hcl; may be repeated',
  },
  'config-dir': {
    type: 'string',
    multiple: true,
    value: 'DIR',
    help: 'a folder of such, read in lexical order; may be repeated',
  },
  'data-dir': {
    type: 'string',
    value: 'DIR',
    help: 'where state and logs are (default data_dir of the configuration)',
  },
  dev: { type: 'boolean', help: 'without a data dir: proxies end with the supervisor, and keep no logs' },
  watch: {
    type: 'boolean',
    help: 'read the configuration again when a file changes; SIGHUP does it as well',
  },
  'admin-addr': {
    type: 'string',
    value: '[HOST]:PORT',
    help: 'serve /metrics, /health, /ready and /status there, on the loopback unless a host is given (default off)',
  },
  'api-addr': {
    type: 'string',
    value: '[HOST]:PORT',
    help: 'take registrations of services by HTTP there, as Consul 1.2 did (default off)',
  },
  'proxy-log-bytes': {
    type: 'string',
    value: 'N',
    help: 'how large a log of a proxy grows before it is put aside (default 10485760)',
  },
  'proxy-log-files': {
    type: 'string',
    value: 'N',
    help: 'how many are kept that were put aside (default 3)',
  },
  json: { type: 'boolean', help: 'of status: print JSON' },
  follow: { type: 'boolean', help: 'of logs: go on with what is written (also -f)' },
  f: { type: 'boolean', help: 'the same' },
  ...LOG_FLAGS,
  ...AGENT_FLAGS,
  version: { type: 'boolean', help: 'print the version' },
  help: { type: 'boolean', help: 'print this text' },
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

Managed proxies for Consul Connect: registers the services of its configuration, and starts,
registers and looks after a proxy for each whose definition has connect { proxy { } }.

  connect-supervisor -config-dir /etc/connect.d -data-dir /var/lib/connect
  connect-supervisor check /etc/connect.d      reports errors in files, and starts nothing
  connect-supervisor status [-json]            lists all proxies
  connect-supervisor stop ID                   stops a proxy until it is started again
  connect-supervisor start ID                  starts a stopped proxy
  connect-supervisor restart ID                replaces the process of a proxy, which stays registered
  connect-supervisor logs ID [-f]              prints the output of a proxy
  connect-supervisor version

The commands find the supervisor by -data-dir, or by the configuration. Consul's client environment
(CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...) applies.
`
