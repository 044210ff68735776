// The examples in the doc comments of the library, combined into one program.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

export interface Example {
  /** The function, class, or method with the example. */
  readonly name: string
  readonly text: string
}

const src = join(import.meta.dirname, '..', '..', 'src')
const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))

export const examples: readonly Example[] = files.flatMap((file) => {
  const source = readFileSync(join(src, file), 'utf8')
  return [
    ...source.matchAll(
      /\/\*\*(?:(?!\*\/)[^])*@example\n \s*\* ```ts\n((?:(?!\*\/)[^])*?)\n *\* ```(?:(?!\*\/)[^])*\*\/\n(.*)/g,
    ),
  ].map(([, body = '', declaration = '']): Example => ({
    name:
      /(?:function|const|class|get|async|static)?\s*(?:async )?(\w+)\s*[(:{]/.exec(declaration)?.[1] ??
      declaration,
    text: body.replaceAll(/^ *\* ?/gm, ''),
  }))
})

/** A program that runs every example in a separate function, with common services. */
export function examplesProgram(): string {
  const parts = examples.map(
    ({ name, text }) => `await (async () => {\n${text}\n})()\nconsole.log('done: ${name}')\n`,
  )
  return `${PRELUDE}\n${parts.join('\n')}\n${END}`
}

const PRELUDE = `
import { once } from 'node:events'
import * as http from 'node:http'
import * as https from 'node:https'
import { type AddressInfo, createServer } from 'node:net'
import * as tls from 'node:tls'
import * as connect from 'consul-connect'
import { dialLocal, parseProxyConfig, proxyConfig, pump, relayAgent } from 'consul-connect/proxy'
import { TestAgent, TestCa } from 'consul-connect/testing'
import * as undici from 'undici'
import { interceptors } from 'undici'

const web = connect.service('web')
const api = connect.service('api')
const echo = connect.service('echo')
const front = await api.serve(http.createServer((_request, response) => response.end('hello')), { port: 0 })
await api.register({ port: (front.address() as AddressInfo).port })
const raw = await echo.listen({ port: 0, allowHalfOpen: true }, (socket) => socket.pipe(socket))
await echo.register({ port: (raw.address() as AddressInfo).port })
const consul = connect.consul()
await consul.request({
  method: 'PUT',
  path: '/v1/agent/service/register',
  body: {
    Kind: 'connect-proxy', ID: 'web-proxy', Name: 'web-proxy', Port: 21_000,
    Proxy: { DestinationServiceName: 'web', LocalServicePort: 8_080 },
  },
})
await consul.close()
const local = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => undefined).resume().end('bytes')
}).listen(0, '127.0.0.1')
await once(local, 'listening')
const localPort = (local.address() as AddressInfo).port
`

const END = `
local.close()
await Promise.all([web, api, echo].map((each) => each.close({ drainTimeoutMs: 1_000 })))
`
