// A service with a valid certificate that no intention allows to call `api`.
import * as connect from 'consul-connect'
import { Demo } from './programs.js'

await using intruder = connect.service('intruder')
using demo = new Demo(intruder)
try {
  const socket = await intruder.dial('api')
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  demo.send({ event: 'answer', answer, spiffeId: socket.peer.spiffeId })
} catch (error) {
  if (!(error instanceof connect.DialError)) throw error
  demo.send({ event: 'refused', code: error.code, message: error.message })
}
