// The called service. Answers each connection with the name of the caller.
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import { DEMO_MARK } from './consul.js'
import { Demo } from './programs.js'

await using api = connect.service('api')
using demo = new Demo(api)
const stop = demo.command('stop')
api.on('denied', ({ peer, reason }) => {
  demo.send({ event: 'denied', service: peer.service, reason })
})
api.on('revoked', ({ peer, reason, ageMs }) => {
  demo.send({ event: 'revoked', service: peer.service, reason, ageMs })
})
api.on('rotated', (leaf) => {
  demo.send({ event: 'rotated', serial: leaf.serialNumber })
})

const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
  socket.write(`hello ${socket.peer.service}, this is api`)
  // The caller closes the connection.
  socket.resume()
})
const { port } = listener.address() as AddressInfo
const { id } = await api.register({ port, address: '127.0.0.1', meta: { demo: DEMO_MARK } })
demo.send({ event: 'ready', spiffeId: api.leaf?.uri ?? '', port, id })
await stop
