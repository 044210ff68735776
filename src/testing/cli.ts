#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { TestAgent } from './agent.js'
import type { DefaultPolicy } from './acl.js'

const usage = `Usage: agent [--port N] [--dns-port N|off] [--default allow|deny]

An in-memory Consul agent for development and tests, on the loopback only.

  --port N              port to listen on (default 8500; 0 takes a free one)
  --dns-port N          port for DNS over UDP and TCP (default 8600; 0 takes a free one; off for none)
  --default allow|deny  what holds where no intention matches (default allow)
  --help                this text
`

interface Arguments {
  port: number
  dns?: { port: number }
  defaultPolicy: DefaultPolicy
}

function parseArguments(args: string[]): Arguments | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      port: { type: 'string', default: '8500' },
      'dns-port': { type: 'string', default: '8600' },
      default: { type: 'string', default: 'allow' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return 'help'
  const port = parsePort('--port', values.port)
  const dnsPort = values['dns-port']
  const dns = dnsPort === 'off' ? {} : { dns: { port: parsePort('--dns-port', dnsPort) } }
  if (values.default !== 'allow' && values.default !== 'deny') {
    throw new Error(`--default takes allow or deny, not '${values.default}'`)
  }
  return { port, ...dns, defaultPolicy: values.default }
}

function parsePort(option: string, value: string): number {
  const port = Number(value)
  if (!/^\d+$/.test(value) || port > 65_535) throw new Error(`${option} takes 0 to 65535, not '${value}'`)
  return port
}

async function main(): Promise<void> {
  const options = parseArguments(process.argv.slice(2))
  if (options === 'help') {
    process.stdout.write(usage)
    return
  }
  const agent = await TestAgent.start(options)
  const stop = (): void => {
    void agent.close().then(() => process.exit(0))
  }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  process.stdout.write(`Consul agent on ${agent.url} (trust domain ${agent.trustDomain})\n`)
  if (agent.dnsAddress !== undefined) process.stdout.write(`DNS on ${agent.dnsAddress}\n`)
  process.stdout.write('In memory, for development and tests only. Stop it with Ctrl-C.\n')
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if ('code' in error && error.code === 'EADDRINUSE') {
    const port = 'port' in error ? ` ${String(error.port)}` : ''
    return `port${port} is in use: stop what listens there, or choose another with --port N or --dns-port N`
  }
  if ('code' in error && error.code === 'EACCES')
    return 'the port needs privileges: choose another with --port N'
  return `${error.message.split('\n')[0] ?? ''} (see --help)`
}

main().catch((error: unknown) => {
  process.stderr.write(`agent: ${explain(error)}\n`)
  process.exitCode = 1
})
