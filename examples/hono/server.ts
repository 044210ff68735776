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

// Puts the caller on every context.
app.use(async (context, next) => {
  context.set('peer', connect.peer(context.env.incoming.socket))
  await next()
})

/** A route for named services only. Intentions have let the caller in; this says what for. */
const only = (...services: string[]) =>
  createMiddleware<Env>(async (context, next) => {
    const isAllowed = services.includes(context.get('peer')?.service ?? '')
    return isAllowed ? next() : context.text('not for you', 403)
  })

app.get('/', (context) => context.text(`hello ${context.get('peer')?.service ?? ''}`))
app.get('/admin', only('ops'), (context) => context.text('the keys'))

const api = connect.service('api')
const server = createAdaptorServer({ fetch: app.fetch })
const listener = await api.serve(server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(api)
