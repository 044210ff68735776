// The service that calls: once when it is asked to, without a pause from "stream" to "hold", and then by a connection
// that it keeps open.
import { once } from 'node:events'
import * as connect from 'consul-connect'
import { Narrator } from './story.js'

await using web = connect.service('web')
using narrator = new Narrator(web)
const stop = narrator.command('stop')
const hold = narrator.command('hold')
const stream = narrator.command('stream')
web.on('rotated', (leaf) => {
  narrator.tell({ event: 'rotated', serial: leaf.serialNumber })
})

async function open(): Promise<{ socket: connect.MeshSocket; answer: string }> {
  const socket = await web.dial('api')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  return { socket, answer: answer.toString() }
}

async function call(): Promise<{ answer: string; who: string }> {
  const { socket, answer } = await open()
  socket.end()
  await once(socket, 'close')
  return { answer, who: socket.peer.spiffeId }
}

narrator.tell({ event: 'answer', ...(await call()) })

const held = hold.then(() => 'hold')
await stream
for (let calls = 1; (await Promise.race([held, call()])) !== 'hold'; calls += 1)
  narrator.tell({ event: 'called', calls })

const { socket } = await open()
narrator.tell({ event: 'held' })
// A connection that is cut ends with an error.
await once(socket, 'close').catch(() => undefined)
narrator.tell({ event: 'cut' })
await stop
