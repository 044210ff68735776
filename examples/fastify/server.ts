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

// Puts the caller on every request.
app.decorateRequest('peer')
app.addHook('onRequest', (request, _reply, done) => {
  request.peer = connect.peer(request.raw.socket)
  done()
})

/** A route for named services only. Intentions have let the caller in; this says what for. */
const only =
  (...services: string[]): preHandlerHookHandler =>
  (request, reply, done) => {
    if (services.includes(request.peer?.service ?? '')) done()
    else void reply.code(403).send('not for you')
  }

app.get('/', (request) => `hello ${request.peer?.service ?? ''}`)
app.get('/admin', { preHandler: only('ops') }, () => 'the keys')

const api = connect.service('api')
await app.ready()
const listener = await api.serve(app.server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
// Leave the mesh first, which drains the connections; then close what else the application holds. Not awaited, since this is an
// event listener: a rejection ends the process as an unhandled one.
process.once('SIGTERM', () => void api.close().then(() => app.close()))
