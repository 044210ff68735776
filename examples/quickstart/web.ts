// The calling service. Calls `api` once at its start, continuously from the command "stream" to "hold", and then keeps one
// connection open.
import { once } from 'node:events'
import * as connect from 'consul-connect'
import { Demo } from './programs.js'

await using web = connect.service('web')
using demo = new Demo(web)
const stop = demo.command('stop')
const hold = demo.command('hold')
const stream = demo.command('stream')
web.on('rotated', (leaf) => {
  demo.send({ event: 'rotated', serial: leaf.serialNumber })
})

async function open(): Promise<{ socket: connect.MeshSocket; answer: string }> {
  const socket = await web.dial('api')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  return { socket, answer: answer.toString() }
}

async function call(): Promise<{ answer: string; spiffeId: string }> {
  const { socket, answer } = await open()
  socket.end()
  await once(socket, 'close')
  return { answer, spiffeId: socket.peer.spiffeId }
}

demo.send({ event: 'answer', ...(await call()) })

const held = hold.then(() => 'hold')
await stream
for (let calls = 1; (await Promise.race([held, call()])) !== 'hold'; calls += 1)
  demo.send({ event: 'called', calls })

const { socket } = await open()
demo.send({ event: 'held' })
// A revoked connection closes with an error.
await once(socket, 'close').catch(() => undefined)
demo.send({ event: 'cut' })
await stop
