// A service that serves its metrics to Prometheus on the loopback address, outside the mesh.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import { expose, observe, registry } from './metrics.js'

observe()
const api = connect.service('api')
expose(api)

const metrics = createServer((_request, response) => {
  void registry.metrics().then((text) => response.setHeader('content-type', registry.contentType).end(text))
})
metrics.listen(Number(process.env['METRICS_PORT'] ?? 0), '127.0.0.1')

const application = createServer((request, response) => {
  response.end(`hello ${connect.peer(request.socket)?.service ?? ''}`)
})
const listener = await api.serve(application, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`metrics at http://127.0.0.1:${(metrics.address() as AddressInfo).port}/metrics`)
console.log(`ready on port ${port}`)
// After closing the service, the signal ends the process, including the metrics server.
connect.closeOnSignals(api)
