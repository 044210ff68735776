// The service that calls: once when it is asked to, and without a pause from "stream" to "stop".
import * as connect from 'consul-connect'
import { onCommand, tell } from './story.js'

await using web = connect.service('web')
const stop = onCommand('stop')
const stream = onCommand('stream')
web.on('rotated', (leaf) => {
  tell({ event: 'rotated', serial: leaf.serialNumber })
})

async function call(): Promise<{ answer: string; peer: connect.Peer }> {
  const socket = await web.dial('api')
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  return { answer, peer: socket.peer }
}

const { answer, peer } = await call()
tell({ event: 'answer', answer, who: peer.spiffeId })

const stopped = stop.then(() => 'stop')
await stream
for (let calls = 1; (await Promise.race([stopped, call()])) !== 'stop'; calls += 1)
  tell({ event: 'called', calls })
