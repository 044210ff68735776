// An Express application in the mesh.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import express, { type RequestHandler } from 'express'

/** Puts the caller where every handler finds it. */
const withPeer: RequestHandler = (request, response, next) => {
  response.locals['peer'] = connect.peer(request.socket)
  next()
}

/** A route for named services only. Intentions have let the caller in; this says what for. */
const only =
  (...services: string[]): RequestHandler =>
  (request, response, next) => {
    if (services.includes(connect.peer(request.socket)?.service ?? '')) next()
    else response.status(403).send('not for you')
  }

const app = express()
app.use(withPeer)
app.get('/', (_request, response) => {
  const { service } = response.locals['peer'] as connect.Peer
  response.send(`hello ${service}`)
})
app.get('/admin', only('ops'), (_request, response) => {
  response.send('the keys')
})

const api = connect.service('api')
const listener = await api.serve(createServer(app), { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await api.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(api)
