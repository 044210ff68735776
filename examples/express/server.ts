// An Express application in the mesh.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import express, { type RequestHandler } from 'express'

/** Stores the verified caller in `response.locals`. */
const withPeer: RequestHandler = (request, response, next) => {
  response.locals['peer'] = connect.peer(request.socket)
  next()
}

/** Restricts a route to these services. Intentions decide which services may connect at all. */
const only =
  (...services: string[]): RequestHandler =>
  (request, response, next) => {
    if (services.includes(connect.peer(request.socket)?.service ?? '')) next()
    else response.status(403).send('forbidden')
  }

const app = express()
app.use(withPeer)
app.get('/', (_request, response) => {
  const { service } = response.locals['peer'] as connect.Peer
  response.send(`hello ${service}`)
})
app.get('/admin', only('ops'), (_request, response) => {
  response.send('admin page')
})

const api = connect.service('api')
const listener = await api.serve(createServer(app), { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(api)
