// A server of node:http in the mesh. Intentions say who may connect; each route may say more.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'

const onlyFor: Readonly<Record<string, readonly string[]>> = { '/admin': ['ops'] }

const server = createServer((request, response) => {
  const caller = connect.peer(request.socket)
  const names = onlyFor[request.url?.split('?')[0] ?? '']
  if (caller === undefined || names?.includes(caller.service) === false) {
    response.writeHead(403).end(`not for ${caller?.service ?? 'strangers'}`)
    return
  }
  response.end(`hello ${caller.service}`)
})

const api = connect.service('api')
const listener = await api.serve(server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(api)
