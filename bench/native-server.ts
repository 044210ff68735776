// The server of the native benchmark, a separate process: `native-server.ts <kind> <address of the agent>`.
import { type RequestListener, createServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import { service } from '../src/index.js'
import { tlsMaterial } from '../src/transport/tls-context.js'
import { bareGeneration } from './bare.js'
import { BODY, type Kind } from './native-kinds.js'

const [kind, address = ''] = process.argv.slice(2) as [Kind, string?]
const agent = { address, env: {} }

const application: RequestListener = (_request, response) => {
  response.end(BODY)
}
const loopback = { port: 0, host: '127.0.0.1' }

switch (kind) {
  case 'native': {
    const api = service('native-api', { agent })
    const { port } = (await api.serve(createServer(application), loopback)).address() as AddressInfo
    await api.register({ port, address: loopback.host })
    ready(port)
    break
  }
  case 'node:https': {
    const material = tlsMaterial(await bareGeneration(agent))
    const server = createHttpsServer(
      { ...material, requestCert: true, rejectUnauthorized: true },
      application,
    )
    listen(server)
    break
  }
  case 'Consul proxies':
  case 'Envoy, tcp':
  case 'Envoy, http':
    listen(createServer(application))
    break
}

function listen(server: Server): void {
  server.listen(loopback, () => {
    ready((server.address() as AddressInfo).port)
  })
}

function ready(port: number): void {
  console.log(`ready ${port}`)
}
