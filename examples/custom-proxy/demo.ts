// Runs an application behind the proxy, and a client that calls it through the mesh, with an embedded agent.
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import * as connect from 'consul-connect'
import { TestAgent } from 'consul-connect/testing'
import { startProxy } from './proxy.js'

await using consul = await TestAgent.start()
const agent = { address: consul.address, env: {} }

const application = createServer((incoming, response) => {
  response.end(`hello, ${String(incoming.headers['x-connect-peer']).split('/').at(-1) ?? ''}`)
}).listen(0, '127.0.0.1')
await once(application, 'listening')

consul.registerService({
  Kind: 'connect-proxy',
  ID: 'shop-proxy',
  Name: 'shop-proxy',
  Address: '127.0.0.1',
  Port: await freePort(),
  Proxy: {
    DestinationServiceName: 'shop',
    LocalServicePort: (application.address() as AddressInfo).port,
  },
})
const proxy = await startProxy('shop-proxy', agent, (line) => {
  console.log(line)
})

{
  await using client = connect.service('till', { agent })
  for (const path of ['/', '/basket?item=3']) {
    const socket = await client.dial('shop')
    // node:http accepts any Duplex as a connection.
    const clientRequest = get({ path, headers: { host: 'shop' }, createConnection: () => socket })
    const [response] = (await once(clientRequest, 'response')) as [IncomingMessage]
    console.log(`response: ${await text(response)}`)
  }
}
await proxy.close()
application.close()

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
