// A Hono application in the mesh.
import type { AddressInfo } from 'node:net'
import { type HttpBindings, createAdaptorServer } from '@hono/node-server'
import * as connect from 'consul-connect'
import { Hono } from 'hono'
import { createMiddleware } from 'hono/factory'

interface Env {
  Bindings: HttpBindings
  Variables: { peer: connect.Peer | undefined }
}

const app = new Hono<Env>()

// Adds the verified caller to each context.
app.use(async (context, next) => {
  context.set('peer', connect.peer(context.env.incoming.socket))
  await next()
})

/** Restricts a route to these services. Intentions decide which services may connect at all. */
const only = (...services: string[]) =>
  createMiddleware<Env>(async (context, next) => {
    const isAllowed = services.includes(context.get('peer')?.service ?? '')
    return isAllowed ? next() : context.text('forbidden', 403)
  })

app.get('/', (context) => context.text(`hello ${context.get('peer')?.service ?? ''}`))
app.get('/admin', only('ops'), (context) => context.text('admin page'))

const api = connect.service('api')
const server = createAdaptorServer({ fetch: app.fetch })
const listener = await api.serve(server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(api)
