// A member of the mesh like any other, with a certificate of its own. No intention lets it call api.
import * as connect from 'consul-connect'
import { Narrator } from './story.js'

await using intruder = connect.service('intruder')
using narrator = new Narrator(intruder)
try {
  const socket = await intruder.dial('api')
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  narrator.tell({ event: 'answer', answer, who: socket.peer.spiffeId })
} catch (error) {
  if (!(error instanceof connect.DialError)) throw error
  narrator.tell({ event: 'refused', code: error.code, message: error.message })
}
