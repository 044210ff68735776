// A WebSocket client of ws, by the agent of the service.
import { once } from 'node:events'
import * as connect from 'consul-connect'
import { WebSocket } from 'ws'

await using web = connect.service('web')

const socket = new WebSocket('wss://chat.service.consul/', { agent: web.httpAgent() })
await once(socket, 'open')
for (const line of ['hello', 'goodbye']) {
  socket.send(line)
  const [answer] = (await once(socket, 'message')) as [Buffer]
  console.log(answer.toString())
}
socket.close()
await once(socket, 'close')
