// A service that returns 503 once, so that the client has to retry.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'

let requests = 0
let isBusy = true
const server = createServer((request, response) => {
  const caller = connect.peer(request.socket)?.service ?? ''
  requests += 1
  if (request.url === '/busy' && isBusy) {
    isBusy = false
    response.writeHead(503).end('busy')
  } else response.setHeader('content-type', 'application/json').end(JSON.stringify({ caller, requests }))
})

const billing = connect.service('billing')
const listener = await billing.serve(server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await billing.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(billing)
