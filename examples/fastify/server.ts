// A Fastify application in the mesh.
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import Fastify, { type preHandlerHookHandler } from 'fastify'

declare module 'fastify' {
  interface FastifyRequest {
    peer: connect.Peer | undefined
  }
}

const app = Fastify()

// Adds the verified caller to each request.
app.decorateRequest('peer')
app.addHook('onRequest', (request, _reply, done) => {
  request.peer = connect.peer(request.raw.socket)
  done()
})

/** Restricts a route to these services. Intentions decide which services may connect at all. */
const only =
  (...services: string[]): preHandlerHookHandler =>
  (request, reply, done) => {
    if (services.includes(request.peer?.service ?? '')) done()
    else void reply.code(403).send('forbidden')
  }

app.get('/', (request) => `hello ${request.peer?.service ?? ''}`)
app.get('/admin', { preHandler: only('ops') }, () => 'admin page')

const api = connect.service('api')
await app.ready()
const listener = await api.serve(app.server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
// Leave the mesh first, which drains the connections, then run the onClose hooks of the application. A rejection is unhandled
// and ends the process.
process.once('SIGTERM', () => void api.close().then(() => app.close()))
