// A node:http server in the mesh. Intentions decide which services may connect; `allowedServices` restricts single routes.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'

const allowedServices: Readonly<Record<string, readonly string[]>> = { '/admin': ['ops'] }

const server = createServer((request, response) => {
  const caller = connect.peer(request.socket)
  const services = allowedServices[request.url?.split('?')[0] ?? '']
  if (caller === undefined || services?.includes(caller.service) === false) {
    response.writeHead(403).end(`forbidden for ${caller?.service ?? 'unknown callers'}`)
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
