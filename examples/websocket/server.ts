// A WebSocket server in the mesh. Its open connections are closed when an intention changes to deny.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import { WebSocketServer } from 'ws'

const server = createServer()
new WebSocketServer({ server }).on('connection', (socket, request) => {
  const caller = connect.peer(request.socket)?.service ?? ''
  // Without this listener, an invalid frame would end the process.
  socket.on('error', (error) => {
    console.error(caller, error.message)
  })
  socket.on('message', (data) => {
    socket.send(`${caller} said ${(data as Buffer).toString()}`)
  })
})

const chat = connect.service('chat')
const listener = await chat.serve(server, { port: Number(process.env['PORT'] ?? 0) })
const { port } = listener.address() as AddressInfo
await chat.register({ port })
console.log(`ready on port ${port}`)
connect.closeOnSignals(chat)
