#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { expectPort } from '../base/options/validate.js'
import { TestAgent } from './agent.js'
import type { TestAgentOptions } from './options.js'

const USAGE = `Usage: agent [--port N] [--dns-port N|off] [--default allow|deny]

Runs an in-memory Consul agent for development and tests, on loopback only.

  --port N              port of the HTTP API (default 8500; 0 selects a free port)
  --dns-port N          UDP port of DNS (default 8600; 0 selects a free port; off disables DNS)
  --default allow|deny  what applies where no intention matches (default allow)
  --help                print this text
`

/** Parses the command line. Returns undefined for `--help`. */
function parseOptions(args: string[]): TestAgentOptions | undefined {
  const { values } = parseArgs({
    args,
    options: {
      port: { type: 'string', default: '8500' },
      'dns-port': { type: 'string', default: '8600' },
      default: { type: 'string', default: 'allow' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return undefined
  const { default: defaultPolicy, 'dns-port': dnsPort } = values
  if (defaultPolicy !== 'allow' && defaultPolicy !== 'deny')
    throw new Error(`--default: expected allow or deny, got ${JSON.stringify(defaultPolicy)}`)
  return {
    port: parsePort('--port', values.port),
    ...(dnsPort !== 'off' && { dns: { port: parsePort('--dns-port', dnsPort) } }),
    defaultPolicy,
  }
}

function parsePort(option: string, value: string): number {
  return expectPort(option, /^\d+$/.test(value) ? Number(value) : value)
}

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2))
  if (!options) {
    process.stdout.write(USAGE)
    return
  }
  const agent = await TestAgent.start(options)
  const stop = (): void => {
    void agent.close().then(() => process.exit(0))
  }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  process.stdout.write(`Consul agent: ${agent.url} (trust domain ${agent.trustDomain})\n`)
  if (agent.dnsAddress !== undefined) process.stdout.write(`DNS: ${agent.dnsAddress}\n`)
  process.stdout.write('In memory, for development and tests only. Press Ctrl-C to stop.\n')
}

function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? error.code : undefined
  if (code === 'EADDRINUSE') {
    const port = 'port' in error ? ` ${String(error.port)}` : ''
    return `port${port}: already in use; stop the program that listens on it, or set --port or --dns-port`
  }
  return `${error.message.split('\n')[0] ?? ''} (see --help)`
}

main().catch((error: unknown) => {
  process.stderr.write(`agent: ${describeError(error)}\n`)
  process.exitCode = 1
})
