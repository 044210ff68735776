#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { TestAgent } from './agent.js'
import type { DefaultPolicy } from './acl.js'

const usage = `Usage: agent [--port N] [--default allow|deny]

An in-memory Consul agent for development and tests, on the loopback only.

  --port N              port to listen on (default 8500; 0 takes a free one)
  --default allow|deny  what holds where no intention matches (default allow)
  --help                this text
`

interface Arguments {
  port: number
  defaultPolicy: DefaultPolicy
}

function parseArguments(args: string[]): Arguments | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      port: { type: 'string', default: '8500' },
      default: { type: 'string', default: 'allow' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return 'help'
  const port = Number(values.port)
  if (!/^\d+$/.test(values.port) || port > 65_535)
    throw new Error(`--port takes 0 to 65535, not '${values.port}'`)
  if (values.default !== 'allow' && values.default !== 'deny') {
    throw new Error(`--default takes allow or deny, not '${values.default}'`)
  }
  return { port, defaultPolicy: values.default }
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
  process.stdout.write('In memory, for development and tests only. Stop it with Ctrl-C.\n')
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if ('code' in error && error.code === 'EADDRINUSE') {
    const port = 'port' in error ? ` ${String(error.port)}` : ''
    return `port${port} is in use: stop what listens there, or choose another with --port N`
  }
  if ('code' in error && error.code === 'EACCES')
    return 'the port needs privileges: choose another with --port N'
  return `${error.message.split('\n')[0] ?? ''} (see --help)`
}

main().catch((error: unknown) => {
  process.stderr.write(`agent: ${explain(error)}\n`)
  process.exitCode = 1
})
