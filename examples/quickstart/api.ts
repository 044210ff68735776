// The service that is called. It answers each connection with the name of who called.
import type { AddressInfo } from 'node:net'
import * as connect from 'consul-connect'
import { DEMO_MARK } from './consul.js'
import { Narrator } from './story.js'

await using api = connect.service('api')
using narrator = new Narrator(api)
const stop = narrator.command('stop')
api.on('denied', ({ peer, reason }) => {
  narrator.tell({ event: 'denied', who: peer.service, reason })
})
api.on('revoked', ({ peer, reason, ageMs }) => {
  narrator.tell({ event: 'revoked', who: peer.service, reason, ageMs })
})
api.on('rotated', (leaf) => {
  narrator.tell({ event: 'rotated', serial: leaf.serialNumber })
})

const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
  socket.write(`hello ${socket.peer.service}, this is api`)
  // It is the caller who ends.
  socket.resume()
})
const { port } = listener.address() as AddressInfo
const { id } = await api.register({ port, address: '127.0.0.1', meta: { demo: DEMO_MARK } })
narrator.tell({ event: 'ready', who: api.leaf?.uri ?? '', port, id })
await stop
