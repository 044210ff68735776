// A ws client that connects with the HTTP agent of a service.
import { once } from 'node:events'
import * as connect from 'consul-connect'
import { WebSocket } from 'ws'

await using web = connect.service('web')

const socket = new WebSocket('wss://chat.service.consul/', { agent: web.httpAgent() })
await once(socket, 'open')
for (const line of ['hello', 'goodbye']) {
  socket.send(line)
  const [reply] = (await once(socket, 'message')) as [Buffer]
  console.log(reply.toString())
}
socket.close()
await once(socket, 'close')
