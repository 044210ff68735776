// Programs that use the installed package. Strings, since each is for another module loader or compiler.
import { waitBound } from '../fixtures/bounds.js'

/** Starts an agent and two services, makes a request, and closes everything. Must exit without process.exit(). */
const MESH = `
async function main() {
  // Does not keep the process alive; reports what does.
  setTimeout(() => {
    console.error('still open:', process.getActiveResourcesInfo().join(', '))
    process.exit(1)
  }, ${waitBound(15_000)}).unref()

  const agent = await TestAgent.start()
  const options = { agent: { address: agent.address, env: {} } }
  const api = connect.service('api', options)
  const web = connect.service('web', options)
  const server = createServer((request, response) => {
    response.end('hello ' + connect.peer(request.socket)?.service)
  })
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1' })
  await api.register({ port: listener.address().port, address: '127.0.0.1' })
  const response = await web.fetch('https://api.service.consul/')
  console.log(response.status, await response.text())

  await Promise.all([web.close(), api.close()])
  await agent.close()
}
`

export const ESM = `
import { createServer } from 'node:http'
import * as connect from 'consul-connect'
import { TestAgent } from 'consul-connect/testing'
${MESH}
await main()
console.log('closed')
`

export const COMMONJS = `
const { createServer } = require('node:http')
const connect = require('consul-connect')
const { TestAgent } = require('consul-connect/testing')
${MESH}
main().then(async () => {
  console.log('closed')
  // require() and import() must return the same module.
  const imported = await import('consul-connect')
  console.log(imported.Service === connect.Service ? 'one copy' : 'two copies')
})
`

/** `any`, the type of a module that is not found, is assignable to a number: each expected error proves a type. */
export const TYPESCRIPT = `
import { type Server, createServer } from 'node:http'
import * as connect from 'consul-connect'
import { type Authorizer, ConnectError, type MeshSocket, type Service, service } from 'consul-connect'
import { TestAgent, TestCa, type TestAgentOptions } from 'consul-connect/testing'

const options: TestAgentOptions = { datacenter: 'dc1' }
const onlyWeb: Authorizer = ({ peer }) => ({ authorized: peer.service === 'web', reason: 'only web' })

export async function ask(server: Server = createServer()): Promise<string> {
  await using agent = await TestAgent.start(options)
  await using api: Service = service('api', { agent: { address: agent.address }, authorize: onlyWeb })
  await using web = connect.service('web', { agent: { address: agent.address } })
  const listener = await api.serve(server, { port: 0 })
  const address = listener.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  await api.register({ port: address.port })
  web.on('rotated', (leaf) => leaf.notAfter.getTime())
  const socket: MeshSocket = await web.dial({ service: 'api', tags: ['blue'] })
  socket.end(socket.peer.spiffeId)
  const response = await web.fetch('https://api.service.consul/')
  return response.text()
}

export function code(error: unknown): connect.ErrorCode | undefined {
  return error instanceof ConnectError ? error.code : undefined
}

export function wrong(web: Service): unknown {
  // @ts-expect-error -- a Service
  const aService: number = connect.service('web')
  // @ts-expect-error -- a type of undici
  const aDispatcher: number = web.dispatcher()
  // @ts-expect-error -- a type of Node.js
  const anAgent: number = web.httpAgent()
  // @ts-expect-error -- a MeshStream
  const aStream: number = web.stream('api')
  // @ts-expect-error -- the type of the global fetch
  const aFetch: number = web.fetch
  // @ts-expect-error -- a TestCa
  const aCa: number = TestCa.create()
  // @ts-expect-error -- the events are typed, by eventemitter3
  web.on('rotate', () => undefined)
  return [aService, aDispatcher, anAgent, aStream, aFetch, aCa]
}
`

/** TypeScript that is compiled to CommonJS. */
export const TYPESCRIPT_COMMONJS = `
import connect = require('consul-connect')
import testing = require('consul-connect/testing')

export async function ask(): Promise<string | undefined> {
  const agent: testing.TestAgent = await testing.TestAgent.start()
  const web: connect.Service = connect.service('web', { agent: { address: agent.address } })
  // @ts-expect-error -- a Service
  const wrong: number = web
  return wrong === 0 ? undefined : web.trustDomain
}
`
